"""Pretrained weights of an encoder's towers: an open_clip tag or checkpoint, a timm trunk, or timm's own."""

import importlib
from pathlib import Path
from typing import Any

from torch import Tensor

from mdf.config import EncoderConfig
from mdf.errors import UserError
from mdf.hub import quick_to_fail
from mdf.models import towers, zoo, zoo_weights
from mdf.models.text_tower import TextTower
from mdf.models.weights import BUNDLED, fit, read_state, text_path, trunk_state

TIMM = "timm"  # encoder.weights: timm's own of encoder.image
TRUNKS = ("efficientnet-lite0-imagenet", "efficientnet-lite2-imagenet")  # bundled names that fill a timm trunk


def load(clip: Any, cfg: EncoderConfig, config: dict[str, Any]) -> dict[str, Any]:
    """Fill the towers of `clip`, in place; an `encoder.text` always brings its own weights.

    Returns what the architecture is to remember of a release's file. Raises UserError where a tensor of a tower that is
    to be filled is missing, too many or of another shape.
    """
    release, file = zoo.reference(cfg.weights)
    if cfg.text and (release is None or release.text is None):
        clip.text.load(text_path(cfg.text))
    if release is not None and file is not None:
        return {"weights": zoo_weights.load(clip, release, file, interpolate=cfg.interpolate)}
    if cfg.weights is None or cfg.weights == TIMM:  # timm's were loaded as the tower was built
        return {}
    timm_name = config["vision_cfg"].get("timm_model_name")
    if cfg.weights in TRUNKS:
        if timm_name is None:
            raise UserError(f"encoder.weights: {cfg.weights} fills a timm trunk, and {cfg.model} has none")
        clip.visual.trunk.load_state_dict(trunk_state(cfg.weights, timm_name), strict=True)
        return {}
    path = Path(cfg.weights).expanduser()
    if not path.is_file():
        path = fetch_tag(cfg)
    state = {k.removeprefix("module."): v for k, v in read_state(str(path), "encoder.weights").items()}
    if cfg.image and not any(key.startswith("visual.") for key in state):
        towers.resize(clip.visual, config["vision_cfg"]["image_size"])  # first: positions are interpolated once only
        load_trunk(clip.visual.trunk, state, path, cfg.image)
    else:
        load_clip(clip, state, path, cfg)
    return {}


def fetch_tag(cfg: EncoderConfig) -> Path:
    """The file of an open_clip tag, fetched where it is not in the hub's cache."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(cfg.model)
    if cfg.weights in BUNDLED or cfg.weights not in tags:
        raise UserError(
            f"encoder.weights: {cfg.weights!r} is no file and no open_clip tag of {cfg.model} "
            f"(tags: {', '.join(tags) or 'none'})"
        )
    if cfg.image:
        raise UserError(
            f"encoder.weights: {cfg.weights} fills the image tower of {cfg.model}, which encoder.image replaces by "
            f"{cfg.image}; set encoder.weights to timm, a file, or null"
        )
    assert cfg.weights is not None
    check_activation(cfg.model, cfg.weights)
    try:
        with quick_to_fail():
            return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(cfg.model, cfg.weights)))
    except Exception as error:
        raise UserError(
            f"encoder.weights: {cfg.model}/{cfg.weights} could not be fetched ({type(error).__name__}); "
            "on a machine without a model hub put the checkpoint file on disk and give its path as encoder.weights"
        ) from error


def check_activation(model: str, tag: str) -> None:
    """Refuse weights that were trained with QuickGELU on an architecture without, or the reverse.

    They would load without a complaint and be less accurate than they are (open_clip's README, "QuickGELU").
    """
    import open_clip

    def quick(name: str) -> bool:
        return bool((open_clip.get_model_config(name) or {}).get("quick_gelu", False))

    trained = bool(open_clip.get_pretrained_cfg(model, tag).get("quick_gelu", False))
    if trained == quick(model):
        return
    others = (f"{model}-quickgelu", model.removesuffix("-quickgelu"))
    right = [m for m in others if m in open_clip.list_models() and quick(m) == trained]
    advice = f"set encoder.model={right[0]}" if right else "open_clip has no architecture for them"
    raise UserError(
        f"encoder.weights: {tag} was trained with {'QuickGELU' if trained else 'GELU'}, and the architecture "
        f"{model} has {'QuickGELU' if quick(model) else 'GELU'}; {advice}"
    )


def load_trunk(trunk: Any, state: dict[str, Tensor], path: Path, name: str) -> None:
    """Fill a timm trunk from a timm checkpoint, whose classifier is dropped and whose positions are interpolated."""
    adapt = getattr(importlib.import_module(type(trunk).__module__), "checkpoint_filter_fn", None)
    if adapt is not None:
        state = adapt(state, trunk)
    heads = trunk.pretrained_cfg.get("classifier") or "classifier"
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    wanted = trunk.state_dict()
    trunk.load_state_dict(fit(state, wanted, f"encoder.weights '{path}' do not fit '{name}'", heads), strict=True)


def load_clip(clip: Any, state: dict[str, Tensor], path: Path, cfg: EncoderConfig) -> None:
    """Fill both towers, or with `encoder.text` the image tower, from an open_clip checkpoint."""
    from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed

    wanted = clip.state_dict()
    if hasattr(clip, "text"):
        state = convert_to_custom_text_state_dict(state)
    state.pop("text.transformer.embeddings.position_ids", None)  # a buffer that transformers has no longer
    if cfg.text:
        state = {k: v for k, v in state.items() if k.startswith(("visual.", "logit_"))}
        wanted = {k: v for k, v in wanted.items() if not k.startswith("text.")}
    resize_pos_embed(state, clip)
    if not isinstance(getattr(clip, "text", None), TextTower):
        resize_text_pos_embed(state, clip)
    for key in ("logit_scale", "logit_bias"):
        if key in state and key in wanted:
            state[key] = state[key].reshape(wanted[key].shape)
    what = f"encoder.weights: {path} does not fit {cfg.model}, nothing loaded"
    clip.load_state_dict(fit(state, wanted, what, ()), strict=not cfg.text)
