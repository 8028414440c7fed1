"""The align step against a plain loop around open_clip's own loss, and embedding against the encoder's bare forward.

The same on both sides of a step: the network (architecture, kind of normalisation, weights at the start), noise with a
caption each in place of photographs, autocast, AdamW with weight decay on matrices only, the clipping, the threads, the
number of processes with DistributedDataParallel. The plain loop has open_clip's and timm's own modules in their default
layout, `open_clip.loss.ClipLoss`, AdamW as torch has it by default, and nothing of ours. Ours is the training loop's
step, with captions that several photographs may share, counts over processes, a gradient that is checked and fused
AdamW, through the towers that we made faster (channels-last; some depthwise convolutions in float32 on processors, see
docs/decisions.md). A second reference has those towers in the plain loop: the ratio to it is that of loop, loss and
optimiser alone. That freed memory is kept (`mdf.memory`) is a setting of the whole process and helps both.

Shapes: B photographs, S encoder input side, C caption tokens.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mdf.batches import Batch, Sample, collate
from mdf.benchmarks import Row, interleave
from mdf.config import Config, PartConfig, PartsConfig
from mdf.data_benchmarks import phantoms_or
from mdf.evaluation.photographs import batches, embed, embed_records
from mdf.imaging.preprocess import Prepared
from mdf.models.depthwise import VARIANTS
from mdf.models.embedder import Embedder
from mdf.models.fundus_encoder import MAX_LOGIT_SCALE
from mdf.models.fusion import MDFModel
from mdf.models.normalization import GroupNorm, freeze_statistics
from mdf.processor import Inputs
from mdf.records import FundusRecord
from mdf.training.devices import choose_precision, forget_accelerator, make_accelerator
from mdf.training.optimizer import decays, make_optimizer, set_learning_rates
from mdf.training.stages import Task, freeze_unreached

UNIT = "photographs/s"
OURS_TO_PLAIN: dict[type, type] = {ours: plain for plain, ours in VARIANTS.items()} | {GroupNorm: nn.GroupNorm}


def align(
    cfg: Config, repeats: int, *, root: Path | None = None, say: Callable[[str], None] = print
) -> tuple[list[Row], dict[str, Any]]:
    """The rows of the benchmark `align`, and on what they were measured; `root` holds photographs to embed.

    Under a launcher every process calls this; the rates are those of all processes together.
    """
    precision, why = choose_precision(cfg.run.precision, cuda=torch.cuda.is_available())
    accelerator = make_accelerator(cfg.run, precision)
    if not accelerator.is_main_process:
        say = print_nothing
    device = accelerator.device
    facts = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "encoder": cfg.encoder.model,
        "torch": torch.__version__,
    }
    say(
        f"align: {facts['device']}, {facts['processes']} process(es) of {facts['threads']} CPU threads; "
        f"precision {precision}: {why}"
    )
    try:
        rows = step_rows(cfg, repeats, accelerator, precision, say)
        rows += embedding_rows(cfg, repeats, accelerator, root, say)
    finally:
        if accelerator.num_processes > 1:
            accelerator.end_training()
        forget_accelerator()
    return rows, facts


def print_nothing(text: str) -> None:
    """What processes other than the first say."""


def measure(actions: list[Callable[[], Any]], repeats: int, warm_up: int, accelerator: Any) -> list[list[float]]:
    """`interleave`; every action is over when the slowest process is done with it."""

    def together(action: Callable[[], Any]) -> None:
        action()
        accelerator.wait_for_everyone()

    turns = [partial(together, action) for action in actions]
    return interleave(turns, repeats, warm_up=warm_up, device=accelerator.device)


def speeds(count: int, seconds: list[float], accelerator: Any) -> list[float]:
    """Photographs a second of all processes, `count` each."""
    return [count * accelerator.num_processes / s for s in seconds]


# -- the step ---------------------------------------------------------------------------------------------------------


def align_settings(cfg: Config) -> Config:
    """`cfg` with a stage `align` that trains the whole encoder with the contrastive loss, one micro-batch a step."""
    parts = PartsConfig(encoder=PartConfig("full", cfg.align.parts.encoder.lr))
    stage = replace(cfg.align, parts=parts, losses={"contrastive": 1.0}, accumulation=1, chunk=0)
    return replace(cfg, run=replace(cfg.run, stages=("align",)), align=stage)


def noise(cfg: Config, model: Any, rank: int) -> Batch:
    """align.batch_size photographs of noise, each with a caption of its own, collated as in training."""
    side = model.processor.preprocessing.encoder_size
    generator = torch.Generator().manual_seed(rank)
    unseen = torch.zeros(3, 1, 1), torch.ones(1, 1, 1).bool(), torch.zeros(0, 1, 1), torch.zeros(0).bool()
    samples = []
    for number in range(rank * cfg.align.batch_size, (rank + 1) * cfg.align.batch_size):
        record = FundusRecord(id=f"noise-{number}", image="none")
        prepared = Prepared(torch.randn(3, side, side, generator=generator), *unseen)
        samples.append(Sample(record, prepared, None, f"noise, picture {number}"))
    return collate(samples, model.processor)


def plain_clip(clip: nn.Module) -> nn.Module:
    """A copy of an encoder's CLIP model as open_clip makes it, without our layout and our variants of layers."""
    copied = copy.deepcopy(clip)
    for module in copied.modules():
        module.__class__ = OURS_TO_PLAIN.get(type(module), type(module))
    return copied.to(memory_format=torch.contiguous_format)


