"""Frozen weights of the language model in 4 or 8 bits, over which LoRA trains.

nf4 is QLoRA's 4-bit NormalFloat with double quantisation (Dettmers et al. 2023, arXiv 2305.14314), int8 is LLM.int8()
(Dettmers et al. 2022, arXiv 2208.07339), both by bitsandbytes. Only the linear layers of the decoder are quantised:
word embeddings, output head, norms, projectors and vision towers keep the run's precision, and so does what is
computed. LoRA, gates and adapters train in float32 as they do over any other base.
"""

import importlib.util
import json
import logging
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mdf.errors import UserError

BITS = {"nf4": "4-bit", "int8": "8-bit"}
WEIGHTS = {"Params4bit": "nf4", "Int8Params": "int8"}  # classes of bitsandbytes, without importing it
# matched from the start of a layer's name: `vision_model` alone would leave out nothing of `model.vision_model`
KEPT = (r".*lm_head", r".*vision_model", r".*vision_tower", r".*multi_modal_projector")
DECODER = re.compile(r"model\.(language_model\.)?layers\.\d+\.(self_attn|cross_attn|mlp)\.\w+")
# what a quantised layer keeps beside its weight
STATISTICS = re.compile(r"\.(weight\.(nested_)?(absmax|quant_map)|weight\.quant_state\.\w+|SCB|weight_format)$")

# one asks for a package that only makes generation on a CPU faster, the other says at every call that it rounds
for name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
    logging.getLogger(name).setLevel(logging.ERROR)


def refuse_missing(setting: str) -> None:
    """Raise where bitsandbytes is not installed, which `setting` ("language.quantize: nf4") needs."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"{setting} needs bitsandbytes, which is not installed here: pip install bitsandbytes (Linux, Windows), "
            f"or set {setting.partition(':')[0]} to its default"
        )


def options(quantize: str, folder: str | Path, dtype: torch.dtype) -> dict[str, Any]:
    """Keyword arguments of transformers' `from_pretrained` for the base in `folder`; {} for `none`.

    Raises UserError, before anything is loaded, where bitsandbytes is missing or the files are quantised themselves.
    """
    file = Path(folder) / "config.json"
    if "quantization_config" in json.loads(file.read_text(encoding="utf-8")):
        raise UserError(
            f"language.model: the weights in {folder} are quantised already, so that nothing could be merged into them "
            "or compared with them; name the original model, and let language.quantize do it"
        )
    if quantize == "none":
        return {}
    refuse_missing(f"language.quantize: {quantize}")
    from transformers import BitsAndBytesConfig

    chosen: dict[str, Any] = {"load_in_8bit": True}
    if quantize == "nf4":
        chosen = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        chosen["bnb_4bit_compute_dtype"] = dtype
    cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    device = "cpu" if cpu else torch.cuda.current_device()  # a GPU quantises a layer at a time as it is read
    return {
        "quantization_config": BitsAndBytesConfig(**chosen, llm_int8_skip_modules=list(KEPT)),
        "device_map": {"": device},
    }


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """The quantised layers below `model` by name."""
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}  # not peft's wrappers around them
    return {n: m for n, m in linear.items() if type(m.weight).__name__ in WEIGHTS}


def bits(found: dict[str, nn.Module]) -> str:
    """What the weights of quantised layers are, "4-bit (nf4)"."""
    kinds = sorted({WEIGHTS[type(layer.weight).__name__] for layer in found.values()})
    return ", ".join(f"{BITS[kind]} ({kind})" for kind in kinds)


def settle(model: Any) -> Any:
    """A model that was loaded with `options`, ready to train LoRA on; checks that just the decoder is quantised."""
    found = layers(model)
    if not found:
        return model
    decoder = {n for n, m in model.named_modules() if isinstance(m, nn.Linear) and DECODER.fullmatch(n)}
    if odd := found.keys() ^ decoder:
        raise RuntimeError(f"{len(odd)} layers are quantised that should not be, or the reverse: {sorted(odd)[:4]}")
    for layer in found.values():
        # at the first evaluation on a CPU with AVX512-BF16 bitsandbytes would lay 4-bit weights out anew and round
        # their scales; in training they then gave no gradient to anything below them, without an error (0.50)
        layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    return model


def is_statistic(name: str) -> bool:
    """Whether an entry of a state dict is what a quantised layer keeps beside its weight."""
    return STATISTICS.search(name) is not None


def count(parameter: Tensor) -> int:
    """Number of values that a parameter stands for; a 4-bit one holds two in each byte."""
    state = getattr(parameter, "quant_state", None)
    return math.prod(state.shape) if state is not None else parameter.numel()


def unquantized(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Every entry of a language model's state dict in the order of names, LoRA left out; the weights of quantised
    layers as the files hold that they were made from.
    """
    quantised = {f"{name}.weight" for name in layers(model)}
    stored = Stored(Path(model.name_or_path)) if quantised else None
    for name, tensor in sorted(model.state_dict().items()):
        if stored is not None and name in quantised:
            yield name, stored[name]
        elif "lora_" not in name and not (stored is not None and is_statistic(name)):
            yield name, tensor


class Stored:
    """Tensors in the safetensors files of a base by the names that they have in the loaded model."""

    def __init__(self, folder: Path):
        from safetensors import safe_open

        index = folder / "model.safetensors.index.json"
        names = json.loads(index.read_text())["weight_map"].values() if index.is_file() else ["model.safetensors"]
        self.files = [safe_open(folder / name, "pt") for name in sorted(set(names))]
        self.place = {plain(key): (file, key) for file in self.files for key in file.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        file, key = self.place[plain(name)]
        return file.get_tensor(key)


def plain(name: str) -> str:
    """A tensor's name without the wrappers around the decoder, of which files and library versions have different
    ones: language_model.model.layers.0 and model.language_model.layers.0 are one.
    """
    return ".".join(word for word in name.split(".") if word not in ("model", "language_model", "base_layer"))
