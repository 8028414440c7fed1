"""A grid of runs as a file: one configuration, named rows of settings over it, seeds, and what is measured.

```yaml
base: quickstart                    # configuration, a file or a bundled name
common: [fuse.steps=300]            # settings of all runs
seeds: [0, 1, 2]
start:                              # trained once a seed; every row goes on from it (run.start_from, run.start_parts)
  stages: [segment, align]
  parts: [encoder, unet]
rows:                               # the first is what the others are compared with
  adapters: []
  concat: [fusion.kind=concat, fuse.losses.grounding=null]
  random_unet: {settings: [unet.weights=null], parts: [encoder]}
evaluate: {tasks: [diagnosis, spatial], limit: 200}
metrics: [classification.balanced_accuracy, spatial.small_lesions.balanced_accuracy]
```
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mdf.checking import STAGES
from mdf.config import Config
from mdf.errors import ConfigError
from mdf.loading import Loader, build, find_config, hint, load_config
from mdf.resources import bundled

START = "start"  # name of the shared runs
ROW = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # row names become folders
STARTED = ("encoder", "unet", "fusion")


@dataclass(frozen=True)
class StartConfig:
    stages: tuple[str, ...] = ()  # trained once a seed, before the rows; () = no shared start
    parts: tuple[str, ...] = ("encoder", "unet")  # of encoder, unet, fusion: what rows take from it
    settings: tuple[str, ...] = ()  # of the start alone


@dataclass(frozen=True)
class RowConfig:
    settings: tuple[str, ...] = ()  # over those of `common`
    parts: tuple[str, ...] | None = None  # taken from the shared start; null = start.parts, [] = nothing


@dataclass(frozen=True)
class EvaluateConfig:
    tasks: tuple[str, ...] = ("diagnosis", "spatial")  # of scripts/evaluate.py
    data: str | None = None  # manifest; null = each run's own data
    split: str = "test"  # train | val | test | all
    limit: int = 0  # photographs at the most; 0 = all


@dataclass(frozen=True)
class GridConfig:
    base: str = "quickstart"  # configuration of all runs
    common: tuple[str, ...] = ()  # settings of all runs, key.sub=value
    seeds: tuple[int, ...] = (0,)  # run.seed; of weights, order, augmentation and, where the data have none, the split
    start: StartConfig = field(default_factory=StartConfig)
    rows: dict[str, RowConfig] = field(default_factory=dict)  # the first is what the others are compared with
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    # columns of the table: names in metrics.json
    metrics: tuple[str, ...] = ("classification.balanced_accuracy", "spatial.small_lesions.balanced_accuracy")


@dataclass(frozen=True)
class Cell:
    """One run of a grid."""

    row: str
    seed: int
    cfg: Config
    start: "Cell | None" = None  # the run that this one goes on from

    @property
    def name(self) -> str:
        return self.cfg.run.name

    @property
    def folder(self) -> Path:
        return Path(self.cfg.run.dir) / self.name

    @property
    def steps(self) -> int | None:
        """Optimiser steps of all stages; None where a stage counts in epochs."""
        counts = [getattr(self.cfg, stage).steps for stage in self.cfg.run.stages]
        return sum(counts) if all(counts) else None


def read_grid(path: str | Path) -> GridConfig:
    """The grid of a file, or of a bundled name (`variants`). Raises ConfigError with everything that is wrong."""
    file = find_grid(path)
    try:
        raw: Any = yaml.load(file.read_text(encoding="utf-8"), Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{file} holds {type(raw).__name__}, not a grid such as `rows: {{mine: [fuse.steps=10]}}`")
    if isinstance(raw.get("rows"), dict):
        raw["rows"] = {k: v if isinstance(v, dict) else {"settings": v or []} for k, v in raw["rows"].items()}
    errors: list[str] = []
    grid: GridConfig = build(GridConfig, raw, "", errors)
    errors = errors or problems(grid)
    if errors:
        raise ConfigError(f"the grid {file} is wrong:\n" + "\n".join(f"  {e}" for e in errors))
    return grid


def find_grid(path: str | Path) -> Path:
    """The file of that path, else the bundled grid of that name."""
    file = Path(path)
    if file.is_file():
        return file
    known = {f.stem: f for f in sorted((bundled("configs") / "grids").glob("*.yaml"))}
    if file.name == str(path) and file.stem in known and file.suffix in ("", ".yaml"):
        return known[file.stem]
    raise ConfigError(f"{path} is no file{hint(file.stem, known)}. With mdf come the grids {', '.join(known)}")


def problems(grid: GridConfig) -> list[str]:
    """What a grid contradicts itself in, a line each."""
    found = []
    if not grid.rows:
        found.append("rows: empty; name one or more, each with a list of settings")
    for name in grid.rows:
        if name == START or not ROW.fullmatch(name):
            found.append(f"rows.{name}: must be of letters, digits and _.+-, and not {START}; it names a folder")
    if not grid.seeds or len(set(grid.seeds)) < len(grid.seeds):
        found.append(f"seeds: {list(grid.seeds)} must be one or more different numbers")
    found += [f"start.stages: {s!r} must be of {', '.join(STAGES)}" for s in grid.start.stages if s not in STAGES]
    taken = {"start.parts": grid.start.parts} | {f"rows.{n}.parts": row.parts or () for n, row in grid.rows.items()}
    for key, parts in taken.items():
        found += [f"{key}: {part!r} must be of {', '.join(STARTED)}" for part in parts if part not in STARTED]
    if not grid.start.stages:
        found += [f"rows.{n}.parts: given, but start.stages is empty" for n, row in grid.rows.items() if row.parts]
    if not grid.evaluate.tasks or not grid.metrics:
        found.append("evaluate.tasks and metrics: must not be empty, or there is no table")
    if grid.evaluate.limit < 0:
        found.append(f"evaluate.limit: {grid.evaluate.limit} must be at least 0")
    return found


def cells_of(grid: GridConfig, out: str | Path, threads: int = 0) -> list[Cell]:
    """All runs, those that others go on from first; `threads` is run.threads where above 0.

    Raises ConfigError with what is wrong in any of them.
    """
    base, errors, cells = find_config(grid.base), [], []
    shared = grid.start.stages
    try:
        every = load_config(base, grid.common).run.stages
    except ConfigError:
        every = ()  # the rows may mend it; what they do not mend is said of each
    left = [stage for stage in every if stage not in shared]
    place = [f"run.dir={out}", *([f"run.threads={threads}"] if threads else [])]

    def cell(row: str, seed: int, settings: list[str], start: Cell | None = None) -> Cell | None:
        words = [*grid.common, *settings, *place, f"run.seed={seed}", f"run.name={row}-s{seed}"]
        try:
            return Cell(row, seed, load_config(base, words), start)
        except ConfigError as error:
            errors.append(f"{row}: {error}")
            return None

    for seed in grid.seeds:
        start = None
        if shared:
            words = [*grid.start.settings, f"run.stages=[{','.join(shared)}]", "run.start_from=null"]
            start = cell(START, seed, words)
            cells.append(start)
        for name, row in grid.rows.items():
            parts = grid.start.parts if row.parts is None else row.parts
            words = [f"run.stages=[{','.join(left)}]"] if shared and left else []
            words += row.settings
            if start is not None and parts:
                words += [f"run.start_from={start.folder / 'best'}", f"run.start_parts=[{','.join(parts)}]"]
            cells.append(cell(name, seed, words, start if parts else None))
        if errors:
            raise ConfigError("\n".join(errors))  # of other seeds they would be the same
    return sorted((c for c in cells if c is not None), key=lambda c: c.row != START)
