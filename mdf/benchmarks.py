"""Speed as ratios: what the fusion costs against the same model without it, both measured in one run, in turns.

A ratio of two neighbours in time bears other jobs on the machine; seconds do not.
Photographs and tokens are random tensors of the right shape: the time of a step does not depend on what they show.

Shapes: B photographs, S encoder input side, U U-Net input side, K masks, T text tokens.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mdf.batches import Batch
from mdf.config import Config, PartConfig
from mdf.dialogue import IGNORED
from mdf.errors import UserError
from mdf.models.fusion import MDFModel
from mdf.tiles import cross_attention_mask, cut_tiles
from mdf.training.devices import choose_precision, prepare_cpu
from mdf.training.optimizer import make_optimizer
from mdf.training.stages import Task, remember

PROMPT, NEW = 60, 64  # tokens of a prompt with its photograph, and of its answer
LENGTH = 128  # tokens of a training conversation, half of them supervised
MASK_WEIGHT = 0.5  # of the mask loss where the U-Net trains beside the fusion


@dataclass(frozen=True)
class Row:
    """One ratio and how it came about."""

    name: str
    reference_name: str
    unit: str  # tokens/s | s
    measured: list[float]  # one number a round, in `unit`
    reference: list[float]  # likewise, measured in the same rounds
    bar: float | None = None  # what the ratio should not miss; None = reported only
    at_least: bool = True  # the bar is a lower bound, else an upper one

    @property
    def ratios(self) -> list[float]:
        """measured / reference of each round."""
        return [a / b for a, b in zip(self.measured, self.reference, strict=True)]

    @property
    def ratio(self) -> float:
        """The median over rounds; each ratio is of neighbours in time, so that a busy spell hits both sides."""
        return statistics.median(self.ratios)

    @property
    def verdict(self) -> str:
        """ok | short | - (without a bar)."""
        if self.bar is None:
            return "-"
        return "ok" if (self.ratio >= self.bar if self.at_least else self.ratio <= self.bar) else "short"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "name": self.name,
            "reference_name": self.reference_name,
            "unit": self.unit,
            "measured": self.measured,
            "reference": self.reference,
            "ratio": self.ratio,
            "ratio_low": min(self.ratios),
            "ratio_high": max(self.ratios),
            "bar": self.bar,
            "bar_is": None if self.bar is None else "at least" if self.at_least else "at most",
            "verdict": self.verdict,
        }


def wait_for(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleave(
    actions: Sequence[Callable[[], None]], repeats: int, *, warm_up: int, device: torch.device
) -> list[list[float]]:
    """Seconds of each action in each of `repeats` rounds after `warm_up` others; a round runs every action in order."""
    seconds: list[list[float]] = [[] for _ in actions]
    for number in range(warm_up + repeats):
        for action, times in zip(actions, seconds, strict=True):
            wait_for(device)
            start = time.perf_counter()
            action()
            wait_for(device)
            if number >= warm_up:
                times.append(time.perf_counter() - start)
    return seconds


def allocated(action: Callable[[], Any], device: torch.device) -> tuple[int, int]:
    """Bytes that `action` held at most beside what was there before, and those that it left, by torch's own count."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before, torch.cuda.memory_allocated(device) - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        action()
    held = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak, held


def pixels(cfg: Config, model: Any, count: int) -> dict[str, torch.Tensor]:
    """Noise in place of photographs: pixel_values [count,3,S,S], unet_pixels [count,3,U,U]."""
    own = model.processor.preprocessing
    shapes = {"pixel_values": (own.channels, own.encoder_size), "unet_pixels": (3, cfg.unet.size)}
    return {name: torch.randn(count, channels, side, side) for name, (channels, side) in shapes.items()}


def tokens(model: Any, count: int, length: int) -> torch.Tensor:
    """Random ids int64 [count,length], image placeholders in front; longer where these would fill more than half."""
    processor = model.processor
    length = max(length, 2 * processor.image_tokens)
    ids = torch.randint(len(processor.tokenizer), (count, length))
    ids[ids == processor.image_token_id] = processor.pad_id
    ids[:, 1 : 1 + processor.image_tokens] = processor.image_token_id
    return ids


