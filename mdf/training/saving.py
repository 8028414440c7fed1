"""Checkpoints that are whole or not there, and the trainer's state beside them.

A folder is written under a temporary name, synced and renamed over the old one; whatever goes wrong before that leaves
the old one untouched. `last/trainer_state/` is read without unpickling code.
"""

import errno
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdf.config import Config
from mdf.errors import UserError

STATE = "trainer_state"
MAY_CHANGE = ("run.log_every", "run.keep_last_every", "run.threads", "run.overwrite", "data.cache_gb", "data.missing",
              "stop_on_collapse", "features_gb")  # fmt: skip
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


def promote(last: Path, best: Path) -> None:
    """Make best/ the same checkpoint as last/, without the trainer's state. Weights are linked where the disk can."""

    def copy(source: str, target: str) -> str:
        if source.endswith(".safetensors"):
            try:
                os.link(source, target)
                return target
            except OSError:
                pass
        return shutil.copy2(source, target)

    def fill(draft: Path) -> None:
        shutil.copytree(last, draft, dirs_exist_ok=True, copy_function=copy, ignore=shutil.ignore_patterns(STATE))

    write_folder(best, fill)


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


def differences(saved: Any, now: Any, path: str = "") -> list[str]:
    """Keys under which two configurations differ, with both values."""
    if isinstance(saved, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*saved, *now]))
        return [line for k in keys for line in differences(saved.get(k), now.get(k), f"{path}.{k}".lstrip("."))]
    may_change = any(path == key or path.endswith(f".{key}") for key in MAY_CHANGE)  # a stage has its own data
    return [] if saved == now or may_change else [f"{path}: {saved!r} in the run, {now!r} now"]


def read_state(last: Path, cfg: Config) -> dict[str, Any] | None:
    """state.json of a run's last/, or None where nothing was saved yet.

    Raises UserError where the configuration has changed, listing the keys.
    """
    path = last / STATE / "state.json"
    if not path.is_file():
        return None
    state = json.loads(path.read_text(encoding="utf-8"))
    if "standing" not in state:  # an mdf without early stopping wrote it
        state["standing"] = {"best": state["best"], "ended": False}
    changed = differences(with_defaults(state["config"], cfg), plain(cfg))
    if changed:
        raise UserError(
            f"--resume continues {last.parent} as it was started, but these settings differ:\n  "
            + "\n  ".join(changed)
            + "\n"
            f"Set them back, or start another run with run.name=NAME. Only {', '.join(MAY_CHANGE)} may change."
        )
    return state


def write_tensors(path: Path, values: Any) -> None:
    """Write tensors and plain values, through a file of ours: torch's own does not say when the disk is full."""
    with path.open("wb") as file:
        torch.save(values, file)


def read_tensors(path: Path) -> Any:
    """A file of tensors and plain values; never unpickles code."""
    return torch.load(path, map_location="cpu", weights_only=True)
