"""Checkpoints that are whole or not there, and the trainer's state beside them.

A folder is written under a temporary name, synced and renamed over the old one; whatever goes wrong before that leaves
the old one untouched. `last/trainer_state/` is read without unpickling code.
"""

import errno
import json
import math
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdf import __version__
from mdf.checking import CONTRASTS
from mdf.config import Config
from mdf.errors import UserError

STATE = "trainer_state"
FORMAT = 2  # of trainer_state/; 1 was without a number, and is read
MAY_CHANGE = ("run.log_every", "run.keep_last_every", "run.keep", "run.threads", "run.overwrite", "data.cache_gb",
              "data.missing", "stop_on_collapse", "run.trackers", "run.peak_tflops", "run.spike",
              "gradient_checkpointing", "language.attention", "features_gb", "run.gpu_gb")  # fmt: skip
CUTS = ("batch_size", "accumulation")  # how a step is cut up, which `refuse_other_steps` judges
FULL = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122")  # as safetensors says it


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Replace `folder` by one that `fill` writes into the path it is given.

    Raises OSError(ENOSPC) where the disk is full, whichever library noticed it; the old folder is then still there.
    """
    draft, old = folder.with_name(f".{folder.name}.draft"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        fill(draft)
        umask = os.umask(0)
        os.umask(umask)
        for path in [*draft.rglob("*"), draft]:
            if path.is_file():
                path.chmod(0o666 & ~umask)  # safetensors makes files that only their owner can read
            sync(path)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if is_full(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Bring back the old folder where a crash fell between the two renames of `write_folder`."""
    old = folder.with_name(f".{folder.name}.old")
    if not folder.exists() and old.exists():
        try:
            old.rename(folder)
        except OSError:  # another process of this run was first
            if not folder.exists():
                raise


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_full(error: BaseException) -> bool:
    """Whether a full disk or quota is behind `error`; safetensors and torch raise errors of their own for it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(cause) for words in FULL):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def link_tree(source: Path, target: Path, *leave: str) -> None:
    """Copy a folder's content but the names `leave`; files are linked where the disk can.

    Nothing of ours changes a file of a checkpoint in place, so that a link is as good as a copy.
    """

    def copy(file: str, to: str) -> str:
        try:
            os.link(file, to)
            return to
        except OSError:
            return shutil.copy2(file, to)

    shutil.copytree(source, target, dirs_exist_ok=True, copy_function=copy, ignore=shutil.ignore_patterns(*leave))


def promote(last: Path, best: Path) -> None:
    """Make best/ the same checkpoint as last/, without the trainer's state."""
    write_folder(best, lambda draft: link_tree(last, draft, STATE))


def keep(last: Path, kept: Path, order: int, stage: str, step: int, count: int) -> None:
    """Keep last/ as kept/ORDER-STAGE-STEP too, whole, and of those before it the newest `count` - 1.

    One that goes is renamed first, so that a crash never leaves half of it under its name.
    """
    write_folder(kept / f"{order}-{stage}-{step:06d}", lambda draft: link_tree(last, draft))
    for rest in [*kept.glob(".*.old"), *kept.glob(".*.draft")]:
        shutil.rmtree(rest, ignore_errors=True)

    def place(folder: Path) -> tuple[int, int]:
        number, _, at = folder.name.split("-")
        return int(number), int(at)

    there = sorted((f for f in kept.glob("[0-9]*-*-[0-9]*") if place(f) <= (order, step)), key=place)
    for old in there[:-count]:
        gone = old.with_name(f".{old.name}.old")
        old.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def random_state(device: torch.device) -> dict[str, Any]:
    """The generators of torch, numpy and python as plain values and tensors."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": random.getstate(),
    }


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Set the generators to what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def seed_everything(*numbers: int) -> None:
    """Seed torch, numpy and python by a tuple of numbers."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def plain(cfg: Config) -> dict[str, Any]:
    """The configuration as it looks after a round through JSON."""
    return json.loads(json.dumps(asdict(cfg)))


def with_defaults(saved: Any, cfg: Any) -> Any:
    """`saved` with the settings that the mdf which saved it did not know yet: their defaults, which do as it did."""
    if not is_dataclass(cfg) or not isinstance(saved, dict):
        return saved
    kind: Any = type(cfg)
    fresh = plain(kind())
    known = {f.name: with_defaults(saved[f.name], getattr(cfg, f.name)) for f in fields(cfg) if f.name in saved}
    return {**fresh, **saved, **known}


