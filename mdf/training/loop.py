"""The training loop of one stage, from its first step or from where it was stopped."""

import json
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mdf import __version__
from mdf.batches import Batch
from mdf.errors import UserError
from mdf.training.curves import curves_picture
from mdf.training.data import (
    StageData,
    dataset,
    loader,
    loading_workers,
    sampler_of,
    training_batches,
)
from mdf.training.devices import memory_gib
from mdf.training.ema import Average
from mdf.training.flops import costs, peak_flops
from mdf.training.guard import Guard
from mdf.training.health import NARROW, widest
from mdf.training.meters import Meter, clip_gradients, gates, tokens_read
from mdf.training.optimizer import make_optimizer, set_learning_rates, share_of_peak, trainable_table
from mdf.training.picture import batch_picture
from mdf.training.progress import Progress
from mdf.training.saving import (
    FORMAT,
    STATE,
    keep,
    plain,
    random_state,
    read_tensors,
    restore_random_state,
    seed_everything,
    write_folder,
    write_tensors,
)
from mdf.training.sharding import spread, spread_optimizer, whole_model, whole_optimizer
from mdf.training.stages import Task, freeze_unreached, remember
from mdf.training.standing import Standing
from mdf.training.validation import best_by, validate, write_samples
from mdf.training.zero import Zero

if TYPE_CHECKING:
    from mdf.training.run import Run


def shown(found: dict[str, float]) -> str:
    """The numbers of a validation on one line."""
    numbers = {name.removeprefix("val_"): value for name, value in found.items()}
    return "  ".join(f"{n} {v:.4f}" if isinstance(v, float) else f"{n} {v}" for n, v in numbers.items())