def step_rows(cfg: Config, repeats: int, accelerator: Any, precision: str, say: Callable[[str], None]) -> list[Row]:
    """Photographs a second of a training step."""
    cfg = align_settings(cfg)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model: Any = MDFModel.build(cfg, (), device=accelerator.device, dtype=dtype)
    batch = noise(cfg, model, accelerator.process_index).to(accelerator.device)
    plain, ours = plain_clip(model.encoder.clip), copy.deepcopy(model.encoder.clip)
    bf16 = precision == "bf16"
    steps = [
        our_step(cfg, model, batch, accelerator),
        plain_step(cfg, plain, batch, accelerator, bf16=bf16),
        plain_step(cfg, ours, batch, accelerator, bf16=bf16, layout=torch.channels_last),
    ]
    count, side = batch.pixel_values.shape[0], batch.pixel_values.shape[-1]
    say(f"align: noise for photographs, batch {count} a process, {cfg.encoder.model} at {side} pixels")
    found = [speeds(count, s, accelerator) for s in measure(steps, repeats, 2, accelerator)]
    return [
        Row("align step", "plain loop, open_clip", UNIT, found[0], found[1], bar=1.0),
        Row("align step", "plain loop, our towers", UNIT, found[0], found[2]),
    ]


def our_step(cfg: Config, model: Any, batch: Batch, accelerator: Any) -> Callable[[], Tensor]:
    """One optimiser step as `mdf.training.loop` takes it, on a batch that is there; returns the loss."""
    task = Task(cfg, "align")
    model.set_trainable(task.stage.parts, tuple(task.weights))
    freeze_unreached(accelerator, model, task, batch)
    prepared, optimizer = accelerator.prepare(model, make_optimizer(model, cfg, "align"))
    prepared.train()
    names = list(task.weights)

    def step() -> Tensor:
        own = torch.tensor(list(task.counts(batch).values()), dtype=torch.float64)
        totals = dict(zip(names, accelerator.reduce(own.to(accelerator.device), "sum").tolist(), strict=True))
        set_learning_rates(optimizer, lambda warmup: 1.0)
        terms, _ = task(prepared, batch)
        loss = task.total(terms, totals, accelerator.num_processes)
        accelerator.backward(loss)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = accelerator.clip_grad_norm_(parameters, task.stage.max_grad_norm or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        assert math.isfinite(float(norm))
        return loss.detach()

    return step


def plain_step(
    cfg: Config,
    clip: Any,
    batch: Batch,
    accelerator: Any,
    *,
    bf16: bool,
    layout: torch.memory_format = torch.contiguous_format,
) -> Callable[[], Tensor]:
    """One optimiser step as a user of open_clip writes it; returns the loss."""
    from open_clip.loss import ClipLoss

    stage, world = cfg.align, accelerator.num_processes
    clip.requires_grad_(True).train()
    freeze_statistics(clip)
    groups: list[dict] = [{"params": [], "weight_decay": decay} for decay in (0.0, stage.weight_decay)]
    for name, parameter in clip.named_parameters():
        groups[decays(name, parameter)]["params"].append(parameter)
    optimizer = torch.optim.AdamW(groups, lr=stage.parts.encoder.lr, betas=(0.9, stage.beta2))
    loss = ClipLoss(local_loss=True, gather_with_grad=True, rank=accelerator.process_index, world_size=world)
    network = DistributedDataParallel(clip) if world > 1 else clip
    device = accelerator.device.type

    def step() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            # the third is the multiplier of the cosines; a bias may follow, which ClipLoss does not use
            images, texts, scale = network(batch.pixel_values.contiguous(memory_format=layout), batch.caption_ids)[:3]
            value = loss(images, texts, scale)
        value.backward()
        if stage.max_grad_norm:
            nn.utils.clip_grad_norm_(clip.parameters(), stage.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))
        return value.detach()

    return step


# -- embedding --------------------------------------------------------------------------------------------------------


def embedding_rows(
    cfg: Config, repeats: int, accelerator: Any, root: Path | None, say: Callable[[str], None]
) -> list[Row]:
    """Photographs a second that are embedded, from tensors that are there and from files."""
    embedder = Embedder.build(cfg.encoder, accelerator.device)
    with accelerator.local_main_process_first():
        manifest = phantoms_or(root)
    count, size, side = len(manifest.records), cfg.align.batch_size, embedder.encoder.size
    pixels = torch.randn(count, 3, side, side, device=accelerator.device)
    runs = [pixels[run.start : run.stop] for run in batches(count, size)]

    @torch.inference_mode()
    def bare() -> None:
        for run in runs:
            embedder.encoder.features(run)

    @torch.inference_mode()
    def ready() -> None:
        for run in runs:
            embed(embedder, Inputs(pixel_values=run))

    def from_files() -> None:
        embed_records(embedder, manifest.records, manifest, batch_size=size)

    where = root or "phantoms"
    say(f"embedding: {count} photographs ({where}), batches of {size}, {cfg.encoder.model} at {side} pixels in float32")
    found = [speeds(count, s, accelerator) for s in measure([ready, bare, from_files], repeats, 1, accelerator)]
    return [
        Row("embedding", "bare encoder", UNIT, found[0], found[1], bar=0.95),
        Row("embedding, from files", "bare encoder", UNIT, found[2], found[1]),
    ]
