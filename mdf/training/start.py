"""The model that a stage begins with."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from mdf.config import Config
from mdf.dialogue import Prompts
from mdf.errors import UserError
from mdf.files import read_json
from mdf.models import checkpoint as saved
from mdf.models import unet_weights, zoo
from mdf.models.checkpoint import read_config
from mdf.models.fusion import PARTS, MDFModel, preprocessing_of
from mdf.models.language import bare, checkpoint_layers, weights_dtype
from mdf.models.photographs import refuse_sizes
from mdf.models.quantization import refuse_missing
from mdf.trained_on import TrainedOn
from mdf.training.launch import yes

# settings of the model's sections that weights do not depend on
FREE = {
    "encoder.image_lr_scale",
    "encoder.image_locked",
    "encoder.text_locked",
    "encoder.layer_decay",
    "encoder.gradient_checkpointing",
    "encoder.mean",  # these four are compared as what they lead to
    "encoder.std",
    "unet.mean",
    "unet.std",
    "unet.encoder_lr_scale",
    "fusion.gate_lr",
    "fusion.gate_init",
    "fusion.zero_output",
    "language.attention",
    "language.lora_dropout",
    "language.gradient_checkpointing",
}


def first_model(cfg: Config, diagnoses: tuple[str, ...], dtype: torch.dtype) -> MDFModel:
    """The model that the first stage begins with: the named bases, or run.start_from's weights."""
    refuse(cfg)
    if not cfg.run.start_from:
        return MDFModel.build(cfg, diagnoses, dtype=dtype)
    if cfg.run.start_parts:
        return with_parts(cfg, diagnoses, dtype)
    trained = read_config(MDFModel.config_class, Path(cfg.run.start_from))
    # over a base that nothing was trained on yet another number of bits is no change; LoRA learnt over 4 or 8 bits can
    # go on over whole weights, which is said, and be merged after that
    whole = cfg.language.quantize == "none"
    bits = cfg.language.quantize if whole or not trained.lora else None
    given = MDFModel.from_pretrained(
        cfg.run.start_from, dtype=weights_dtype(cfg, dtype), quantize=bits, language=of_language(cfg)
    )
    wanted = sections(cfg)
    lora = any(getattr(cfg, stage).parts.language.mode == "lora" for stage in cfg.run.stages)
    had = {part: asdict(section) for part, section in zip(PARTS, given.config.sections(), strict=True)}
    wrong = [line for line in differ(had, wanted) if lora or given.config.lora or not line.startswith("language.lora")]
    refuse_other(cfg, wrong, given.processor.preprocessing.to_dict())
    if lora and not given.config.lora:
        if any(name.startswith("language.") and name not in given.of_base for name, _ in given.named_parameters()):
            raise UserError(
                f"run.start_from: the language model of {cfg.run.start_from} was trained in full; "
                "set the language part's mode to full or frozen"
            )
        model = MDFModel.build(cfg, diagnoses, dtype=dtype)
        for part in ("encoder", "unet", "fusion"):
            getattr(model, part).load_state_dict(getattr(given, part).state_dict())
        model.config.stale_masks = given.config.stale_masks
        model.trained_on = given.trained_on
        return model
    refuse_sizes(cfg, bare(given.language))
    given.config.mdf = wanted
    given.encoder.settle(cfg.encoder)
    if cfg.dialogue.prompts:
        given.processor.prompts = Prompts(Path(cfg.dialogue.prompts))
    given.processor.diagnoses = diagnoses
    given.processor.questions = cfg.dialogue.kinds
    if cfg.language.gradient_checkpointing:
        checkpoint_layers(given.language)
    return given