class Stage:
    """One stage: model, optimiser, order of photographs, and where it stands."""

    def __init__(self, run: "Run", task: Task, data: StageData, model: Any, saved: dict[str, Any] | None):
        self.run, self.task, self.data, self.cfg, self.accelerator = run, task, data, run.cfg, run.accelerator
        s, accelerator, cfg = task.stage, run.accelerator, run.cfg
        self.sharded = run.launch.sharding in ("fsdp2", "zero3")  # the weights, too
        self.bare = model if self.sharded else model.to(accelerator.device)
        model.set_trainable(s.parts, tuple(task.weights))
        self.sampler = sampler_of(cfg, task, data.train, accelerator.process_index, accelerator.num_processes)
        self.total = s.steps or max(1, math.ceil(s.epochs * len(data.train) / self.sampler.step_size))
        self.step = 0
        self.missing = 0  # photographs drawn so far whose file was gone
        self.cut = 0  # captions so far that were longer than what the text tower reads
        self.one_class = 0  # micro-batches so far in which a contrastive loss found nothing to contrast
        self.standing = Standing(task.name, s, best_by(task, data, model.processor))
        self.workers = loading_workers(accelerator.device, accelerator.num_processes)
        self.names = list(task.weights)
        first = [self.sampler.keys(accelerator.process_index * s.batch_size, s.batch_size)]
        batch = next(iter(loader(dataset(cfg, task, data, model.processor, train=True), first, workers=0)))
        # of a sharded model no process waits for a gradient
        idle = [] if self.sharded else freeze_unreached(accelerator, model, task, batch)
        if idle:
            names = ", ".join(idle[:4]) + (" …" if len(idle) > 4 else "")
            run.say(f"{task.name}: out of reach of its losses, so {len(idle)} tensors stay as they are: {names}")
        if not self.sharded:  # a process that skips a part would leave the others waiting for its shards
            remember(task, model, accelerator.device, len(data.train) + len(data.val), run.say)
        table = trainable_table(model, cfg, task.name)
        self.meter = self.make_meter(batch)
        length = f"{self.total} steps of {self.sampler.step_size} photographs"
        run.say(f"{table}\n{task.name}: {length}, best/ by {self.standing.by}")
        if run.main:
            run.folder.add_table(task.name, table)
        if self.sharded and "text" in task.weights and s.samples:
            run.say(f"{task.name}: no samples/ of a sharded model, since all processes would have to write them")
        make = partial(make_optimizer, model, cfg, task.name)
        if run.launch.sharding == "none":
            self.model, self.optimizer = accelerator.prepare(model, make())
        else:
            self.model, self.optimizer = spread(accelerator, run.launch, model, make, s.max_grad_norm)
        self.zero = self.optimizer if isinstance(self.optimizer, Zero) else None
        self.model.train()
        self.average = Average(self.bare, s.ema) if s.ema else None
        self.window = self.empty_window()
        self.guard = Guard(task.name, task.weights, cfg.run.spike)
        seed_everything(cfg.run.seed, cfg.run.stages.index(task.name), accelerator.process_index)
        if saved:
            self.restore(saved)
        elif run.main and task.name == cfg.run.stages[0]:
            batch_picture(batch, model.processor.preprocessing, run.folder.path / "first_batch.png")

    def empty_window(self) -> dict[str, Any]:
        """Since the last line of metrics.jsonl: sum of each loss, last gradient norm, that of each part, and steps."""
        return {"losses": torch.zeros(len(self.names), dtype=torch.float64), "norm": 0.0, "norms": {}, "steps": 0}

    def make_meter(self, batch: Batch) -> Meter:
        """A meter that knows what a step costs, where the peak of the device is known."""
        accelerator, run = self.accelerator, self.run
        peak = peak_flops(accelerator.device, self.cfg.run.peak_tflops)
        if peak is None:
            if self.task.name == self.cfg.run.stages[0]:
                run.say(f"no MFU: the peak of this {accelerator.device.type} is not known; run.peak_tflops says it")
            return Meter(None, math.inf)
        devices = [accelerator.device] if accelerator.device.type == "cuda" else []
        with torch.random.fork_rng(devices), accelerator.autocast():
            return Meter(costs(self.bare, self.task, batch.to(self.bare.device)), peak * accelerator.num_processes)

    def fit(self) -> bool:
        """Run to the last step, or until `patience` ends; False where SIGTERM stopped it, after saving.

        Raises Collapsed where embeddings fell together and the stage is to stop then, after saving.
        """
        s, accelerator = self.task.stage, self.accelerator
        samples = dataset(self.cfg, self.task, self.data, self.bare.processor, train=True)
        batches = training_batches(samples, self.sampler, done=self.step, total=self.total, workers=self.workers)
        progress = Progress(self.task.name, self.step, self.total)
        if self.step == 0 and "contrastive" in self.task.want and not self.standing.widest:
            self.look_before(progress)
        self.meter.start()
        while self.step < self.total and not self.standing.ended:
            # all micro-batches are read first: a loss is a sum over the step divided by what the whole step counts
            step, failure = self.read(batches)
            totals, stopped, failed, missing, cut, read = self.totals(step, failure)
            if failed or missing == self.sampler.step_size:
                self.save()
                raise failure or UserError(self.unreadable(failed))
            if stopped:
                self.save()
                return False
            self.missing, self.cut = self.missing + missing, self.cut + cut
            rates = set_learning_rates(
                self.optimizer, partial(share_of_peak, self.step, self.total, schedule=s.schedule)
            )
            shares = []  # of each micro-batch in each loss of the step
            for i, batch in enumerate(step):
                last = i == s.accumulation - 1
                with nullcontext() if last or self.zero else accelerator.no_sync(self.model):
                    here = batch.to(accelerator.device)
                    self.count_one_class(here)
                    terms, _ = self.task(self.model, here)
                    loss = self.task.total(terms, totals, accelerator.num_processes)
                    self.zero.backward(loss, last=last) if self.zero else accelerator.backward(loss)
                own = [terms[n][0].detach().double() / max(totals[n], 1.0) for n in self.names]
                shares.append(torch.stack(own))
            norms = self.update()
            self.step += 1
            self.guard.note(self.step, step, shares, norms)
            if self.average:
                self.average.update(self.step)
            self.meter.step(self.sampler.step_size, totals.get("text", 0), read)
            if self.step % self.cfg.run.log_every == 0 or self.step == self.total:
                self.log(progress, rates)
            if self.validation_due() or self.step % self.cfg.run.keep_last_every == 0:
                self.settle()  # what the device has still to compute is part of the steps
                with self.meter.paused():
                    self.validate(progress) if self.validation_due() else self.save()
        return True

    def update(self) -> dict[str, Any]:
        """Clip the gradients, step and forget them; their norms before that."""
        if self.zero:
            return self.zero.step()
        norms = clip_gradients(self.optimizer, self.task.stage.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.task.contrasts:
            self.bare.encoder.cap_logit_scale()
        return norms

    def read(self, batches: Iterator[Batch]) -> tuple[list[Batch], UserError | None]:
        """The micro-batches of a step, and why the next of them cannot be read."""
        step: list[Batch] = []
        try:
            for _ in range(self.task.stage.accumulation):
                step.append(next(batches))
        except UserError as error:
            return step, error
        return step, None

    def totals(
        self, step: list[Batch], failure: UserError | None
    ) -> tuple[dict[str, float], bool, bool, int, int, int]:
        """What each loss of the whole step counts, all processes together, whether any of them was told to stop or
        could not read its photographs, how many photographs are missing, how many captions were cut, and how many
        tokens the language model reads.
        """
        own = [[0.0] * len(self.names), *([*self.task.counts(batch).values()] for batch in step)]
        flags = [self.run.stop.is_set(), failure is not None, sum(len(batch.missing) for batch in step)]
        flags += [sum(batch.cut for batch in step), sum(tokens_read(batch) for batch in step)]
        numbers = torch.tensor([*map(sum, zip(*own, strict=True)), *map(float, flags)], dtype=torch.float64)
        if self.accelerator.num_processes > 1:  # one process has no reason to wait for its device here
            numbers = self.accelerator.reduce(numbers.to(self.accelerator.device), "sum")
        *sums, stop, failed, missing, cut, read = numbers.tolist()
        return dict(zip(self.names, sums, strict=True)), stop > 0, failed > 0, int(missing), int(cut), int(read)

    def unreadable(self, failed: bool) -> str:
        """What a process says whose own photographs can be read, or are skipped."""
        if failed:
            return "another process could not read its photographs; its message says which"
        return (
            f"{self.task.name}, step {self.step + 1}: every photograph of a step is gone; is {self.data.manifest.root} "
            "still there? Bring it back, then --resume"
        )

    def count_one_class(self, batch: Batch) -> None:
        """Count a micro-batch in which a contrastive loss finds nothing to contrast, and say so at the first."""
        if losses := self.task.of_one_class(batch):
            if not self.one_class:
                self.run.say(f"{self.task.name}, step {self.step + 1}: {self.task.one_class_note(losses)}")
            self.one_class += 1

    def settle(self) -> None:
        """Take in the steps since the last call; raises Unsound where one of them must not be saved."""
        for made in self.guard.read(self.accelerator):
            self.window["losses"] += torch.tensor(made.losses, dtype=torch.float64)
            self.window["norm"], self.window["norms"] = made.norms.pop(""), made.norms
            self.window["steps"] += 1

    def log(self, progress: Progress, rates: dict[str, float]) -> None:
        """One line of metrics.jsonl: means since the last one, over all processes."""
        self.settle()
        window, self.window = self.window, self.empty_window()
        named = dict(zip(self.names, (window["losses"] / window["steps"]).tolist(), strict=True))
        line = {
            "stage": self.task.name,
            "step": self.step,
            "total": self.total,
            "epoch": round(self.step * self.sampler.step_size / self.sampler.size, 4),
            "loss": sum(self.task.weights[n] * value for n, value in named.items()),
            **{f"loss_{n}": value for n, value in named.items()},
            **{f"lr_{part}": rate for part, rate in rates.items()},
            "grad_norm": window["norm"],
            **{f"grad_norm_{part}": norm for part, norm in window["norms"].items()},
            **(gates(self.bare.fusion) if "text" in self.task.want else {}),
            **self.meter.values(),
            "memory_gib": round(memory_gib(self.accelerator.device), 3),
            "seconds": round(self.meter.seconds, 3),
            **({"missing": self.missing} if self.missing else {}),
            **({"captions_cut": self.cut} if self.cut else {}),
            **({"one_class_batches": self.one_class} if self.one_class else {}),
        }
        if self.run.main:
            self.run.log(line)
            progress.show(self.step, line)

    def validation_due(self) -> bool:
        """Whether a validation follows this step: every `eval_every` or four a stage, and always after the last."""
        every = self.task.stage.eval_every
        quarter = self.step * 4 // self.total > (self.step - 1) * 4 // self.total
        return self.step == self.total or (self.step % every == 0 if every else quarter)

    def averaged(self) -> AbstractContextManager:
        """While it lasts the model holds the averaged weights, where the stage keeps them."""
        return self.average.applied() if self.average else nullcontext()

    def measure(self) -> dict[str, float]:
        """What `validate` finds."""
        with self.averaged():
            return validate(
                self.accelerator, self.model, self.task, self.cfg, self.data, self.bare.processor, self.workers
            )

    def look_before(self, progress: Progress) -> None:
        """Measure before the first step: whether embeddings fall together shows against how they were."""
        found = self.measure()
        self.standing.widest = widest({}, found)
        if self.run.main and found:
            self.run.log({"stage": self.task.name, "step": 0, "total": self.total, **found})
            progress.say(f"{self.task.name} 0/{self.total} validation  {shown(found)}")
            if -found.get("val_uniformity", -math.inf) < NARROW:
                progress.say(
                    f"{self.task.name}: photographs are embedded in a narrow cone, as by an encoder that has not been "
                    "trained yet; training should spread them (a more negative uniformity, a higher rank)"
                )

    def validate(self, progress: Progress) -> None:
        """Measure on the validation photographs, write samples, and save last/ and, if it is the best so far, best/."""
        task, standing = self.task, self.standing
        try:
            found = self.measure()
        except UserError:
            if self.accelerator.num_processes == 1:  # else the others are in the midst of the validation
                self.save()
            raise
        better = standing.judge(found, self.step, last=self.step == self.total)
        if self.run.main and found:
            flags = {"best": better} | {f: True for f in ("collapsed", "ended") if getattr(standing, f)}
            self.run.log({"stage": task.name, "step": self.step, "total": self.total, **found, **flags})
            best = "  (best)" if better else ""
            progress.say(f"{task.name} {self.step}/{self.total} validation  {shown(found)}{best}")
            for line in standing.news(self.step):
                progress.say(line)
        elif self.step == self.total:
            self.run.say(f"{task.name}: no validation photographs, so the last step is kept as the best")
        if self.run.main and "text" in task.weights and self.data.val and task.stage.samples and not self.sharded:
            samples = dataset(self.cfg, task, self.data, self.bare.processor, train=False)
            title = f"{task.name}, step {self.step}"
            with self.averaged():
                text = write_samples(self.accelerator, self.bare, samples, task.stage.samples, title)
            self.run.folder.write(f"samples/{task.name}-{self.step:06d}.md", text)
        if self.run.main:
            curves_picture(self.run.folder.lines(), self.run.folder.path / "curves.png")
        self.save()
        self.run.keep_best(standing.best, self.step)
        standing.refuse(self.step)

    def save(self) -> None:
        """Write last/ with everything that --resume needs; raises Unsound, and leaves it, after a broken step."""
        from accelerate.utils import gather_object

        self.settle()
        own = {
            "random": random_state(self.accelerator.device),
            "window": self.window,
        }
        ranks = gather_object([own])
        model = whole_model(self.bare, self.run.main) if self.sharded else None
        spread_out = self.run.launch.sharding != "none"
        optimizer = whole_optimizer(self.optimizer, self.run.main) if spread_out else self.optimizer.state_dict()
        if self.run.main:
            write_folder(self.run.folder.last, lambda draft: self.write(draft, ranks, model, optimizer))
            if self.cfg.run.keep:
                order = self.cfg.run.stages.index(self.task.name)
                kept = self.run.folder.path / "kept"
                keep(self.run.folder.last, kept, order, self.task.name, self.step, self.cfg.run.keep)
        self.accelerator.wait_for_everyone()
        self.guard.saved = self.step

    def write(
        self, draft: Path, ranks: list[dict[str, Any]], model: dict[str, Any] | None, optimizer: dict[str, Any]
    ) -> None:
        """Fill the folder of last/. Averaged weights are the model there; the optimiser's own are trainer's state."""
        with self.averaged():
            self.bare.save_pretrained(draft, state_dict=model)
        (draft / STATE).mkdir()
        if self.average:
            write_tensors(draft / STATE / "weights.pt", self.average.raw())
        state = {
            "format": FORMAT,
            "mdf": __version__,
            "stage": self.task.name,
            "step": self.step,
            "total": self.total,
            "sampler": self.sampler.after(self.step).state(),
            "standing": self.standing.state(),
            "seconds": self.meter.seconds,
            "level": self.guard.level.state(),
            "missing": self.missing,
            "captions_cut": self.cut,
            "one_class": self.one_class,
            "precision": self.run.precision,
            "processes": self.accelerator.num_processes,
            "config": plain(self.cfg),
        }
        (draft / STATE / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        write_tensors(draft / STATE / "optimizer.pt", optimizer)
        for rank, own in enumerate(ranks):
            write_tensors(draft / STATE / f"rank-{rank}.pt", own)

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to where last/ was written."""
        folder = self.run.folder
        self.step, self.meter.seconds, self.guard.saved = saved["step"], saved["seconds"], saved["step"]
        if "level" in saved:
            self.guard.level.restore(saved["level"])
        self.standing.restore(saved["standing"])
        if self.average:
            self.average.restore(read_tensors(folder.last / STATE / "weights.pt"))
        self.missing, self.cut = saved.get("missing", 0), saved.get("captions_cut", 0)
        self.one_class = saved.get("one_class", 0)
        spread_optimizer(self.optimizer, read_tensors(folder.last / STATE / "optimizer.pt"))
        rank = self.accelerator.process_index
        ranks = [read_tensors(folder.last / STATE / f"rank-{r}.pt") for r in range(saved["processes"])]
        self.window = self.empty_window() | ranks[0]["window"]  # the same on every process
        if "norms" not in ranks[0]["window"]:  # an mdf before wrote it, where each process kept its own losses
            self.window["losses"] = torch.stack([own["window"]["losses"].cpu() for own in ranks]).sum(0)
        self.run.say(f"resumed {self.task.name} after step {self.step} of {self.total}")
        if len(ranks) == self.accelerator.num_processes:
            restore_random_state(ranks[rank]["random"], self.accelerator.device)
            return
        seed_everything(self.cfg.run.seed, self.cfg.run.stages.index(self.task.name), rank, self.step)
        self.run.say(
            f"processes: {len(ranks)} then, {self.accelerator.num_processes} now. Photographs come in the same order; "
            "the random numbers of dropout are seeded anew by seed, stage, process and step"
        )
