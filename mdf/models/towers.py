"""What an encoder is built of: the architecture that its settings lead to, its two towers, and what is said of them."""

import contextlib
import difflib
import io
import json
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from mdf.caption_tokenizer import CaptionTokenizer
from mdf.config import EncoderConfig
from mdf.errors import UserError
from mdf.hub import quick_to_fail
from mdf.models import text_tower, zoo, zoo_towers
from mdf.models.recompute import recompute_layers
from mdf.models.sides import SideHeads
from mdf.models.text_tower import LAYERS, LAYERS_PADDED, TextTower
from mdf.models.weights import text_path

ARCHITECTURES = Path(__file__).parent.parent / "data" / "open_clip"
TEXT_MODELS = ARCHITECTURES.parent / "text_models.yaml"
POOLED = {
    "mean_pooler": "mean of the tokens",
    LAYERS: "mean of three layers' tokens",
    LAYERS_PADDED: "mean of three layers' tokens and padding (what an embedding is depends on its batch)",
}
HUB = "hf-hub:"  # before the name of an architecture that open_clip reads on the hub
KEYS = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "init_logit_bias")


def architecture(name: str) -> dict:
    """The open_clip configuration of `name`: one of mdf/data/open_clip, a JSON file, or a name that open_clip knows."""
    import open_clip

    for path in (ARCHITECTURES / f"{name}.json", Path(name)):
        if path.suffix == ".json" and path.is_file():
            return json.loads(path.read_text())
    try:
        with quick_to_fail() if name.startswith(HUB) else nullcontext():
            config = open_clip.get_model_config(name)
    except Exception as error:  # hf-hub:ID and local-dir:FOLDER are read then and there
        reason = str(error).partition("\n")[0]
        raise UserError(f"encoder.model: {name} could not be read ({type(error).__name__}: {reason})") from error
    if config is None:
        known = open_clip.list_models() + [p.stem for p in ARCHITECTURES.glob("*.json")]
        near = difflib.get_close_matches(name, known, 5)
        raise UserError(
            f"encoder.model: open_clip knows no architecture {name!r}; nearest: {', '.join(near) or 'none'}"
        )
    return config


def resolve(cfg: EncoderConfig, *, at_hand: bool = True) -> dict[str, Any]:
    """The whole architecture that the settings lead to: open_clip's, with `image`, `text` and sizes put in.

    With `at_hand` False the files of a `text` that a recipe names are not looked for (mdf/data/text_models.yaml).

    A text model of transformers is there with its own configuration (text_cfg.hf_config), so that a checkpoint that
    keeps this needs neither the hub nor the folder that the text model came from.
    """
    release, _ = zoo.reference(cfg.weights)
    if cfg.interpolate and release is None:
        raise UserError("encoder.interpolate: is for a released encoder, encoder.weights=NAME:FILE; others follow size")
    config = architecture(cfg.model) if release is None else of_release(release, cfg)
    out = {key: config[key] for key in (*KEYS, "release", "recipe") if key in config}
    out["custom_text"] = bool(config.get("custom_text")) or "hf_model_name" in config["text_cfg"]
    vision, text = dict(config["vision_cfg"]), dict(config["text_cfg"])
    if cfg.image and release is None:
        vision = timm_vision(cfg.image)
    if cfg.size and release is None:
        vision["image_size"] = cfg.size
    vision.setdefault("image_size", 224)
    if release is not None and release.text is not None:
        if "hf_config" in text:
            out["custom_text"] = True
            text["hf_config"] = text_model(text["hf_config"])
            text["hf_tokenizer_name"] = text_path(cfg.text) if cfg.text else text["hf_tokenizer_name"]
    elif cfg.text:
        known = None if at_hand else yaml.safe_load(TEXT_MODELS.read_text()).get(cfg.text)
        folder = cfg.text if known else text_path(cfg.text)
        found = known or text_tower.read_config(folder)
        text = {"hf_config": found, "hf_tokenizer_name": folder, "hf_proj_type": "linear"}
        out["custom_text"] = True
    elif "hf_model_name" in text:
        text["hf_config"] = text_tower.read_config(text["hf_model_name"])
    if cfg.text_pooling:
        if "hf_config" not in text:
            raise UserError(f"encoder.text_pooling: {cfg.text_pooling}, but the text tower of {cfg.model} is no BERT")
        text["hf_pooler_type"] = cfg.text_pooling
    if "hf_config" in text:
        most = text_tower.longest(text["hf_config"])
        if cfg.context_length > most:
            raise UserError(f"encoder.context_length: {cfg.context_length}, but the text tower has {most} positions")
        text.setdefault("context_length", most)
    text.setdefault("context_length", 77)
    if cfg.context_length:
        text["context_length"] = cfg.context_length
    vision.pop("output_tokens", None)
    text.pop("output_tokens", None)
    return out | {"vision_cfg": vision, "text_cfg": text}


