"""Runs a grid: every cell a run folder of its own, one process a GPU, done cells left alone, failed ones said.

Training and evaluation are the scripts themselves, each in a process of its own: what is measured is what a user gets,
one that fails takes no other along, and memory is given back.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mdf.config import save_config
from mdf.errors import UserError
from mdf.files import write_text
from mdf.training.grid_file import START, Cell, EvaluateConfig, GridConfig
from mdf.training.progress import duration
from mdf.training.run import STOPPED, stop_signal
from mdf.training.run_folder import weights_sha256
from mdf.training.saving import other_steps, read_state, recover

DONE = "cell.json"  # in the folder of a cell that is trained and evaluated: what was asked of it
Commands = tuple[Sequence[str], Sequence[str]]  # what starts scripts/train.py, and scripts/evaluate.py


def slots(jobs: int) -> list[dict[str, str]]:
    """The environment of each process that may run at a time: one a visible GPU, or `jobs`; `jobs` on the CPU, or 1.

    More jobs than GPUs share them.
    """
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    gpus = [g for g in (named or "").split(",") if g] or [str(i) for i in range(count)]
    gpus = gpus[:count]
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i in range(jobs or len(gpus))]
    threads = threads_each(jobs)
    return [{"OMP_NUM_THREADS": str(threads)} if threads else {} for _ in range(jobs or 1)]


def threads_each(jobs: int) -> int:
    """CPU threads of each of several jobs that share the processor; 0 = as a run alone has."""
    return max(1, len(os.sched_getaffinity(0)) // jobs) if jobs > 1 and hasattr(os, "sched_getaffinity") else 0


def words_of(cell: Cell, asked: EvaluateConfig) -> list[str]:
    """The words of scripts/evaluate.py for a cell."""
    words = ["--checkpoint", str(cell.folder), "--data", asked.data or str(cell.folder / "data.jsonl")]
    words += ["--split", asked.split, "--tasks", ",".join(asked.tasks), "--out", str(cell.folder / "evaluation")]
    return [*words, "--limit", str(asked.limit)]


def request(cell: Cell, asked: EvaluateConfig) -> list[str]:
    """What is asked of a cell beyond its training."""
    return [] if cell.row == START else words_of(cell, asked)


def record(cell: Cell, name: str = DONE) -> dict:
    """What a JSON file in the folder of a cell holds; {} where it is not there, of DONE: where the cell is not done."""
    try:
        return json.loads((cell.folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def is_done(cell: Cell, asked: EvaluateConfig) -> bool:
    """Whether there is nothing left to do for a cell."""
    return record(cell).get("evaluate") == request(cell, asked)


def evaluations(cells: Sequence[Cell], asked: EvaluateConfig) -> dict[str, dict[int, Path]]:
    """{row: {seed: folder of its evaluation}} of the cells that were evaluated as it is `asked`, and of no others:
    what an earlier call asked for may be of other photographs.
    """
    found: dict[str, dict[int, Path]] = {cell.row: {} for cell in cells if cell.row != START}
    for cell in cells:
        if cell.row != START and is_done(cell, asked):
            found[cell.row][cell.seed] = cell.folder / "evaluation"
    return found


def refuse_others(cells: Sequence[Cell]) -> None:
    """Raise UserError where the folder of a cell holds a run with other settings, or one that went on from another
    start, before anything runs.
    """
    found: dict[str, str] = {}
    for cell in cells:  # starts come first
        recover(cell.folder / "last")
        lines = []
        try:
            state = read_state(cell.folder / "last", cell.cfg)
            if state:
                lines = other_steps(state, cell.cfg, state["processes"])
        except UserError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.startswith("  ")] or [str(error)]
        if cell.start is not None and begun(cell):
            if cell.start.name in found:
                lines.append(f"went on from {cell.start.name}")
            elif not begun(cell.start):
                lines.append(f"went on from a {cell.start.name} that is not there any more")
            elif not is_from(cell, cell.start):
                lines.append(f"went on from another {cell.start.name} than the one that is there")
        if lines:
            found[cell.name] = f"{cell.folder}: {'; '.join(lines)}"
    if found:
        raise UserError(
            "these runs of the grid were trained with other settings, or went on from others:\n  "
            + "\n  ".join(found.values())
            + "\nSet them back, write the grid into another folder with --out, or remove these runs"
        )


def begun(cell: Cell) -> bool:
    """Whether there is anything of a cell that the next call would go on from or leave alone."""
    return (cell.folder / "last").is_dir() or (cell.folder / DONE).is_file()


def is_from(cell: Cell, start: Cell) -> bool:
    """Whether a run went on from the weights that its start has now.

    Where an older mdf trained it, it does not say; then it did if an older mdf trained the start, too.
    """
    had, key = record(cell, "environment.json"), "start_from"
    if key in had:
        return had[key] == weights_sha256(start.folder / "best")
    return key not in record(start, "environment.json")


def steps_of(cell: Cell, commands: Commands, asked: EvaluateConfig) -> list[list[str]]:
    """What has to run for a cell, one after the other."""
    config = cell.folder.parent / "configs" / f"{cell.name}.yaml"
    save_config(cell.cfg, config)
    train = [*commands[0], "--config", str(config)]
    if (cell.folder / "last").is_dir():
        train.append("--resume")
    elif cell.folder.exists():
        train.append("run.overwrite=true")  # it was stopped before anything was saved
    return [train] if cell.row == START else [train, [*commands[1], *words_of(cell, asked)]]


@dataclass
class Job:
    """A cell that runs: its steps one after the other, all they say in one file."""

    cell: Cell
    left: list[list[str]]
    environment: dict[str, str]
    log: Path
    began: float = field(default_factory=time.monotonic)
    fresh: bool = True  # nothing of it ran before, so that its time is the cell's
    process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start the next step."""
        words = self.left.pop(0)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(words)}\n")
            file.flush()
            env = os.environ | self.environment
            self.process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=env)

    def reason(self, code: int) -> str:
        """Why the last step failed, as it said itself."""
        lines = [x for x in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if x.strip()]
        lines = lines[max(i for i, x in enumerate(lines) if x.startswith("$ ")) + 1 :]
        said = next((x for x in reversed(lines) if x.startswith("error:")), lines[-1] if lines else "said nothing")
        return f"exit code {code}: {said.removeprefix('error: ').strip()} ({self.log})"


