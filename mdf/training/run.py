"""A run: every stage in turn, each from the best of the one before."""

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any

import torch

from mdf import __version__
from mdf.config import Config
from mdf.errors import UserError
from mdf.records import Manifest
from mdf.trained_on import TrainedOn
from mdf.training.data import diagnoses_of, load_manifests, stage_data
from mdf.training.devices import agree, choose_precision, forget_accelerator, make_accelerator
from mdf.training.guard import Unsound
from mdf.training.launch import Launch, check_launch, launched
from mdf.training.loop import Stage
from mdf.training.out_of_memory import explain, is_out_of_memory
from mdf.training.run_folder import RunFolder, environment, weights_sha256
from mdf.training.saving import plain, promote, refuse_other_steps
from mdf.training.stages import Task
from mdf.training.standing import Collapsed, Standing
from mdf.training.start import first_model, next_model
from mdf.training.trackers import Trackers, finish, tracking
from mdf.training.unchanged import refuse_other_data

STOPPED, FAILED = 143, 1  # exit codes: SIGTERM after saving; no sound step, a collapse, or no memory


def train(cfg: Config, *, resume: bool = False) -> int:
    """Train all stages of `cfg.run.stages`; returns the exit code.

    With `resume` the run goes on where its last/ stands. Raises UserError for what the user has to mend.
    """
    launch = launched()
    check_launch(cfg, launch)
    folder, saved, failure = RunFolder(cfg), None, None
    try:
        saved = folder.check(resume)
        if saved:
            refuse_other_steps(saved, cfg, launch.processes)
    except UserError as error:
        failure = error
        if launch.processes == 1:
            raise
    wanted = saved["precision"] if saved and cfg.run.precision == "auto" else cfg.run.precision
    precision, why = choose_precision(wanted, cuda=torch.cuda.is_available())
    accelerator = make_accelerator(cfg.run, precision, launch, **tracking(cfg.run))
    facts = {
        "settings": plain(cfg),
        "mdf": __version__,
        "precision": precision,
        "sharding": launch.sharding,
        "processes of this machine": os.environ.get("LOCAL_WORLD_SIZE"),
        "step of last/": f"{saved['stage']} {saved['step']}" if saved else None,
    }
    try:
        agree(accelerator, failure, facts)
        with stop_signal() as stop:
            return Run(cfg, folder, accelerator, launch, precision, why, saved, stop).run()
    except (Unsound, Collapsed) as error:
        if accelerator.is_main_process or isinstance(error, Unsound):  # whose photographs are each process's own
            print(f"error: {error}", file=sys.stderr)
        return FAILED
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"error: {explain(error, cfg, accelerator.device, launch)}", file=sys.stderr, flush=True)
        return FAILED
    finally:
        finish(accelerator)
        if accelerator.num_processes > 1:
            accelerator.end_training()
        forget_accelerator()


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, instead of killing the process, as long as the context lasts."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def quiet(yes: bool) -> Iterator[None]:
    """Print nothing where `yes`: one process speaks for all."""
    with redirect_stdout(io.StringIO()) if yes else nullcontext():
        yield


class Run:
    """One run over its stages."""

    def __init__(
        self,
        cfg: Config,
        folder: RunFolder,
        accelerator: Any,
        launch: Launch,
        precision: str,
        why: str,
        saved: dict | None,
        stop: threading.Event,
    ):
        self.cfg, self.folder, self.accelerator, self.saved, self.stop = cfg, folder, accelerator, saved, stop
        self.launch, self.precision = launch, precision
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32  # of the language model's frozen weights
        self.main = accelerator.is_main_process
        self.say: Callable[[str], None] = (lambda text: print(text, flush=True)) if self.main else (lambda text: None)
        self.trackers: Trackers | None = None  # as soon as there is a folder
        count = accelerator.num_processes
        shards = f", the model in shards ({launch.sharding})" if launch.sharding != "none" else ""
        self.say(
            f"{count} process{'es' if count > 1 else ''} on {accelerator.device}{shards}, "
            f"{torch.get_num_threads()} CPU threads each; precision {precision}: {why}"
        )

    def run(self) -> int:
        """All stages that are not done; the exit code."""
        cfg, accelerator, stages, state = self.cfg, self.accelerator, self.cfg.run.stages, self.saved
        if state:
            standing = Standing(state["stage"], getattr(cfg, state["stage"]), "")
            standing.restore(state["standing"])
            standing.refuse(state["step"])
        with accelerator.local_main_process_first(), quiet(not self.main):
            manifests = load_manifests(cfg)
        start = stages.index(state["stage"]) if state else 0
        done = state is not None and (state["step"] == state["total"] or state["standing"]["ended"])
        failure = None
        try:
            if state:
                refuse_other_data(cfg, self.folder, manifests, stages[start + done :], done=done)
        except UserError as error:
            failure = error
        agree(accelerator, failure, {"SHA-256 of the data": {stage: m.sha256 for stage, m in manifests.items()}})
        if state:
            best = state["standing"]["best"]
            if done and best["step"] is None:  # no step of a collapsed stage was good, but the run is to go on
                best = {"step": state["step"]}
            self.keep_best(best, state["step"])
            if self.main:
                self.folder.cut_metrics(stages, state["stage"], state["step"])
            if done:
                start, state = start + 1, None
                if start == len(stages):
                    self.say(f"{self.folder.path} is trained to the end")
        for number, name in enumerate(stages[start:], start):
            new = number == 0 and state is None
            with accelerator.local_main_process_first():
                if new:
                    model = first_model(cfg, diagnoses_of(manifests), self.dtype)
                else:
                    model = next_model(cfg, self.folder.last if state else self.folder.best, self.dtype)
            task = Task(cfg, name)
            learnt = cfg.unet.masks if "mask" in task.weights else ()
            model.trained_on |= TrainedOn.of(manifests[name].records, learnt)
            data = stage_data(cfg, task, manifests[name], model.processor.prompts, self.say)
            if new and self.main:
                self.folder.create(self.facts(manifests, model), manifests)
            if new:
                accelerator.wait_for_everyone()
                agree(accelerator, self.folder.unseen())
            if self.trackers is None:
                self.trackers = Trackers(accelerator, cfg, self.folder, self.say)
            stage = Stage(self, task, data, model, state)
            state = None
            if not stage.fit():
                self.say(f"stopped after step {stage.step} of {name}; continue with --resume")
                return STOPPED
            del stage, model
            accelerator.free_memory()
        self.say(f"done: {self.folder.best}")
        return 0

    def facts(self, manifests: dict[str, Manifest], model: Any) -> dict[str, Any]:
        """What goes into environment.json."""
        device = self.accelerator.device
        return environment(
            manifests,
            model.processor.preprocessing.hash(),
            encoder=model.encoder.architecture.get("weights"),  # of a released encoder: file, fingerprint, norms
            precision=self.precision,
            device=str(device),
            gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            processes=self.accelerator.num_processes,
            threads=torch.get_num_threads(),
            start_from=weights_sha256(self.cfg.run.start_from) if self.cfg.run.start_from else None,
        )

    def log(self, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl, whose numbers the trackers get, too."""
        assert self.trackers is not None
        self.folder.log(line)
        self.trackers.log(line)

    def keep_best(self, best: dict[str, Any], step: int) -> None:
        """Make best/ of last/ where the best step is the one that last/ holds (again after a crash between the two)."""
        if self.main and best["step"] == step:
            promote(self.folder.last, self.folder.best)
        self.accelerator.wait_for_everyone()