def of_release(release: zoo.Release, cfg: EncoderConfig) -> dict[str, Any]:
    """The open_clip configuration of a released encoder; one without a text tower has that of `encoder.model`.

    What it takes to build it again without its file is all in there: its image tower, and its recipe of preprocessing.
    """
    side = cfg.size if cfg.interpolate and cfg.size else release.side
    recipe = dict(release.recipe) | {"side": side}
    if release.recipe.get("shorter"):
        recipe["shorter"] = round(release.recipe["shorter"] * side / release.side)
    if "open_clip" in release.image:
        config = zoo_towers.open_clip_config(release.image)
        config["vision_cfg"]["image_size"] = side
    else:
        vision = {"release": dict(release.image), "image_size": side, "pooled": release.pooled}
        config = {"embed_dim": release.width, "vision_cfg": vision}
    if release.text is None:
        own = architecture(cfg.model)
        text = {k: own[k] for k in ("text_cfg", "custom_text") if k in own}
    elif "open_clip" in release.text:
        own = architecture(release.text["open_clip"])
        changed = {k: v for k, v in release.text.items() if k != "open_clip"}
        kept = ("custom_text", "init_logit_scale", "init_logit_bias", "quick_gelu")
        text = {k: own[k] for k in kept if k in own} | {"text_cfg": own["text_cfg"] | changed}
    else:
        text = {"text_cfg": dict(release.text)}
    return config | text | {"release": release.name, "recipe": recipe}


def text_model(config: Any) -> dict[str, Any]:
    """The configuration of a text model, or of one that mdf/data/text_models.yaml knows by name."""
    return yaml.safe_load(TEXT_MODELS.read_text())[config] if isinstance(config, str) else dict(config)


def settings(cfg: EncoderConfig) -> tuple[tuple[str, int, int], tuple[str, int, int]]:
    """(tower, layers that are locked, rank of LoRA) of both."""
    return ("image", cfg.image_locked, cfg.image_lora), ("text", cfg.text_locked, cfg.text_lora)


def timm_vision(name: str) -> dict[str, Any]:
    """open_clip's vision_cfg of a timm model: its own size and pooling, and a new linear projection without bias."""
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 5)
        raise UserError(f"encoder.image: timm knows no model {name!r}; nearest: {', '.join(near) or 'none'}")
    try:
        known = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{name.partition('.')[0]}.*")]
        raise UserError(f"encoder.image: {error} Tags: {', '.join(tags) or 'none'}") from None
    side = known.input_size[-1] if known is not None else 224
    return {"timm_model_name": name, "timm_pool": "", "timm_proj": "linear", "image_size": side}


def build(config: dict[str, Any], *, pretrained: bool = False) -> Any:
    """open_clip's CLIP or CustomTextCLIP of an architecture, random; `pretrained` takes timm's own weights."""
    import open_clip

    values = {key: config[key] for key in KEYS if key in config}
    released = "release" in values["vision_cfg"]
    if released:  # a placeholder, likewise
        values["vision_cfg"] = {"image_size": 8, "patch_size": 8, "width": 8, "head_width": 8, "layers": 1}
    if pretrained:
        values["vision_cfg"] = values["vision_cfg"] | {"timm_model_pretrained": True}
    text = values["text_cfg"]
    if "hf_config" in text:
        # open_clip's own tower for these cannot be made from a configuration alone for every family: a placeholder
        values["text_cfg"] = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
    made = open_clip.CustomTextCLIP if config["custom_text"] else open_clip.CLIP
    with contextlib.redirect_stdout(io.StringIO()):
        clip = made(**values)
    if "hf_config" in text:
        pool, proj = text.get("hf_pooler_type", "mean_pooler"), text.get("hf_proj_type", "mlp")
        clip.text = TextTower(text["hf_config"], config["embed_dim"], pool, proj)
        if text.get("sides"):
            clip.sides = SideHeads(config["embed_dim"], clip.text.width, proj)
    if released:
        clip.visual = zoo_towers.build(config["vision_cfg"])
    elif hasattr(clip.visual, "trunk"):
        fit_projection(clip.visual)
    return clip


