"""The folder of a run: what it holds, who may write into it, and what it says about where it came from."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mdf.config import Config, save_config
from mdf.errors import UserError
from mdf.files import read_lines, sha256
from mdf.records import Manifest, write_manifest
from mdf.resources import PACKAGE
from mdf.training.saving import read_state, recover, sync

PACKAGES = ("mdf", "torch", "torchvision", "transformers", "accelerate", "peft", "open_clip_torch", "timm",
            "segmentation_models_pytorch", "datasets", "bitsandbytes", "deepspeed", "safetensors", "tokenizers",
            "numpy", "pillow")  # fmt: skip
OF_A_RUN = ("config.yaml", "environment.json", "metrics.jsonl")


class RunFolder:
    """runs/NAME of a configuration."""

    def __init__(self, cfg: Config):
        self.cfg, self.path = cfg, Path(cfg.run.dir) / cfg.run.name
        self.last, self.best, self.metrics = self.path / "last", self.path / "best", self.path / "metrics.jsonl"

    def unseen(self, patience: float = 60.0) -> UserError | None:
        """What is wrong where this machine does not find what the first one has just written.

        A network disk may remember for some time (`patience`, seconds) that the folder was not there.
        """
        until = time.monotonic() + patience
        while not self.metrics.exists():
            if time.monotonic() > until:
                where = f"{self.path} is not there on the machine of this process"
                return UserError(f"{where}; run.dir has to lie on a disk that all machines share")
            time.sleep(0.5)
        return None

    def check(self, resume: bool) -> dict[str, Any] | None:
        """The saved state to go on from, or None for a new start. Changes nothing.

        Raises UserError where the run exists and neither --resume nor run.overwrite was given, or where there is
        nothing to resume.
        """
        run = self.cfg.run
        exists = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
        if exists and (resume or run.overwrite) and not any((self.path / name).exists() for name in OF_A_RUN):
            raise UserError(
                f"{self.path} is not the folder of a run, and nothing in it will be touched; choose another run.name"
            )
        if resume:
            if not exists:
                raise UserError(f"--resume: there is no run {self.path}; leave --resume away to start it")
            recover(self.last)
            recover(self.best)
            return read_state(self.last, self.cfg)
        if exists and not run.overwrite:
            raise UserError(
                f"{self.path} exists already: continue it with --resume, or replace it with run.overwrite=true"
            )
        if run.start_from and Path(run.start_from).resolve().is_relative_to(self.path.resolve()):
            raise UserError(
                f"run.start_from: {run.start_from} lies in the run that is to be replaced; choose another run.name"
            )
        return None

    def create(self, environment: dict[str, Any], manifests: dict[str, Manifest]) -> None:
        """Make the folder anew (`check` has said that it may go) and write what is known before the first step.

        data.jsonl is what the last stage reads, that is what the finished model is evaluated on.
        """
        if self.path.exists():
            shutil.rmtree(self.path)
        (self.path / "samples").mkdir(parents=True)
        self.metrics.write_text("")
        save_config(self.cfg, self.path / "config.yaml")
        self.write("environment.json", json.dumps(environment, indent=1) + "\n")
        for stage, manifest in manifests.items():
            path = self.data_file(stage, manifests)
            if path.exists():
                continue
            meta = manifest.meta
            write_manifest(
                path,
                manifest.records,
                root=manifest.root,
                dataset=meta.get("dataset") or self.cfg.data.name,
                release=meta.get("release"),
                split_seed=meta.get("split_seed", self.cfg.run.seed),
                split=meta.get("split"),
            )

    def data_file(self, stage: str, manifests: dict[str, Manifest]) -> Path:
        """Where the photographs of a stage are written down as they were when the run began."""
        own, last = manifests[stage], list(manifests.values())[-1]
        first = next(name for name, manifest in manifests.items() if manifest is own)
        return self.path / ("data.jsonl" if own is last else f"data-{first}.jsonl")

    def write(self, name: str, text: str) -> None:
        """Write one small file of the run."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def add_table(self, stage: str, table: str) -> None:
        """Add a stage's table of what trains to trainable.txt, once."""
        path = self.path / "trainable.txt"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if f"stage {stage}\n" not in text:
            self.write("trainable.txt", text + table + "\n\n")

    def log(self, line: dict[str, Any]) -> None:
        """Append one object to metrics.jsonl."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """The objects of metrics.jsonl; [] before there are any."""
        return read_lines(self.metrics) if self.metrics.exists() else []

    def cut_metrics(self, stages: tuple[str, ...], stage: str, step: int) -> None:
        """Drop the lines of metrics.jsonl after `step` of `stage`, and a line that a crash left half written."""
        kept = []
        for text in self.metrics.read_text(encoding="utf-8").split("\n") if self.metrics.exists() else []:
            try:
                line = json.loads(text)
            except ValueError:
                break
            if (stages.index(line["stage"]), line["step"]) <= (stages.index(stage), step):
                kept.append(text)
        draft = self.metrics.with_name(".metrics.jsonl.draft")
        draft.write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")
        sync(draft)
        os.replace(draft, self.metrics)


def environment(manifests: dict[str, Manifest], preprocessing_hash: str, **more: Any) -> dict[str, Any]:
    """What a result depends on beside its configuration."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": platform.machine(),
        "packages": versions,
        "git_commit": git_commit(),
        "data_sha256": {stage: m.sha256 for stage, m in manifests.items()},
        "preprocessing": preprocessing_hash,
        **more,
    }


def weights_sha256(checkpoint: str | Path | None) -> str | None:
    """Which weights a checkpoint holds: SHA-256 of its model.safetensors; None where it is not there."""
    try:
        return sha256(Path(checkpoint or "") / "model.safetensors")
    except OSError:
        return None


def git_commit() -> str | None:
    """The commit of the checkout that this package runs from, with a + where files differ; None outside a checkout."""
    if not (PACKAGE.parent / ".git").exists():
        return None

    def git(*words: str) -> str:
        call = ["git", *words]
        return subprocess.run(
            call, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        head, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")