@dataclass
class Runner:
    """Runs the cells of a grid in `slots`, each cell after the one that it goes on from."""

    cells: Sequence[Cell]
    grid: GridConfig
    commands: Commands
    slots: Sequence[dict[str, str]]
    after: Callable[[dict[str, str]], None] = lambda failed: None  # whenever a cell has ended
    say: Callable[[str], None] = lambda text: print(text, flush=True)
    wait: float = 0.2  # seconds between two looks at the processes

    def __post_init__(self) -> None:
        self.failed: dict[str, str] = {}  # name of a cell -> why
        self.spent: list[tuple[float, float]] = []  # seconds and share of the work of cells that ended here

    def run(self) -> int:
        """The exit code: 0, 1 where a cell failed, 143 where SIGTERM came; then running cells save and are resumed by
        the next call.
        """
        refuse_others(self.cells)
        asked = self.grid.evaluate
        waiting = [cell for cell in self.cells if not is_done(cell, asked)]
        if done := len(self.cells) - len(waiting):
            self.say(f"{done} of {len(self.cells)} runs are done already")
        running: dict[int, Job] = {}
        with stop_signal() as stop:
            try:
                while (waiting or running) and not stop.is_set():
                    self.fill(waiting, running)
                    time.sleep(self.wait)
                    for number, job in list(running.items()):
                        if self.step(job):
                            del running[number]
                            self.after(self.failed)
                            self.tell(job.cell, waiting, running)
            finally:  # also on ctrl-c; each saves where it is
                for job in running.values():
                    if job.process is not None and job.process.poll() is None:
                        job.process.terminate()
                for job in running.values():
                    if job.process is not None:
                        job.process.wait()
        self.after(self.failed)
        if stop.is_set():
            self.say("stopped; the same command goes on")
            return STOPPED
        return 1 if self.failed else 0

    def fill(self, waiting: list[Cell], running: dict[int, Job]) -> None:
        """Start a cell in every free slot; those whose start failed are given up."""
        asked = self.grid.evaluate
        for cell in list(waiting):
            if cell.start is not None and cell.start.name in self.failed:
                waiting.remove(cell)
                self.failed[cell.name] = f"{cell.start.name}, from which it goes on, failed"
        for number, environment in enumerate(self.slots):
            ready = [c for c in waiting if c.start is None or is_done(c.start, asked)]
            if number in running or not ready:
                continue
            cell = ready[0]
            waiting.remove(cell)
            log = cell.folder.parent / "logs" / f"{cell.name}.log"
            job = Job(cell, steps_of(cell, self.commands, asked), environment, log, fresh=not cell.folder.exists())
            (cell.folder / DONE).unlink(missing_ok=True)  # what it says is about to be replaced
            job.start()
            running[number] = job
            self.say(f"{cell.name}: started, {log}")

    def step(self, job: Job) -> bool:
        """Look at a job, start its next step where one has ended; whether the cell has ended."""
        assert job.process is not None
        code = job.process.poll()
        if code is None:
            return False
        if code != 0:
            self.failed[job.cell.name] = job.reason(code)
            return True
        if job.left:
            job.start()
            return False
        passed = time.monotonic() - job.began
        facts = {"evaluate": request(job.cell, self.grid.evaluate), "seconds": round(passed) if job.fresh else None}
        write_text(job.cell.folder / DONE, json.dumps(facts, indent=1) + "\n")
        if job.fresh:
            self.spent.append((passed, self.work(job.cell)))
        return True

    def work(self, cell: Cell) -> float:
        """How long a cell is beside others: its steps, or 1 where some count in epochs."""
        counts = [c.steps for c in self.cells]
        return 1.0 if None in counts else float(cell.steps or 0)

    def tell(self, cell: Cell, waiting: Sequence[Cell], running: dict[int, Job]) -> None:
        """A line on a cell that has ended, with how long the others will take."""
        left = [*waiting, *(job.cell for job in running.values())]
        ended = f"FAILED, {self.failed[cell.name]}" if cell.name in self.failed else "done"
        share = sum(work for _, work in self.spent)
        text = f"{cell.name}: {ended}. {len(self.cells) - len(left)} of {len(self.cells)}"
        if left and share:
            seconds = sum(passed for passed, _ in self.spent) / share * sum(self.work(c) for c in left)
            text += f", ETA {duration(seconds / min(len(self.slots), len(left)))}"
        self.say(text)