def tiles(cfg: Config, model: Any, count: int) -> dict[str, torch.Tensor]:
    """Noise for the language model's own vision tower, as its image processor cuts it; {} where it has none."""
    if model.processor.image_processor is None:
        return {}
    side = cfg.language.image_size
    noise = [torch.randint(256, (3, side, side), dtype=torch.uint8) for _ in range(count)]
    return cut_tiles(model.processor.image_processor, noise)


def training_batch(cfg: Config, model: Any, length: int = LENGTH) -> Batch:
    """fuse.batch_size conversations of `length` tokens, the second half supervised, and every mask of the U-Net."""
    count, side = cfg.fuse.batch_size, cfg.unet.size
    ids = tokens(model, count, length)
    answered = torch.arange(ids.shape[1]).expand_as(ids) >= ids.shape[1] // 2
    noise, backbone = pixels(cfg, model, count), tiles(cfg, model, count)
    if backbone:
        image, real = model.processor.image_token_id, backbone["aspect_ratio_mask"]
        backbone["cross_attention_mask"] = cross_attention_mask(ids, image, real)
    return Batch(
        sample_ids=[f"noise-{i}" for i in range(count)],
        patient_ids=[None] * count,
        eyes=[None] * count,
        pixel_values=noise["pixel_values"],
        unet_pixels=noise["unet_pixels"],
        field=torch.ones(count, 1, side, side, dtype=torch.bool),
        image_index=torch.arange(count),
        masks=(torch.rand(count, len(cfg.unet.masks), side, side) < 0.1).float(),
        mask_known=torch.ones(count, len(cfg.unet.masks), dtype=torch.bool),
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        labels=ids.masked_fill(~answered, IGNORED),
        prompt_mask=~answered,
        backbone=backbone,
    )