def with_parts(cfg: Config, diagnoses: tuple[str, ...], dtype: torch.dtype) -> MDFModel:
    """The model of a configuration, whose `run.start_parts` have run.start_from's weights; the rest of that checkpoint,
    its language model too, may be another.
    """
    assert cfg.run.start_from is not None
    folder, parts = Path(cfg.run.start_from), cfg.run.start_parts
    trained = read_config(MDFModel.config_class, folder)
    had = {part: asdict(section) for part, section in zip(PARTS, trained.sections(), strict=True)}  # type: ignore[call-overload]
    shown = {"recipe": None} | read_json(folder / "preprocessing.json")
    of_encoder = ("resize", "recipe") if "encoder" in parts else ()
    seen = {k: v for k, v in shown.items() if k.split("_")[0] in parts or k in of_encoder}
    refuse_other(cfg, differ(had, {part: sections(cfg)[part] for part in parts}), seen)
    model = MDFModel.build(cfg, diagnoses, dtype=dtype)
    given = saved.read_tensors(folder / "model.safetensors")
    wanted = {n: t for n, t in model.state_dict().items() if n.split(".")[0] in parts}
    given = {n: t for n, t in given.items() if n.split(".")[0] in parts}
    saved.refuse(folder, "model.safetensors", sorted(wanted.keys() - given), sorted(given.keys() - wanted))
    saved.refuse_shapes(folder / "model.safetensors", given, wanted)
    model.load_state_dict(given, strict=False)
    model.config.stale_masks = trained.stale_masks and "unet" in parts
    before = TrainedOn.read(folder)
    model.trained_on = before if "unet" in parts else replace(before, masks={})
    return model


def refuse_other(cfg: Config, wrong: list[str], shown: dict[str, Any]) -> None:
    """Raise UserError where settings of run.start_from are others (`wrong`), or its photographs were `shown` otherwise
    than this configuration would.
    """
    if wrong:
        raise UserError(
            f"run.start_from: {cfg.run.start_from} is another model than this configuration's:\n  " + "\n  ".join(wrong)
        )
    expected = preprocessing_of(cfg).to_dict()
    if other := [f"{key}: {shown[key]} there, {expected[key]} here" for key in shown if shown[key] != expected[key]]:
        raise UserError(
            f"run.start_from: {cfg.run.start_from} was shown its photographs in another way than this configuration "
            "would (encoder.weights, mean, std, resize; unet.weights):\n  " + "\n  ".join(other)
        )


def next_model(cfg: Config, checkpoint: Path, dtype: torch.dtype) -> MDFModel:
    """The model of a checkpoint of this run, ready to train on."""
    refuse(cfg)
    model = MDFModel.from_pretrained(checkpoint, dtype=weights_dtype(cfg, dtype), language=of_language(cfg))
    model.encoder.settle(cfg.encoder)
    if cfg.language.gradient_checkpointing:
        checkpoint_layers(model.language)
    return model


def of_language(cfg: Config) -> dict[str, Any]:
    """How the language model trains: no weight depends on it, and it has to be known when it is loaded."""
    return {name: getattr(cfg.language, name) for name in ("attention", "lora_dropout", "gradient_checkpointing")}


def refuse(cfg: Config) -> None:
    """Raise UserError for what this machine or this launch cannot do, before anything is loaded."""
    quantize = cfg.language.quantize
    if quantize != "none":
        refuse_missing(f"language.quantize: {quantize}")
    for stage in cfg.run.stages:
        optimizer = getattr(cfg, stage).optimizer
        if optimizer != "adamw":
            refuse_missing(f"{stage}.optimizer: {optimizer}")
        if optimizer.startswith("paged") and (yes("ACCELERATE_USE_CPU") or not torch.cuda.is_available()):
            raise UserError(
                f"{stage}.optimizer: {optimizer} moves its moments between the memory of a GPU and the host's, and "
                f"this run is on the CPU; set {stage}.optimizer=adamw_8bit, or adamw"
            )


def sections(cfg: Config) -> dict[str, Any]:
    """The model's sections of a configuration as plain values."""
    return {part: asdict(getattr(cfg, part)) for part in PARTS}


def differ(had: dict[str, Any], wanted: dict[str, Any], path: str = "") -> list[str]:
    """Settings on which the shapes or the meaning of weights depend, where they differ."""
    lines = []
    for key, value in wanted.items():
        name, old = f"{path}.{key}".lstrip("."), had.get(key)
        if isinstance(value, dict):
            lines += differ(old or {}, value, name)
        elif key == "weights":
            # pretrained or not decides the kind of normalisation layers; one release is not another of equal shapes
            first, second = release_of(old), release_of(value)
            if bool(old) != bool(value) or (first and second and first != second):
                lines.append(f"{name}: {old!r} there, {value!r} here")
        elif name not in FREE and as_list(old) != as_list(value):
            lines.append(f"{name}: {old!r} there, {value!r} here")
    return lines


def release_of(weights: str | None) -> str | None:
    """The release that `encoder.weights` or `unet.weights` names, without its file; None where it names none."""
    name = (weights or "").partition(":")[0]
    return name if name in zoo.releases() or name in unet_weights.releases() else None


def as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
