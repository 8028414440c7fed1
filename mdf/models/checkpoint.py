"""A checkpoint directory: written whole, read strictly.

`model.safetensors` holds every parameter and buffer that is not what its named base holds; `adapter/` the LoRA of the
language model in peft's own form; config.json, tokenizer/, preprocessing.json, prompts/; bases.json names the bases
with a fingerprint; trained_on.json knows whom it was trained on without naming them.
"""

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mdf import __version__
from mdf.errors import UserError
from mdf.files import read_json
from mdf.models import quantization
from mdf.models.language import bare, load_language
from mdf.models.quantization import is_statistic
from mdf.processor import MDFProcessor
from mdf.trained_on import TrainedOn

if TYPE_CHECKING:
    from mdf.models.fusion import MDFConfig, MDFModel

SAMPLED = 4096  # values of each base tensor that its fingerprint looks at
BASE = "language"  # folder of the language model in a checkpoint that holds its base (`inside` in bases.json)


def fingerprint(language: Any) -> str:
    """16 hex digits over names, shapes and an even sample of the values of a language model without its LoRA.

    Values are compared in bfloat16, and those of quantised layers as the base's files hold them, so that the same base
    has one fingerprint whether it is loaded in float32, in bfloat16 or in 4 bits.
    """
    model = bare(language)
    if known := getattr(model, "mdf_fingerprint", None):
        return known
    digest = hashlib.sha256()
    for name, tensor in quantization.unquantized(model):
        flat = tensor.detach().flatten()
        values = flat[:: max(1, len(flat) // SAMPLED)].to("cpu", torch.bfloat16)
        digest.update(f"{name.replace('.base_layer', '')}{tuple(tensor.shape)}".encode())
        digest.update(values.view(torch.int16).numpy().tobytes())
    found = digest.hexdigest()[:16]
    if quantization.layers(model):  # which cannot train, and whose files are large
        model.mdf_fingerprint = found
    return found


def own_tensors(model: "MDFModel", state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Everything that goes into model.safetensors: all but what the language base holds and what peft keeps.

    `state` is the model's state dictionary where that is at hand already.
    """
    return {
        name: tensor
        for name, tensor in (model.state_dict() if state is None else state).items()
        if name not in model.of_base
        and not (name.startswith("language.") and ("lora_" in name or tied(model, name) or is_statistic(name)))
    }


def tied(model: "MDFModel", name: str) -> bool:
    """Whether `name` is the output head that shares its tensor with the word embeddings."""
    base = bare(model.language)
    return name.endswith(".lm_head.weight") and base.lm_head.weight is base.get_input_embeddings().weight


def save(model: "MDFModel", folder: Path, state: dict[str, Tensor] | None = None) -> None:
    """Write the checkpoint; every file is synced to the disk. Moving a finished folder into place is the caller's.

    `state` holds what a checkpoint keeps of a model that is sharded over processes, see `mdf.training.sharding`.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    own = own_tensors(model, state)
    save_file({n: t.detach().cpu().contiguous() for n, t in own.items()}, folder / "model.safetensors")
    if model.config.lora:
        lora = None if state is None else {n.removeprefix("language."): t for n, t in state.items() if "lora_" in n}
        model.language.save_pretrained(folder / "adapter", state_dict=lora)
    config = model.config.to_dict()
    config |= {"architectures": ["MDFModel"], "mdf_version": __version__}
    (folder / "config.json").write_text(json.dumps(config, indent=1, default=str))
    model.processor.save_pretrained(folder)
    model.trained_on.write(folder)
    lm = model.config.mdf["language"]
    base = {"name": lm["model"], "revision": lm["revision"], "quantize": lm.get("quantize", "none")}
    if any(n.startswith("language.") for n in model.of_base):
        known = getattr(model, "fingerprint_of_base", None)  # of a base that now lies in shards
        base["fingerprint"] = (known or fingerprint(model.language)) if not language_trained(model) else None
    (folder / "bases.json").write_text(json.dumps({"language": base}, indent=1))
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def language_trained(model: "MDFModel") -> bool:
    """Whether the language model's own weights (not LoRA) have ever trained."""
    return any(
        n.startswith("language.") and "lora_" not in n and n not in model.of_base for n, _ in model.named_parameters()
    )


def refuse(folder: Path, what: str, missing: list[str], extra: list[str]) -> None:
    """Raise with the names that do not fit, if there are any."""
    if missing or extra:
        listed = [f"{len(names)} {kind}: {', '.join(sorted(names)[:8])}{' …' if len(names) > 8 else ''}"
                  for kind, names in (("missing", missing), ("not part of the model", extra)) if names]  # fmt: skip
        raise UserError(
            f"{folder / what} does not fit the model that config.json describes; nothing was loaded. "
            f"{'; '.join(listed)}. "
            "The file is damaged or comes from another configuration: take the checkpoint again from its run"
        )


def refuse_shapes(path: Path, tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raise with the tensors of a file whose shapes are not those of the model, if there are any."""
    wrong = [
        f"{n} {tuple(t.shape)} for {tuple(wanted[n].shape)}" for n, t in tensors.items() if t.shape != wanted[n].shape
    ]
    if wrong:
        raise UserError(
            f"{path}: {len(wrong)} tensors of a wrong shape, nothing was loaded: {'; '.join(wrong[:8])}. "
            "The file is damaged or comes from another configuration: take the checkpoint again from its run"
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or one clear error where it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); take the checkpoint again from its run") from error


def read_config(kind: type["MDFConfig"], folder: Path) -> "MDFConfig":
    """config.json of a checkpoint directory, or one clear error."""
    if folder.is_file():
        raise UserError(
            f"checkpoint {folder}: this is a file, and a checkpoint is a run's folder best/ or last/; the weights of "
            "an encoder are named as encoder.weights"
        )
    if not folder.is_dir():
        raise UserError(f"checkpoint {folder}: no such directory; give a run's best/ or last/ (runs/NAME/best)")
    for name in ("config.json", "model.safetensors", "preprocessing.json", "bases.json"):
        if not (folder / name).is_file():
            hint = "; did you mean its best/?" if (folder / "best").is_dir() else ""
            raise UserError(f"checkpoint {folder}: {name} is missing, so this is no whole mdf checkpoint{hint}")
    values = read_json(folder / "config.json")
    values.pop("model_type", None)
    wrote = values.pop("mdf_version", "0.1.0 or older")
    config = kind(**values)
    try:
        config.sections()
    except (KeyError, TypeError) as error:
        raise UserError(
            f"checkpoint {folder}: config.json, written by mdf {wrote}, does not describe a model of this mdf "
            f"{__version__} ({error}); take the checkpoint again from its run, or read it with the version of mdf that "
            "wrote it"
        ) from None
    return config


def load(
    kind: type["MDFModel"],
    folder: Path,
    dtype: torch.dtype = torch.float32,
    quantize: str | None = None,
    language: dict[str, Any] | None = None,
) -> "MDFModel":
    """The model of a checkpoint directory, its language model quantised as it was trained, or as `quantize` says.

    `language`: settings of the language model to have instead of the checkpoint's, which no weight depends on.
    Raises UserError, loads nothing, where tensors are missing or too many, or the base is another one.
    """
    config = read_config(kind.config_class, folder)
    bases = read_json(folder / "bases.json")
    tensors = read_tensors(folder / "model.safetensors")
    own_language = [n for n in tensors if n.startswith("language.")]
    if not isinstance(bases.get("language"), dict):
        raise UserError(f"{folder / 'bases.json'} names no language model; take the checkpoint again from its run")
    if bases["language"].get("inside"):
        config.mdf["language"]["model"] = str(folder / BASE)
    settle_bits(config, folder, bases["language"].get("quantize", "none"), quantize, trained_in_full=bool(own_language))
    config.mdf["language"] = {**config.mdf["language"], **(language or {})}
    lm = config.sections()[3]
    base, _ = load_language(lm, torch.float32 if own_language else dtype)
    expected = bases["language"].get("fingerprint")
    if expected and fingerprint(base) != expected:
        raise UserError(
            f"language.model {lm.model!r} is not the one this checkpoint was trained on "
            f"(fingerprint {fingerprint(base)}, trained on {expected}); nothing was loaded"
        )
    model = kind(config, language=base, load_bases=False)  # encoder and U-Net are filled from model.safetensors
    if own_language:
        model.of_base = set()
    if config.lora:
        read_lora(model, folder)
    wanted = set(own_tensors(model))
    refuse(folder, "model.safetensors", sorted(wanted - tensors.keys()), sorted(tensors.keys() - wanted))
    refuse_shapes(folder / "model.safetensors", tensors, model.state_dict())
    model.load_state_dict(tensors, strict=False)
    model.processor = MDFProcessor.from_pretrained(folder)
    model.trained_on = TrainedOn.read(folder)
    return model


def settle_bits(config: "MDFConfig", folder: Path, trained: str, asked: str | None, *, trained_in_full: bool) -> None:
    """Have `config` say how the language model is to be quantised: as it was `trained`, or otherwise only where that
    is `asked` for, which is said aloud.
    """
    described = config.sections()[3].quantize
    if described != trained:
        raise UserError(
            f"checkpoint {folder}: config.json says language.quantize {described}, but bases.json that it was trained "
            f"under {trained}. Nothing was loaded; set it back, and ask for another one when loading (quantize=…)"
        )
    if asked is None or asked == trained:
        return
    if asked not in ("none", *quantization.BITS):
        raise UserError(f"quantize: {asked!r} must be one of none, {', '.join(quantization.BITS)}")
    if trained_in_full:
        raise UserError(
            f"checkpoint {folder}: its language model was trained in full, so that no base is left to be loaded as "
            f"{asked}; load it as it is"
        )
    warnings.warn(
        f"{folder} was trained with language.quantize {trained} and is loaded with {asked}, as asked: what was trained "
        "meets other base weights, and its answers may differ from those that were evaluated",
        stacklevel=4,
    )
    config.mdf["language"] = {**config.mdf["language"], "quantize": asked}


def read_lora(model: "MDFModel", folder: Path) -> None:
    """Fill the LoRA tensors from adapter/, every one of them."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    path = folder / "adapter" / "adapter_model.safetensors"
    if not path.is_file():
        raise UserError(f"{path} is missing: config.json says that the language model has a LoRA; nothing was loaded")
    lora = read_tensors(path)
    wanted = get_peft_model_state_dict(model.language)
    refuse(folder / "adapter", path.name, sorted(wanted.keys() - lora.keys()), sorted(lora.keys() - wanted.keys()))
    refuse_shapes(path, lora, wanted)
    set_peft_model_state_dict(model.language, lora)
    check = get_peft_model_state_dict(model.language)
    wrong = [n for n in lora if not torch.equal(check[n].cpu(), lora[n].to(check[n].dtype))]
    if wrong:
        raise UserError(f"{path}: {len(wrong)} LoRA tensors did not reach the model ({wrong[0]} …); nothing was loaded")
    # peft's own view of the model said so; the layers themselves are what answers
    learnt = sum(bool(tensor.any()) for name, tensor in lora.items() if "lora_B" in name)
    active = [p for n, p in model.language.named_parameters() if "lora_B" in n]
    if learnt != (found := sum(bool(parameter.any()) for parameter in active)):
        raise UserError(
            f"{path}: {learnt} LoRA layers have learnt something, but {found} of the model's; nothing was loaded, "
            "since the rest would answer as the base does"
        )