class Benchmarks:
    """The models of one configuration, built where a benchmark asks for them."""

    def __init__(self, cfg: Config, say: Callable[[str], None] = print):
        if not cfg.fusion.adapts:
            why = f"fusion.kind is {cfg.fusion.kind}" if cfg.fusion.depths else "fusion.depths is empty"
            raise UserError(f"{why}: without adapters there is no fusion to measure")
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda" if cuda else "cpu")
        self.precision, why = choose_precision(cfg.run.precision, cuda=cuda)
        self.dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        prepare_cpu(cfg.run, 1)
        frozen = replace(cfg.fuse.parts, unet=PartConfig("frozen"))
        fuse = replace(cfg.fuse, parts=frozen, losses={"text": 1.0})
        self.cfg = replace(cfg, run=replace(cfg.run, stages=("fuse",)), fuse=fuse)
        self.baseline_cfg = replace(self.cfg, fusion=replace(cfg.fusion, depths=()))
        self.say = say
        self.facts: dict[str, Any] = {
            "device": torch.cuda.get_device_name(self.device) if cuda else "cpu",
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "language": cfg.language.model,
            "torch": torch.__version__,
        }
        say(f"{self.facts['device']}, {self.facts['threads']} CPU threads; precision {self.precision}: {why}")
        self.fused, self.baseline = self.build(self.cfg), self.build(self.baseline_cfg)
        for hook in self.baseline.hooks:
            hook.remove()  # without adapters they do nothing; the reference shall not wait for them either

    def build(self, cfg: Config) -> Any:
        """The model of a configuration, its adapters away from 0, so that every gradient is a number other than 0."""
        model: Any = MDFModel.build(cfg, (), device=self.device, dtype=self.dtype)
        for name, parameter in model.named_parameters():
            if name.startswith("fusion.adapters.") and name.endswith((".o.weight", ".ffn.2.weight")):
                torch.nn.init.normal_(parameter, std=0.02)
        return model

    def run(self, names: list[str], repeats: int) -> list[Row]:
        """The rows of the benchmarks `names`, generate first: training would change what generates."""
        rows: list[Row] = []
        if "generate" in names:
            rows += self.generate(repeats)
        if "step" in names:
            rows += self.step(repeats)
        return rows

    def generate(self, repeats: int) -> list[Row]:
        """Tokens per second of `MDFModel.generate`, from one photograph and its prompt to the last token.

        In that time both read the photograph's prefix and the prompt; the fused model also makes the U-Net's skips, the
        memory and its keys and values, once.
        """
        fused = self.build(self.cfg)
        fused.fusion.lighten(self.dtype)  # as `mdf.inference` does
        ids = tokens(fused, 1, PROMPT).to(self.device)
        noise = pixels(self.cfg, fused, 1) | tiles(self.cfg, fused, 1)
        given = {n: p.to(self.device) for n, p in noise.items()}
        given |= {"attention_mask": torch.ones_like(ids), "prompt_mask": torch.ones_like(ids).bool()}

        def action(model: Any) -> Callable[[], None]:
            def write() -> None:
                out = model.generate(ids, **given, min_new_tokens=NEW, max_new_tokens=NEW, do_sample=False)
                assert out.shape[1] == ids.shape[1] + NEW

            return write

        self.say(f"generate: noise for a photograph, batch 1, prompt of {ids.shape[1]} tokens, {NEW} new ones")
        found = interleave([action(fused), action(self.baseline)], repeats, warm_up=1, device=self.device)
        speed, reference = ([NEW / s for s in seconds] for seconds in found)
        return [Row("generate", "generate without fusion", "tokens/s", speed, reference, bar=0.9)]

    def step(self, repeats: int) -> list[Row]:
        """Seconds of a fuse step: forward, backward, clipping and AdamW, on the same batch."""
        cfg = self.cfg
        unet = PartConfig("full", cfg.segment.parts.unet.lr)
        beside = replace(cfg.fuse, parts=replace(cfg.fuse.parts, unet=unet), losses={"text": 1.0, "mask": MASK_WEIGHT})
        beside_cfg = replace(cfg, fuse=beside)
        batch = training_batch(cfg, self.fused).to(self.device)
        assert batch.input_ids is not None
        self.say(
            f"step: noise for photographs, batch {len(batch.input_ids)}, {batch.input_ids.shape[1]} tokens, "
            f"{batch.supervised} supervised; U-Net {cfg.unet.encoder} at {cfg.unet.size}"
        )
        pairs = [(cfg, self.fused), (beside_cfg, self.build(beside_cfg)), (self.baseline_cfg, self.baseline)]
        actions = [self.training_step(settings, model, batch) for settings, model in pairs]
        fused, both, baseline = interleave(actions, repeats, warm_up=2, device=self.device)
        return [
            Row("step, U-Net frozen", "step of the baseline", "s", fused, baseline, bar=1.35, at_least=False),
            Row("step, U-Net trains", "step of the baseline", "s", both, baseline),
        ]

    def training_step(self, cfg: Config, model: Any, batch: Batch) -> Callable[[], None]:
        """One optimiser step as the training loop does it on one process."""
        task = Task(cfg, "fuse")
        model.set_trainable(task.stage.parts, tuple(task.weights))
        model.train()
        remember(task, model, self.device, len(batch.sample_ids), self.say)
        optimizer = make_optimizer(model, cfg, "fuse")
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        totals = task.counts(batch)

        def step() -> None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                terms, _ = task(model, batch)
            task.total(terms, totals, 1).backward()
            if task.stage.max_grad_norm:
                torch.nn.utils.clip_grad_norm_(parameters, task.stage.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()

        return step


def table(rows: list[Row]) -> str:
    """A line a row: name, measured, reference, ratio with the least and the greatest of its rounds, bar, verdict."""

    def spread(values: list[float], unit: str) -> str:
        return f"{statistics.median(values):.3g} {unit} ({min(values):.3g}-{max(values):.3g})"

    lines = [("name", "measured", "reference", "ratio", "bar", "verdict")]
    for r in rows:
        bar = "-" if r.bar is None else f"{'>=' if r.at_least else '<='} {r.bar}"
        ratio = f"{r.ratio:.3f} ({min(r.ratios):.3f}-{max(r.ratios):.3f})"
        reference = f"{r.reference_name}: {spread(r.reference, r.unit)}"
        lines.append((r.name, spread(r.measured, r.unit), reference, ratio, bar, r.verdict))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