def differences(saved: Any, now: Any, path: str = "", sides: tuple[str, str] = ("in the run", "now")) -> list[str]:
    """Keys under which two configurations differ, with both values."""
    if isinstance(saved, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*saved, *now]))
        return [line for k in keys for line in differences(saved.get(k), now.get(k), f"{path}.{k}".lstrip("."), sides)]
    may_change = any(path == key or path.endswith(f".{key}") for key in MAY_CHANGE)  # a stage has its own data
    return [] if saved == now or may_change else [f"{path}: {saved!r} {sides[0]}, {now!r} {sides[1]}"]


def read_state(last: Path, cfg: Config) -> dict[str, Any] | None:
    """state.json of a run's last/, or None where nothing was saved yet.

    Raises UserError where a newer mdf wrote it, or where the configuration has changed, listing the keys.
    """
    path = last / STATE / "state.json"
    if not path.is_file():
        return None
    state = json.loads(path.read_text(encoding="utf-8"))
    wrote = state.get("mdf", "0.1.0 or older")
    if state.get("format", 1) > FORMAT:
        raise UserError(
            f"--resume: {path} was written by mdf {wrote}, in a form that mdf {__version__} does not know; go on with "
            f"that version, or start another run from its weights with run.start_from={last}"
        )
    if "standing" not in state:  # an mdf without early stopping wrote it
        state["standing"] = {"best": state["best"], "ended": False}
    changed = differences(with_defaults(state["config"], cfg), plain(cfg))
    changed = [line for line in changed if line.split(":")[0].rpartition(".")[2] not in CUTS]
    if changed:
        raise UserError(
            f"--resume continues {last.parent} as it was started (by mdf {wrote}; this is {__version__}), but these "
            "settings differ:\n  " + "\n  ".join(changed) + "\n"
            f"Set them back, or start another run with run.name=NAME. Only {', '.join(MAY_CHANGE)} may change, and "
            "how a step is cut into batch_size, accumulation and processes."
        )
    return state


def refuse_other_steps(saved: dict[str, Any], cfg: Config, processes: int) -> None:
    """Raise UserError where a step would hold other photographs than it did, see `other_steps`."""
    if lines := other_steps(saved, cfg, processes):
        raise UserError(
            "--resume: a step has to hold the photographs that it held (batch_size · processes · accumulation), and "
            "a loss that compares photographs as many at a time:\n  " + "\n  ".join(lines)
        )


def other_steps(saved: dict[str, Any], cfg: Config, processes: int) -> list[str]:
    """A line for each stage a step of which would hold other photographs than it did, or was said to have.

    A step is batch_size · processes · accumulation photographs, however it is cut. Losses that compare photographs see
    batch_size · processes of them at a time, which then has to stay, too. A stage that is done keeps its own numbers,
    with whatever number of processes it was trained.
    """
    lines, current = [], cfg.run.stages.index(saved["stage"])
    for place, name in enumerate(cfg.run.stages):
        before, stage = saved["config"][name], getattr(cfg, name)
        had = before["batch_size"], saved["processes"], before["accumulation"]
        has = stage.batch_size, processes, stage.accumulation
        compared = any(weight > 0 and loss in CONTRASTS for loss, weight in stage.losses.items())
        if math.prod(had) == math.prod(has) and (not compared or had[2] == has[2]):
            continue
        if place < current:
            if (had[0], had[2]) != (has[0], has[2]):
                way = f"is done, set {name}.batch_size={had[0]} {name}.accumulation={had[2]}"
                lines.append(f"{name}: {product(*had)} then, {product(*has)} now; {way}")
            continue
        size = had[0] * had[1] if compared else math.prod(had)
        shares = [f"{name}.accumulation={had[2]}"] if compared and had[2] != has[2] else []
        if size % processes:
            way = f"{size} cannot be shared by {processes} processes: launch a number that divides it"
        elif not compared and size % (processes * stage.batch_size) == 0:
            way = f"set {name}.accumulation={size // processes // stage.batch_size}"
        else:
            shares += [f"{name}.batch_size={size // processes}"] if size != has[0] * processes or not shares else []
            shares += [f"{name}.accumulation=1"] if not compared and has[2] != 1 else []
            way = f"set {' '.join(shares)}"
        lines.append(f"{name}: {product(*had)} then, {product(*has)} now; {way}")
    return lines


def product(batch_size: int, processes: int, accumulation: int) -> str:
    """The arithmetic of a step."""
    return f"{batch_size} · {processes} · {accumulation} = {batch_size * processes * accumulation}"


def write_tensors(path: Path, values: Any) -> None:
    """Write tensors and plain values, through a file of ours: torch's own does not say when the disk is full."""
    with path.open("wb") as file:
        torch.save(values, file)


def read_tensors(path: Path) -> Any:
    """A file of tensors and plain values; never unpickles code."""
    return torch.load(path, map_location="cpu", weights_only=True)
