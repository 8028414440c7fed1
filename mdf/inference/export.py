"""A checkpoint that needs no base any more: LoRA merged into the base's weights, checked on real prompts.

The folder is a checkpoint like any other, but its language model lies in `language/`, in transformers' own layout, and
nothing is looked for elsewhere. Nothing is written where a check fails.

Shapes: N answer tokens, V vocabulary.
"""

import gc
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdf.dialogue import SMALL_LESIONS, Turn
from mdf.errors import UserError
from mdf.files import read_json
from mdf.imaging.phantom import draw
from mdf.losses.text import shift
from mdf.models.checkpoint import BASE, fingerprint, read_config, save
from mdf.models.fusion import MDFConfig, MDFModel
from mdf.models.language import bare
from mdf.processor import Inputs
from mdf.tiles import cross_attention_mask
from mdf.training.saving import STATE, write_folder
from mdf.vocabulary import display

# of a checkpoint's files those that an export writes itself or does without
OWN = ("model.safetensors", "config.json", "bases.json", "preprocessing.json", "adapter", STATE, "README.md", BASE)
LARGE = 4e9  # parameters; above this the language model is held in bf16 while it is merged and checked
QUESTIONS, PHOTOGRAPHS, TOKENS = 6, 2, 24  # kinds of question, phantoms and tokens an answer that the check reads
AGREEMENT, DIFFERENCE = 0.95, 0.25  # at least, at most, see Check; SmolLM2 rounded to bf16 measured 0.989 and 0.071
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SHARD = "5GB"


@dataclass(frozen=True)
class Origin:
    """Where the language model of an export comes from; no path of this machine."""

    name: str
    revision: str | None
    fingerprint: str | None  # None where its own weights trained
    lora: int  # rank of the LoRA that was merged; 0 = none
    dtype: str


@dataclass(frozen=True)
class Check:
    """How the export answers beside the checkpoint, token by token of the checkpoint's own answers."""

    tokens: int
    agreement: float  # share of the tokens whose likeliest one is the same
    difference: float  # greatest difference of a logit / standard deviation of the checkpoint's logits

    def __str__(self) -> str:
        return (
            f"{self.tokens} answer tokens, the likeliest is the same in {100 * self.agreement:.1f} %, greatest "
            f"difference of a logit {self.difference:.4f} standard deviations"
        )


def export(
    checkpoint: Path,
    out: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    overwrite: bool = False,
    card: Callable[[MDFModel, Origin, Check], str] | None = None,
    shard: str = SHARD,
    say: Callable[[str], None] = print,
) -> Check:
    """Write the checkpoint with its language model into the folder `out`, whole or not at all.

    Args:
        checkpoint: a checkpoint directory.
        dtype: of the language model's weights in `out`.
        overwrite: whether an earlier export in `out` is replaced.
        card: text of README.md; None = none.
        shard: the largest file of weights in `language/`.
    Raises UserError for a quantised language model, LoRA that learnt nothing or has no place, and answers that differ
    too much from the checkpoint's.
    """
    refuse_target(checkpoint, out, overwrite)
    config = read_config(MDFConfig, checkpoint)
    refuse_quantised(config)
    if not config.lora and (checkpoint / "adapter").exists():
        raise UserError(
            f"{checkpoint}: there is an adapter/, but config.json says that the language model has no LoRA; one of "
            "them is left over. Take the checkpoint again from its run"
        )
    held = torch.bfloat16 if parameters_of(config) > LARGE else torch.float32
    model = MDFModel.from_pretrained(checkpoint, dtype=held)
    source = origin(checkpoint, model, dtype)
    inputs, conversations = questions(model)
    answers = model.generate_answers(inputs, conversations, max_new_tokens=TOKENS)
    before = answer_logits(model, inputs, conversations, answers)
    if source.lora:
        say(f"merged LoRA of rank {source.lora} into {merge(model)} matrices")
    model.language.to(dtype)
    found: list[Check] = []

    def fill(draft: Path) -> None:
        nonlocal model
        write(model, checkpoint, draft, source, shard)
        del model  # two language models need not be in memory at once
        gc.collect()
        again = MDFModel.from_pretrained(draft, dtype=held)
        found.append(compare(before, answer_logits(again, inputs, conversations, answers)))
        refuse_difference(found[0], dtype)
        if card is not None:
            (draft / "README.md").write_text(card(again, source, found[0]), encoding="utf-8")

    write_folder(out, fill)
    return found[0]


