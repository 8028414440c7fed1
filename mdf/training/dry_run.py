"""Everything but the training: what would train, what a batch looks like, how much memory it would take."""

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from mdf.batches import Batch
from mdf.config import Config
from mdf.errors import UserError
from mdf.models.fusion import MDFModel
from mdf.preview import as_read
from mdf.training.data import dataset, diagnoses_of, load_manifests, loader, sampler_of, stage_data
from mdf.training.devices import choose_precision
from mdf.training.optimizer import moment_bytes, trainable_table
from mdf.training.stages import Task
from mdf.training.start import first_model
from mdf.training.validation import best_by

MEASURED = 1.5e9  # parameters; above this a forward on a CPU takes minutes, and activations are estimated instead


def dry_run(cfg: Config, *, strict: bool = False) -> int:
    """Print it all for every stage; the exit code: 0, or with `strict` 2 where something was not at hand."""
    missing: list[str] = []
    precision, why = choose_precision(cfg.run.precision, cuda=torch.cuda.is_available())
    print(f"precision {precision}: {why}")
    manifests: dict[str, Any] = {}
    model = None
    try:
        manifests = load_manifests(cfg)
    except UserError as error:
        missing.append(f"data: {error}")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    try:
        model = first_model(cfg, diagnoses_of(manifests), dtype)
    except UserError as error:
        missing.append(f"model: {error}")
        try:  # everything but the weights of encoder and U-Net can still be looked at
            model = MDFModel.build(cfg, diagnoses_of(manifests), dtype=dtype, load_bases=False)
        except UserError as other:
            if str(other) != str(error):
                missing.append(f"model: {other}")
    if model is not None:
        print("diagnoses: " + (", ".join(model.processor.diagnoses) or "not known without the data"))
    for name in cfg.run.stages:
        if model is None:
            break
        task = Task(cfg, name)
        model.set_trainable(task.stage.parts, tuple(task.weights))
        print("\n" + trainable_table(model, cfg, name))
        batch = None
        if manifests:
            try:
                batch = first_batch(cfg, task, manifests[name], model)
            except UserError as error:
                missing.append(f"{name}: {error}")
        if batch is not None:
            print(shapes(batch) + conversations(batch, model.processor, 2))
        print(memory(model, task, batch, precision))
    print()
    for line in missing:
        print(f"NOT CHECKED: {line}")
    print(f"dry run: {len(missing)} not checked" if missing else "dry run: everything is in place")
    return 2 if strict and missing else 0


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


def memory(model: Any, task: Task, batch: Batch | None, precision: str) -> str:
    """Roughly what one process needs: weights, gradients, the optimiser's moments, activations of one micro-batch."""
    weights = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    trains = [p for p in model.parameters() if p.requires_grad]
    trained = sum(p.numel() * p.element_size() for p in trains)
    moments = round(sum(moment_bytes(p, task.stage.optimizer) for p in trains))
    parts = {"weights": weights, "gradients": trained, "optimiser": moments}
    if task.want == ("contrastive",):
        parts["activations (counted)"] = contrastive_activations(model, task, precision)
    elif batch is not None and sum(p.numel() for p in model.parameters()) < MEASURED:
        parts["activations (measured)"] = activations(model, task, batch, precision)
    text = ", ".join(f"{name} {value / 2**30:.2f}" for name, value in parts.items())
    note = "" if len(parts) == 4 else ", activations not measured"
    return f"memory of {task.name}, GiB: {text}{note}; together about {sum(parts.values()) / 2**30:.2f}"


class Kept:
    """A context that notes which memory autograd keeps between forward and backward, beside that of `own`."""

    def __init__(self, own: Iterable[Tensor]):
        self.own = {tensor.untyped_storage()._cdata for tensor in own}
        self.sizes: dict[int, int] = {}
        self.alive: list[Tensor] = []  # so that no address is used twice
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.note, lambda tensor: tensor)

    def note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.own:
            self.sizes[storage._cdata] = storage.nbytes()
            self.alive.append(tensor)
        return tensor

    def __enter__(self) -> "Kept":
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


def contrastive_activations(model: Any, task: Task, precision: str) -> int:
    """Bytes of the activations of a stage that only compares photographs and captions, without computing them: tensors
    without content go through the encoder, so that also ViT-H takes seconds and no photograph has to be at hand.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    encoder, chunk, count = model.encoder.train(), task.stage.chunk, task.stage.batch_size
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        own = [mode.from_tensor(parameter) for parameter in encoder.parameters()]
        with Kept(own) as kept, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            # GradCache computes one chunk at a time again in backward
            for rows, size in ((count, chunk), *([(chunk, 0)] if 0 < chunk < count else [])):
                pixels = torch.empty(rows, 3, encoder.size, encoder.size)
                captions = torch.zeros(rows, encoder.context_length, dtype=torch.long)
                model(pixel_values=pixels, caption_ids=captions, want=("contrastive",), chunk=size)
        return kept.bytes


def activations(model: Any, task: Task, batch: Batch, precision: str) -> int:
    """Bytes that autograd keeps between forward and backward of this batch, beside the parameters."""
    with (
        torch.random.fork_rng(devices=[]),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
        Kept(model.parameters()) as kept,
    ):
        task(model.train(), batch)
    return kept.bytes
