"""One file a data set: its published layout becomes records. `load` chooses by the configuration's `data.name`."""

from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from mdf.checking import DATASETS, OWN_WORDS
from mdf.config import DataConfig
from mdf.datasets.splits import group_photographs, split_by_patient, split_of, torn
from mdf.errors import UserError
from mdf.records import SPLITS, FundusRecord, Manifest, absolute, group_of, read_manifest
from mdf.resources import cache_dir as default_cache
from mdf.vocabulary import read_aliases


def load(cfg: DataConfig, seed: int, cache_dir: Path | None = None) -> Manifest:
    """The photographs of `cfg`, every record with a split; says aloud how many there are.

    `seed` is of the split, of the photographs that `limit` draws, and of the phantoms. These, and what a Hugging Face
    data set keeps inside tables, are written to `cache_dir` (default: the user's cache).
    Raises UserError for anything that is not as the data set's layout says.
    """
    manifest = read(cfg, seed, cache_dir)
    records = split_by_patient(manifest.records, val=cfg.val, test=cfg.test, seed=seed)
    if cfg.limit:
        records = draw(records, cfg.limit, seed)
    print(f"data: {cfg.name}: {summary(records)}")
    meta = manifest.meta | {"split": how_split(manifest, records, cfg, seed)}
    if tuple(records) != manifest.records:  # the file's SHA-256 is not that of these records
        meta = {k: v for k, v in meta.items() if k != "sha256"} | {"split_seed": seed}
    return Manifest(tuple(records), manifest.root, meta)


def how_split(manifest: Manifest, records: list[FundusRecord], cfg: DataConfig, seed: int) -> dict[str, Any]:
    """How `records` came to their splits; the release's split (or that of a manifest) stays what it is."""
    drawn = {"kind": "patient", "val": cfg.val, "test": cfg.test, "seed": seed}
    had = {r.split for r in manifest.records}
    how: dict[str, Any] = drawn if had == {None} else dict(manifest.meta.get("split") or {"kind": "release"})
    if had != {None} and "val" not in had and any(r.split == "val" for r in records):
        how |= {"val": cfg.val, "seed": seed}
    if cfg.limit:
        how |= {"limit": cfg.limit, "seed": seed}
    return split_of(records, **{k: v for k, v in how.items() if k != "sha256"})


def read(cfg: DataConfig, seed: int = 0, cache_dir: Path | None = None) -> Manifest:
    """The photographs as the release has them, without a split of ours."""
    aliases = read_aliases(cfg.vocabulary) if cfg.vocabulary else None
    if cfg.name == "phantom":
        from mdf.datasets.phantom import cached, draw_manifest

        request: dict[str, Any] = {k: getattr(cfg, k) for k in ("count", "size", "val", "test")} | {"seed": seed}
        folder = Path(cfg.root).expanduser() if cfg.root else cached(cache_dir or default_cache(), **request)
        return draw_manifest(folder, **request)
    if cfg.name == "manifest":
        return read_manifest(required(cfg.manifest, "manifest"), cfg.root, aliases)
    if cfg.name == "huggingface":
        from mdf.datasets import huggingface

        written = cache_dir or default_cache() / "huggingface"
        records, root = huggingface.read(str(required(cfg.root, "root")), written, cfg.columns, aliases)
        return Manifest(tuple(records), absolute(root), {"dataset": cfg.name})
    root = required(cfg.root, "root")
    if not root.is_dir():
        raise UserError(f"data.root: there is no folder {root}")
    if cfg.name == "shards":
        from mdf.datasets import shards

        return shards.read(root)
    if cfg.name in DATASETS:
        reader = import_module(f"mdf.datasets.{cfg.name}")
        records = reader.read(root, aliases) if cfg.name in OWN_WORDS else reader.read(root)
    elif cfg.name == "folder":
        from mdf.datasets import folder as folder_reader

        records = folder_reader.read(root, aliases)
    elif cfg.name == "table":
        from mdf.datasets import table

        records = table.read(root, required(cfg.table, "table"), cfg.columns, aliases, cfg.encoding)
    elif cfg.name == "flair":
        from mdf.datasets import flair

        records = flair.read(root, required(cfg.table, "table"), aliases)
    else:
        raise UserError(f"data.name: {cfg.name!r} is no data set; `prepare.py list` shows them")
    return Manifest(tuple(records), absolute(root), {"dataset": cfg.name})


def required(value: str | None, key: str) -> Path:
    if not value:
        raise UserError(f"data.{key} is missing")
    return Path(value).expanduser()


def draw(records: list[FundusRecord], limit: int, seed: int) -> list[FundusRecord]:
    """At most `limit` records of each split, drawn by the seed; the order is kept."""
    kept: set[int] = set()
    for number, split in enumerate(SPLITS):
        rows = [i for i, r in enumerate(records) if r.split == split]
        kept.update(rows[i] for i in np.random.default_rng([seed, number]).permutation(len(rows))[:limit])
    return [r for i, r in enumerate(records) if i in kept]


def summary(records: list[FundusRecord] | tuple[FundusRecord, ...]) -> str:
    """Counts of photographs, patients and splits in one line."""
    splits = Counter(r.split for r in records)
    parts = ", ".join(f"{splits[s]} {s}" for s in SPLITS if splits[s])
    unknown = sum(r.patient is None for r in records)
    patients = len({group_of(r) for r in records if r.patient is not None})
    of = f"{len(records)} photographs of {patients} patients" if patients else f"{len(records)} photographs"
    without = f"; {unknown} have no patient and count as one each" if unknown else ""
    found = len(torn(records, group_photographs(records)))
    across = f"; WARNING: {found} patients (or single photographs) are in more than one split" if found else ""
    return f"{of} ({parts or 'no split'}){without}{across}"