def refuse_target(checkpoint: Path, out: Path, overwrite: bool) -> None:
    """Raise where `out` is no place to write to; nothing of the user's is ever replaced but an earlier export."""
    here, there = checkpoint.resolve(), out.resolve()
    if here == there or here.is_relative_to(there) or there.is_relative_to(here):
        raise UserError(f"--out {out}: lies in the checkpoint or holds it; choose another folder")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise UserError(f"--out {out} exists already: choose another folder, or replace an export with --overwrite")
    if not (out / BASE / "config.json").is_file() or not (out / "bases.json").is_file():
        raise UserError(f"--out {out} is no export, and nothing in it will be touched; choose another folder")


def refuse_quantised(config: MDFConfig) -> None:
    """Raise where the LoRA belongs to quantised weights: merged into them it would be rounded away."""
    kind = config.mdf["language"].get("quantize", "none")
    if kind != "none":
        raise UserError(
            f"the language model was trained in {kind} (language.quantize): merging would round its LoRA away, and "
            "merged into unquantised weights it would answer differently from what was validated. Use the checkpoint "
            "as it is, or train on from it with language.quantize=none and export that"
        )


def parameters_of(config: MDFConfig) -> int:
    """Parameters of the language model of a checkpoint, from its configuration alone."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    values = dict(config.language)
    made = AutoConfig.for_model(values.pop("model_type"), **values)
    kind: Any = AutoModelForImageTextToText if hasattr(made, "vision_config") else AutoModelForCausalLM
    with torch.device("meta"):
        return sum(p.numel() for p in kind.from_config(made).parameters())


def origin(checkpoint: Path, model: MDFModel, dtype: torch.dtype) -> Origin:
    """What the language model was before, from the checkpoint's bases.json."""
    base = read_json(checkpoint / "bases.json")["language"]
    rank = model.config.sections()[3].lora_rank if model.config.lora else 0
    name = without_path(str(base.get("name")))
    return Origin(name, base.get("revision"), base.get("fingerprint"), rank, str(dtype).removeprefix("torch."))


def without_path(name: str) -> str:
    """A hub id or bundled name as it is, of a folder or file of this machine only the last part."""
    path = Path(name).expanduser()
    return path.name if path.is_absolute() or path.exists() or name.startswith((".", "~")) else name


def questions(model: MDFModel) -> tuple[Inputs, list[list[Turn]]]:
    """Phantoms and one question of each kind about each of them: a photograph for every conversation."""
    kinds = [asked["ask"][0] for asked in model.processor.prompts.questions.values() if asked.get("ask")][:QUESTIONS]
    words = {"finding": display(SMALL_LESIONS[0]), "diagnosis": display("diabetic_retinopathy")}
    seen = model.processor([draw(seed, 256).image for seed in range(PHOTOGRAPHS)])
    rows = [row for row in range(PHOTOGRAPHS) for _ in kinds]
    turns = [[model.system_turn(), Turn("user", text.format(**words))] for _ in range(PHOTOGRAPHS) for text in kinds]
    return seen.select(rows), turns


@torch.no_grad()
def answer_logits(model: MDFModel, inputs: Inputs, conversations: list[list[Turn]], answers: list[str]) -> list[Tensor]:
    """For each conversation the logits float32 [N,V] from which the tokens of its answer are read."""
    model.eval()
    seen = model.look(inputs)
    found = []
    for row, (turns, answer) in enumerate(zip(conversations, answers, strict=True)):
        encoded = model.processor.encode([*turns, Turn("assistant", answer)])
        ids = torch.tensor([encoded.input_ids])
        own = {k: v for k, v in seen.select([row]).items() if k != "field"}
        if "aspect_ratio_mask" in own:  # of a language model with a vision tower of its own
            own["cross_attention_mask"] = cross_attention_mask(
                ids, model.processor.image_token_id, own["aspect_ratio_mask"]
            )
        out = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            prompt_mask=torch.tensor([encoded.prompt_mask]),
            keep=shift(torch.tensor([encoded.labels]))[0],
            **own,
        )
        found.append(out.logits.float())
    return found


