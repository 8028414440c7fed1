"""The phantom data set: photographs drawn once into a folder, with masks and a manifest split by patient."""

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from mdf.datasets.guide import Guide
from mdf.datasets.splits import split_by_patient, split_of
from mdf.errors import UserError
from mdf.imaging import phantom
from mdf.records import FundusRecord, Manifest, read_manifest, write_manifest

GUIDE = Guide(
    "phantom",
    "drawn photographs with known vessels, disc, fovea and lesions: masks, findings, grades and reports agree",
    "any number",
    "CC0 1.0",
    "none needed",
    "drawn here: prepare.py phantom --count 100 --size 256 --seed 0 --out DIR",
    "DIR/*.jsonl (the manifest), DIR/images/, DIR/masks/",
)

MANIFEST = "manifest.jsonl"
REQUEST = "request.json"  # what was asked for; equal requests are not drawn again
TWO_EYES = 0.35  # share of the draws after which the same patient's other eye follows


def cached(folder: Path, *, count: int, size: int, seed: int, val: float, test: float) -> Path:
    """Where in the cache `folder` a request lies: another one, or of another version, has another place."""
    return folder / f"phantom-{count}-{size}-{seed}-{val:g}-{test:g}-v{phantom.VERSION}"


def draw_manifest(
    out_dir: str | Path, *, count: int, size: int, seed: int, val: float, test: float, workers: int = 0
) -> Manifest:
    """Draw `count` phantom photographs of `size` pixels with all masks (PNG) and write their manifest into `out_dir`.

    `val` and `test` are shares of the patients. `workers` 0 = one process a core; the pictures do not depend on it.
    A folder that already holds the same request is read instead. Nothing is ever replaced: the photographs of another
    request have the same names and may be those of an earlier run. The folder appears whole or not at all.
    Raises UserError for a folder with anything else in it.
    """
    out = Path(out_dir)
    if count < 1:
        raise UserError(f"data.count: at least one phantom photograph is needed, got {count}")
    request = {"count": count, "size": size, "seed": seed, "val": val, "test": test, "version": phantom.VERSION}
    if out.exists():
        held = _request(out)
        if held == request:
            return read_manifest(out / MANIFEST)
        if isinstance(held, dict):
            differ = ", ".join(f"{k} {held.get(k)} and not {v}" for k, v in request.items() if held.get(k) != v)
            raise UserError(
                f"{out}: holds other phantom photographs ({differ}), which runs and evaluations may still need. Name "
                "another folder, or remove this one"
            )
        first = next(iter(sorted(path.name for path in out.iterdir())), None) if out.is_dir() else out.name
        if first is not None:
            raise UserError(f"{out}: holds something else than phantom photographs, {first}. Name another folder.")
    phantom.check_size(size)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _draw_into(draft, request, workers)
        try:
            draft.rename(out)  # over an empty folder, too
        except OSError:  # another process drew the same request meanwhile
            if _request(out) != request:
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return read_manifest(out / MANIFEST)


def _request(folder: Path) -> dict | None:
    try:
        return json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _draw_into(folder: Path, request: dict, workers: int) -> None:
    count, size, seed = request["count"], request["size"], request["seed"]
    folder.chmod(0o755)  # mkdtemp makes folders that only their owner may enter
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    _save_mask(folder / "masks" / "empty.png", np.zeros((size, size), dtype=bool))
    jobs = list(_plan(count, seed))
    workers = min(workers or os.cpu_count() or 1, count)
    show = _Progress(count)
    records = []
    if workers == 1 or count < 64:  # starting processes takes longer than drawing a few
        for job in jobs:
            records.append(_draw_one(str(folder), size, *job))
            show.step()
    else:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            chunks = [jobs[first : first + 16] for first in range(0, count, 16)]
            for drawn in pool.map(_draw_chunk, [str(folder)] * len(chunks), [size] * len(chunks), chunks):
                records.extend(drawn)
                show.step(len(drawn))
    show.close()
    records = split_by_patient(records, val=request["val"], test=request["test"], seed=seed)
    write_manifest(
        folder / MANIFEST,
        records,
        root=folder,
        dataset="phantom",
        release=f"version {phantom.VERSION}",
        split_seed=seed,
        split=split_of(records, "patient", seed=seed, val=request["val"], test=request["test"]),
    )
    (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")


def _plan(count: int, seed: int) -> Iterator[tuple[int, int, str, str]]:
    """Number, drawing seed, patient and eye of each photograph."""
    rng = np.random.default_rng([seed, 7])
    patient, eye, single = -1, "", False
    for number in range(count):
        if single and rng.uniform() < TWO_EYES:
            eye, single = ("left" if eye == "right" else "right"), False
        else:
            patient, eye, single = patient + 1, str(rng.choice(["left", "right"])), True
        yield number, int(rng.integers(2**53)), f"phantom_patient_{patient:06d}", eye


def _draw_chunk(folder: str, size: int, jobs: list[tuple[int, int, str, str]]) -> list[FundusRecord]:
    return [_draw_one(folder, size, *job) for job in jobs]


def _draw_one(folder: str, size: int, number: int, seed: int, patient: str, eye: str) -> FundusRecord:
    drawn = phantom.draw(seed, size, eye=eye)
    name = f"phantom_{number:06d}"
    image = f"images/{name}.png"
    Image.fromarray(drawn.image).save(Path(folder, image), compress_level=1)
    masks = {}
    for kind, mask in drawn.masks.items():
        masks[kind] = f"masks/{name}_{kind}.png" if mask.any() else "masks/empty.png"
        if mask.any():
            _save_mask(Path(folder, masks[kind]), mask)
    return drawn.record(name, image, patient=patient, masks=masks, extra={"seed": seed})


def _save_mask(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask).save(path, compress_level=1)


class _Progress:
    """One line on a terminal, one line at the end elsewhere."""

    def __init__(self, total: int):
        self.total, self.done, self.start, self.shown = total, 0, time.monotonic(), 0.0

    def step(self, count: int = 1) -> None:
        self.done += count
        now = time.monotonic()
        if sys.stderr.isatty() and now - self.shown > 0.5:
            self.shown = now
            left = (now - self.start) / self.done * (self.total - self.done)
            print(
                f"\rdrawing phantom photographs {self.done}/{self.total}, {left:.0f} s left ",
                end="",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        seconds = time.monotonic() - self.start
        start = "\r" if sys.stderr.isatty() else ""
        print(
            f"{start}drew {self.total} phantom photographs in {seconds:.1f} s{' ' * 20}".rstrip(),
            file=sys.stderr,
            flush=True,
        )