def plan(cells: Sequence[Cell], asked: EvaluateConfig, processes: int) -> str:
    """The cells with their steps as text, and how long they would take, as far as cells that are done tell."""
    lines, rates = [], []
    for cell in cells:
        seconds = record(cell).get("seconds")
        if seconds and cell.steps:
            rates.append(seconds / cell.steps)
    left = [cell for cell in cells if not is_done(cell, asked)]
    for cell in cells:
        stages = ", ".join(f"{s} {getattr(cell.cfg, s).steps or f'{getattr(cell.cfg, s).epochs:g} epochs'}"
                           for s in cell.cfg.run.stages)  # fmt: skip
        state = "to do" if cell in left else "done"
        after = f" after {cell.start.name}" if cell.start else ""
        lines.append(f"{cell.name:<32}{state:<7}{stages}{after}")
    counts = [cell.steps for cell in left]
    text = f"{len(left)} of {len(cells)} runs to do, {processes} at a time"
    if None not in counts:
        total = sum(c or 0 for c in counts)
        text += f", {total} steps"
        if rates and total:
            text += f", about {duration(sum(rates) / len(rates) * total / processes)} as the done ones tell"
    if not rates:
        text += "; how long they take is known once one is done"
    return "\n".join([*lines, text])


def scripts(folder: Path) -> Commands:
    """What starts the scripts that lie in `folder`."""
    return [sys.executable, str(folder / "train.py")], [sys.executable, str(folder / "evaluate.py")]
