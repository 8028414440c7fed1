"""Where the numbers of a run go beside its metrics.jsonl: TensorBoard, Weights & Biases, MLflow, trackio.

They are written below the run's folder (trackio: into its own database), and nothing leaves the machine unless the
tracker's own environment variable says so (SERVERS). What they are told are numbers and the settings that are numbers,
switches or of a closed list: no path, no name of a photograph or patient, no text, no picture.
"""

import importlib.util
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any

from mdf.checking import BEST, CHOICES, SCHEDULES
from mdf.config import Config, RunConfig
from mdf.errors import UserError
from mdf.training.run_folder import RunFolder

PROJECT = "mdf"  # the name under which a tracker keeps all runs
SERVERS = {  # variable with which a user lets a tracker send its numbers away
    "wandb": "WANDB_MODE=online",
    "mlflow": "MLFLOW_TRACKING_URI=http://…",
    "trackio": "TRACKIO_SPACE_ID=… or TRACKIO_SERVER_URL=…",
}
IDS = "trackers.json"  # of the run's folder: what each tracker calls the run
WORDS = {*SCHEDULES, *BEST, "frozen", "lora", "full"}.union(*CHOICES.values())  # settings that are no free text


def tracking(run: RunConfig) -> dict[str, Any]:
    """Keyword arguments of Accelerator for `run.trackers`.

    Raises UserError where the package of one is not installed.
    """
    if not run.trackers:
        return {}
    if missing := [name for name in run.trackers if importlib.util.find_spec(name) is None]:
        raise UserError(
            f'run.trackers: {", ".join(missing)} not installed; pip install "mdf-mllm[{",".join(missing)}]", or leave '
            "it out: metrics.jsonl has the same numbers"
        )
    return {"log_with": list(run.trackers), "project_dir": str(Path(run.dir) / run.name / "tensorboard")}


class Trackers:
    """The trackers of a run, which only its main process has."""

    def __init__(self, accelerator: Any, cfg: Config, folder: RunFolder, say: Callable[[str], None]):
        """Start them, or go on with what they hold where the run is resumed."""
        self.accelerator, self.stages, self.say = accelerator, cfg.run.stages, say
        self.folder = folder.path
        self.totals: dict[str, int] = {}  # steps of each stage so far: a tracker counts through all of them
        if not cfg.run.trackers or not accelerator.is_main_process:
            return
        step = max((self.place(line) for line in folder.lines()), default=-1)
        path = self.folder / IDS
        ids = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        names, told = ", ".join(cfg.run.trackers), None if ids else shared(cfg)
        try:
            start = {name: self.settings(name, cfg.run.name, ids, step) for name in cfg.run.trackers}
            accelerator.init_trackers(PROJECT, config=told, init_kwargs=start)
        except Exception as error:
            accelerator.trackers.clear()
            raise UserError(
                f"run.trackers: {names} did not start ({type(error).__name__}: {first_line(error)}); mend that, or "
                "leave it out: metrics.jsonl has the same numbers"
            ) from error
        for name in cfg.run.trackers:
            ids.setdefault(name, name)
            if name == "mlflow":
                ids[name] = accelerator.get_tracker(name, unwrap=True).info.run_id
        path.write_text(json.dumps(ids) + "\n", encoding="utf-8")
        away = [SERVERS[name] for name in cfg.run.trackers if name in SERVERS]
        say(f"trackers: {names}, on this machine" + (f" unless told otherwise ({', '.join(away)})" if away else ""))

    def settings(self, name: str, run: str, ids: dict[str, str], step: int) -> dict[str, Any]:
        """What accelerate hands to one tracker; `step` is the last that was logged, -1 at the start."""
        if name == "tensorboard":
            return {"purge_step": step + 1} if step >= 0 else {}
        if name == "wandb":
            own = ids.setdefault(name, secrets.token_hex(4))
            return {"id": own, "name": run, "resume": "allow", "dir": str(self.folder), "settings": quiet_wandb()}
        if name == "mlflow":
            tags = {"mlflow.source.name": "mdf", "mlflow.user": "-"}  # else a path, and who is logged in
            return {"run_id": ids.get(name), "run_name": run, "tags": tags, **local_mlflow(self.folder.resolve())}
        return {"name": run, "resume": "allow" if name in ids else "never", "embed": False}

    def place(self, line: dict[str, Any]) -> int:
        """The step of a line counted through all stages."""
        self.totals[line["stage"]] = line["total"]
        before = self.stages[: self.stages.index(line["stage"])]
        return sum(self.totals.get(stage, 0) for stage in before) + line["step"]

    def log(self, line: dict[str, Any]) -> None:
        """Tell them the numbers of a line of metrics.jsonl, each as STAGE/NAME.

        One that fails is left out from there on, aloud: it must not end a training.
        """
        step = self.place(line)
        numbers = {
            f"{line['stage']}/{name}": value
            for name, value in line.items()
            if isinstance(value, int | float) and name not in ("step", "total")
        }
        for tracker in list(self.accelerator.trackers):
            try:
                tracker.log(numbers, step=step)
            except Exception as error:
                self.accelerator.trackers.remove(tracker)
                why = f"{type(error).__name__}: {first_line(error)}"
                self.say(f"{tracker.name} failed and is left out from here on ({why}); metrics.jsonl goes on")


def finish(accelerator: Any) -> None:
    """Close the trackers; one that cannot be closed changes nothing about how the run ended."""
    while accelerator.trackers:
        tracker = accelerator.trackers.pop()
        try:
            tracker.finish()
        except Exception as error:
            print(f"{tracker.name} did not close ({type(error).__name__}: {first_line(error)})", flush=True)


def quiet_wandb() -> Any:
    """Settings of wandb that keep everything but our numbers to itself, on this machine unless WANDB_MODE is set."""
    import wandb

    os.environ.setdefault("WANDB_MODE", "offline")
    return wandb.Settings(
        console="off",  # what is printed names photographs
        disable_git=True,
        save_code=False,
        host="-",
        program="mdf",
        silent=True,
        x_disable_meta=True,  # command line, paths, host
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )


def local_mlflow(folder: Path) -> dict[str, str]:
    """Have MLflow write into the run's folder unless MLFLOW_TRACKING_URI is set."""
    import mlflow

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    server = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(server or f"sqlite:///{folder / 'mlflow.db'}")
    if server:
        return {}
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # mlflow sets it, but the user did not
    return {"logging_dir": str(folder / "mlflow")}


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def shared(cfg: Config) -> dict[str, Any]:
    """The settings that a tracker is told, by their full key: numbers, switches, and words of a closed list."""
    found: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}".lstrip("."))
        elif isinstance(value, int | float) or (isinstance(value, str) and value in WORDS):
            found[path] = value

    for stage in cfg.run.stages:
        walk(asdict(getattr(cfg, stage)) | {"data": None}, stage)
    for section in ("run", "encoder", "unet", "fusion", "language", "dialogue", "captions", "augment"):
        walk(asdict(attrgetter(section)(cfg)), section)
    return found