def compare(before: list[Tensor], after: list[Tensor]) -> Check:
    """The check of two models' logits for the same answers."""
    a, b = torch.cat(before), torch.cat(after)
    same = (a.argmax(-1) == b.argmax(-1)).float().mean()
    return Check(len(a), float(same), float((a - b).abs().max() / a.std()))


def refuse_difference(check: Check, dtype: torch.dtype) -> None:
    """Raise where the export does not answer as the checkpoint does."""
    if check.agreement < AGREEMENT or not check.difference <= DIFFERENCE:
        finer = "; try --dtype fp32" if dtype == torch.bfloat16 else ""
        raise UserError(
            f"the export would not answer as the checkpoint does ({check}; allowed: at least {100 * AGREEMENT:g} % "
            f"and at most {DIFFERENCE}); nothing was written{finer}"
        )


def merge(model: MDFModel) -> int:
    """Make plain weights of the language model's LoRA, in place; returns how many matrices it changed.

    Raises UserError where a matrix is quantised, where none learnt anything, or where one is not the sum of base and
    LoRA afterwards.
    """
    from peft.tuners.lora import LoraLayer

    layers = {name: module for name, module in model.language.named_modules() if isinstance(module, LoraLayer)}
    if not any(float(b.weight.abs().max()) > 0 for layer in layers.values() for b in layer.lora_B.values()):
        raise UserError(
            f"none of the {len(layers)} LoRA matrices has learnt anything (B is 0): the export would be the base "
            "model. Export a checkpoint of after the stage that trains the language model"
        )
    with torch.no_grad():
        for name, layer in layers.items():
            weight = layer.get_base_layer().weight
            if not weight.is_floating_point():
                raise UserError(
                    f"{name} holds {weight.dtype}, quantised weights; LoRA is merged into bf16 or fp32 alone"
                )
            delta = torch.stack([layer.get_delta_weight(adapter) for adapter in layer.active_adapters]).sum(0).float()
            wanted = weight.float() + delta
            layer.merge(safe_merge=True)
            # the sum, and before it the addend, are rounded once each
            allowed = torch.finfo(weight.dtype).eps * (wanted.abs() + delta.abs())
            if ((layer.get_base_layer().weight.float() - wanted).abs() > allowed).any():
                raise UserError(f"{name}: the merged weights are not the sum of base and LoRA; nothing was written")
    model.language = model.language.unload()  # LoRA's modules, whose sums stay
    model.config.lora = False
    if left := [name for name, _ in model.language.named_parameters() if "lora_" in name]:
        raise UserError(f"{len(left)} LoRA tensors were not merged ({left[0]} …); nothing was written")
    return len(layers)


def write(model: MDFModel, checkpoint: Path, draft: Path, source: Origin, shard: str) -> None:
    """Fill the folder `draft` with everything but the card."""
    model.of_base = {f"language.{name}" for name, _ in model.language.named_parameters()}
    model.config.mdf = anonymous(model.config.mdf)
    model.config.mdf["language"] |= {"model": BASE, "revision": None}
    model.config.language.pop("_name_or_path", None)
    save(model, draft)
    language = bare(model.language)
    language.save_pretrained(draft / BASE, max_shard_size=shard)
    model.processor.tokenizer.save_pretrained(draft / BASE)
    if model.processor.image_processor is not None:
        model.processor.image_processor.save_pretrained(draft / BASE)
    base = {
        "name": BASE,
        "revision": None,
        "inside": True,
        "fingerprint": fingerprint(language),
        "from": asdict(source),
    }
    (draft / "bases.json").write_text(json.dumps({"language": base}, indent=1))
    for path in checkpoint.iterdir():  # thresholds and whatever else belongs to it
        if path.name not in OWN and not (draft / path.name).exists():
            copy = shutil.copytree if path.is_dir() else shutil.copyfile
            copy(path, draft / path.name)


def anonymous(value: Any) -> Any:
    """Settings with nothing but the last part of each path of this machine."""
    if isinstance(value, dict):
        return {key: anonymous(item) for key, item in value.items()}
    return Path(value).name if isinstance(value, str) and Path(value).expanduser().is_absolute() else value
