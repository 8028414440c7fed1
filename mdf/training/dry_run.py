"""Everything but the training: what would train, what a batch looks like, how much memory it would take."""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from mdf.batches import Batch
from mdf.config import Config
from mdf.errors import UserError
from mdf.models.architectures import count
from mdf.models.fundus_encoder import FundusEncoder
from mdf.models.fusion import MDFModel
from mdf.models.unet import UNet
from mdf.models.weights import language_path
from mdf.preview import as_read
from mdf.processor import MDFProcessor
from mdf.training.data import dataset, diagnoses_of, load_manifests, loader, sampler_of, stage_data
from mdf.training.devices import choose_precision
from mdf.training.optimizer import trainable_table
from mdf.training.plan_table import report
from mdf.training.planner import emptied, empty_base, empty_model
from mdf.training.stages import Task
from mdf.training.start import first_model
from mdf.training.validation import best_by

MEASURED = 1.5e9  # parameters; above this a language model is not loaded for a look


def dry_run(cfg: Config, *, strict: bool = False) -> int:
    """Print it all for every stage; the exit code: 0, or with `strict` 2 where something was not at hand."""
    missing: list[str] = []
    precision, why = choose_precision(cfg.run.precision, cuda=torch.cuda.is_available())
    print(f"precision {precision}: {why}")
    manifests: dict[str, Any] = {}
    try:
        manifests = load_manifests(cfg)
    except UserError as error:
        missing.append(f"data: {error}")
    model = look(cfg, diagnoses_of(manifests), torch.bfloat16 if precision == "bf16" else torch.float32, missing)
    if model is not None:
        print("diagnoses: " + (", ".join(model.processor.diagnoses) or "not known without data and tokenizer"))
    for name in cfg.run.stages:
        if model is None:
            break
        task = Task(cfg, name)
        model.set_trainable(task.stage.parts, tuple(task.weights))
        print("\n" + trainable_table(model, cfg, name))
        if manifests and isinstance(model.processor, MDFProcessor):
            try:
                batch = first_batch(cfg, task, manifests[name], model)
                print(shapes(batch) + conversations(batch, model.processor, 2))
            except UserError as error:
                missing.append(f"{name}: {error}")
        print(report(cfg, model, name, precision))
    print()
    for line in missing:
        print(f"NOT CHECKED: {line}")
    print(f"dry run: {len(missing)} not checked" if missing else "dry run: everything is in place")
    return 2 if strict and missing else 0


def look(cfg: Config, diagnoses: tuple[str, ...], dtype: torch.dtype, missing: list[str]) -> MDFModel | None:
    """The model without content, or None where not even its shapes are known; what is not at hand goes to `missing`.

    A small model is loaded first, as training would. Of a large one the files are looked for and not read.
    """

    def attempt(make: Callable[[], MDFModel]) -> MDFModel | None:
        try:
            made = make()
            if cfg.language.quantize == "none":
                return emptied(made)
            empty = empty_model(cfg, dtype)  # packed weights have other shapes and a forward of their own
            empty.processor = made.processor
            return empty
        except UserError as error:
            if f"model: {error}" not in missing:
                missing.append(f"model: {error}")
            return None

    try:
        large = count(cfg.language.model) > MEASURED
    except UserError:
        large = False  # its own error follows
    found = None
    if not large:
        found = attempt(lambda: first_model(cfg, diagnoses, dtype))
        # everything but the weights of encoder and U-Net can still be looked at
        found = found or attempt(lambda: MDFModel.build(cfg, diagnoses, dtype=dtype, load_bases=False))
    else:
        for make in (lambda: UNet(cfg.unet), lambda: FundusEncoder(cfg.encoder)):
            try:
                make()
            except UserError as error:
                missing.append(f"model: {error}")
        if cfg.run.start_from:
            missing.append(f"model: run.start_from: {cfg.run.start_from} is not read, since the model is large")
        found = attempt(lambda: large_model(cfg, diagnoses, dtype))
    return found or attempt(lambda: empty_model(cfg, dtype))


def large_model(cfg: Config, diagnoses: tuple[str, ...], dtype: torch.dtype) -> MDFModel:
    """A model whose language model has a tokenizer and no content. Raises UserError where its files are not there."""
    from transformers import AutoTokenizer

    folder = language_path(cfg.language.model, cfg.language.revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"language.model: {folder} has no tokenizer that can be read ({error})") from error
    language = empty_base(cfg, dtype)
    return MDFModel.build(cfg, diagnoses, dtype=dtype, load_bases=False, language=(language, tokenizer))


def first_batch(cfg: Config, task: Task, manifest: Any, model: Any) -> Batch:
    """The first micro-batch that a single process would train on; also says how many steps there would be."""
    data = stage_data(cfg, task, manifest, model.processor.prompts, print)
    best_by(task, data, model.processor)
    s = task.stage
    sampler = sampler_of(cfg, task, data.train)
    steps = s.steps or max(1, math.ceil(s.epochs * len(data.train) / sampler.step_size))
    print(f"{task.name}: {steps} steps of {sampler.step_size} photographs on one process")
    samples = dataset(cfg, task, data, model.processor, train=True)
    return next(iter(loader(samples, [sampler.keys(0, s.batch_size)], workers=0)))


def shapes(batch: Batch) -> str:
    """A line for each tensor of the batch."""
    lines = ["first batch"]
    for f in fields(batch):
        value = getattr(batch, f.name)
        if isinstance(value, Tensor):
            lines.append(f"  {f.name:<16}{str(value.dtype).removeprefix('torch.'):<9}{list(value.shape)}")
    return "\n".join(lines) + "\n"


def conversations(batch: Batch, processor: Any, count: int) -> str:
    """The first conversations of the batch as the language model reads them."""
    if batch.input_ids is None:
        return ""
    assert batch.labels is not None and batch.attention_mask is not None
    lines = []
    for i in range(min(count, len(batch.input_ids))):
        length = int(batch.attention_mask[i].sum())
        text = as_read(batch.input_ids[i, :length].tolist(), batch.labels[i, :length].tolist(), processor)
        lines.append(f"conversation of {batch.sample_ids[i]}, supervised between [[ and ]]:")
        lines += [f"  | {line}" for line in text.splitlines()]
    return "\n".join(lines) + "\n"
