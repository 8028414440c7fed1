"""Looks at every file of a manifest: does it decode, do the masks fit, is a photograph in two splits?"""

import hashlib
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from mdf.datasets import summary, torn_patients
from mdf.errors import UserError
from mdf.imaging.decode import load_image, load_mask
from mdf.records import SPLITS, FundusRecord, Manifest

SHOWN = 20
T = TypeVar("T")


@dataclass(frozen=True)
class Report:
    """What was found; `problems` have to be mended, `notes` are to be known."""

    counts: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        lines = [self.counts, *(f"note: {n}" for n in shorten(self.notes))]
        return "\n".join(lines)


def validate(manifest: Manifest, workers: int = 0) -> Report:
    """Decode every image and mask of the manifest with `workers` threads (0 = one a core); shows progress on stderr."""
    problems: list[str] = []
    same: dict[str, list[FundusRecord]] = defaultdict(list)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        checked = pool.map(lambda record: check_files(manifest, record), manifest.records)
        for record, (digest, errors) in zip(manifest.records, progress(checked, len(manifest.records)), strict=True):
            problems += [f"{record.id}: {e}" for e in errors]
            if digest:
                same[digest].append(record)
    notes = []
    for twins in same.values():
        if len(twins) < 2:
            continue
        line = "the same file: " + ", ".join(f"{r.id} ({r.split or 'no split'})" for r in twins)
        labels = {r.diagnosis for r in twins}
        if len({r.split for r in twins}) > 1:
            problems.append(f"{line}; a photograph may be in one split only")
        else:
            notes.append(line + ("; with different diagnoses" if len(labels) > 1 else ""))
    problems += [f"patient {p} is in more than one split" for p in torn_patients(manifest.records)]
    return Report(counts(manifest), problems, notes)


def check_files(manifest: Manifest, record: FundusRecord) -> tuple[str | None, list[str]]:
    """SHA-256 of the image file, None where it cannot be read, and what is wrong with the record's files."""
    try:
        path = manifest.path(record.image)
        height, width = load_image(path).shape[:2]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except UserError as error:
        return None, [str(error)]
    errors = []
    for name, relative in record.masks.items():
        try:
            h, w = load_mask(manifest.path(relative)).shape
        except UserError as error:
            errors.append(str(error))
            continue
        if (h, w) != (height, width):
            errors.append(f"the mask {name} is {w}x{h} pixels, the photograph {width}x{height}")
    return digest, errors


def counts(manifest: Manifest) -> str:
    """Photographs by split and diagnosis, as a table."""
    rows = Counter((name, r.split) for r in manifest.records for name in r.diagnosis or ("(no diagnosis)",))
    splits = [s for s in (*SPLITS, None) if any(r.split == s for r in manifest.records)]
    names = sorted({name for name, _ in rows}, key=lambda n: (-sum(rows[n, s] for s in splits), n))
    width = max(len(n) for n in names)
    lines = [summary(manifest.records), " " * width + "".join(f"{s or 'no split':>10}" for s in splits)]
    lines += [f"{n:{width}}" + "".join(f"{rows[n, s]:10}" for s in splits) for n in names]
    masks = Counter(name for r in manifest.records for name in r.masks)
    texts = Counter(kind for r in manifest.records for kind in r.texts)
    lines += [f"masks: {', '.join(f'{n} {c}' for n, c in masks.items()) or 'none'}"]
    lines += [f"texts: {', '.join(f'{n} {c}' for n, c in texts.items()) or 'none'}"]
    return "\n".join(lines)


def shorten(lines: list[str]) -> list[str]:
    return lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"… and {len(lines) - SHOWN} more"]


def progress(items: Iterable[T], total: int) -> Iterator[T]:
    """The items, with a line on stderr of how many and how long it will still take."""
    start = shown = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - shown > 2 or (done == total and shown > start):
            left = (now - start) / done * (total - done)
            print(f"checked {done}/{total} photographs, {left:.0f} s left", file=sys.stderr)
            shown = now