def fit_projection(visual: Any) -> None:
    """Give a timm tower a projection of the width that its trunk pools to, which some widen after the last block."""
    width = getattr(visual.trunk, "head_hidden_size", visual.trunk.num_features)
    proj = getattr(visual.head, "proj", None)
    if isinstance(proj, nn.Linear) and proj.in_features != width:
        visual.head.proj = nn.Linear(width, proj.out_features, bias=proj.bias is not None)


def resize(visual: Any, side: Any) -> None:
    """Let a timm tower with positions take another side; they are interpolated. Others take any, or were built so."""
    side = side[0] if isinstance(side, tuple | list) else side
    if hasattr(visual, "trunk") and not isinstance(visual, zoo_towers.ReleasedTower):  # that was built so
        native = visual.trunk.pretrained_cfg.get("input_size", (3, 0, 0))[-1]
        if hasattr(visual.trunk, "set_input_size") and side != native:
            visual.set_input_size(side)
        visual.image_size = (side, side)


def set_checkpointing(clip: Any, enable: bool, name: str) -> None:
    """Compute the towers' blocks again in the backward pass instead of keeping what they computed (non-reentrant).

    open_clip's ModifiedResNet has no such switch; FundusEncoder does it there.
    """
    if hasattr(clip.visual, "trunk"):
        try:
            clip.visual.trunk.set_grad_checkpointing(enable)
        except (AssertionError, AttributeError, NotImplementedError) as error:
            raise UserError(f"encoder.gradient_checkpointing: the image tower of {name} cannot ({error})") from error
    else:
        clip.visual.set_grad_checkpointing(enable)
    if not hasattr(clip, "text"):
        clip.transformer.grad_checkpointing = enable
    elif isinstance(clip.text, TextTower):
        recompute_layers(clip.text.transformer, enable)
    else:
        clip.text.set_grad_checkpointing(enable)


def captions_of(config: dict[str, Any]) -> CaptionTokenizer:
    """The tokenizer that the text tower of an architecture was made for; nothing is read before it is used."""
    text = config["text_cfg"]
    options = dict(text.get("tokenizer_kwargs") or {})
    if text.get("tokenizer_mode"):
        options["tokenizer_mode"] = text["tokenizer_mode"]
    name = text.get("hf_tokenizer_name")
    trim = "hf_config" in text and not text.get("fixed_length")
    return CaptionTokenizer(text["context_length"], name, trim=trim, **(options if name else {}))


def check_tokenizer(captions: CaptionTokenizer, config: dict[str, Any]) -> None:
    """Read the tokenizer. Raises UserError where its numbers are not those of the text model."""
    tokenizer, text = captions.tokenizer, config["text_cfg"].get("hf_config")
    if text is None:
        return
    pad, size = tokenizer.tokenizer.pad_token_id, len(tokenizer.tokenizer)
    if pad != text["pad_token_id"] or size > text["vocab_size"]:
        raise UserError(
            f"encoder.text: the tokenizer in {captions.source} (padding {pad}, {size} tokens) is not that of the model "
            f"(padding {text['pad_token_id']}, {text['vocab_size']} tokens); restore the folder"
        )


def activation(tower: nn.Module) -> str:
    """The activation that most of a tower's blocks have, as its class is called."""
    places = ("torch.nn.modules.activation", "transformers.activations", "timm.layers.activations")
    names = Counter(
        type(m).__name__
        for m in tower.modules()
        if type(m).__module__.startswith(places) or type(m).__name__ == "QuickGELU"
        if not isinstance(m, nn.MultiheadAttention | nn.Softmax | nn.Sigmoid)
    )
    return names.most_common(1)[0][0] if names else "no activation modules"


def pooling(visual: Any) -> str:
    """How an image tower makes one vector of its patches."""
    if isinstance(visual, zoo_towers.ReleasedTower):
        return visual.pooled or visual.pool
    if hasattr(visual, "trunk"):
        pool = getattr(visual.trunk, "global_pool", "")
        return str(pool if isinstance(pool, str) else getattr(pool, "pool_type", type(pool).__name__)) or "none"
    if hasattr(visual, "attnpool") or visual.attn_pool is not None:
        return "attention"
    return {"tok": "class token", "avg": "avg", "none": "none"}[visual.pool_type]


def text_pooling(clip: Any) -> str:
    """How the text tower makes one vector of its tokens."""
    if isinstance(getattr(clip, "text", None), TextTower):
        return POOLED.get(clip.text.pool, "first token")
    kind = clip.text.pool_type if hasattr(clip, "text") else clip.text_pool_type
    return {"argmax": "end token", "eos": "end token", "last": "last token", "first": "first token"}.get(kind, kind)
