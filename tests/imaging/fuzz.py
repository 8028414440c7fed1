"""Decodes hostile files and measures what each takes; run in a process of its own, which may crash.

  python -m tests.imaging.fuzz FIRST COUNT FOLDER [dicom]

Prints one JSON object: counts, the slowest file, the highest memory, and every seed that broke a promise. `FOLDER/seed`
holds the seed that is being decoded, so that a crash or a hang can be named too.
"""

import faulthandler
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mdf.errors import UserError
from mdf.imaging.decode import load_image, load_mask

MAX_PIXELS = 4_000_000
# what decode.py promises: 40 bytes a pixel and the file, which holds 8 bytes a pixel, twice while it is unpacked
MEMORY = 40 * MAX_PIXELS + 2 * 8 * MAX_PIXELS + (1 << 20)
SECONDS = 4.0  # of processor time a file
HANG = 30.0  # seconds of processor time after which the process ends itself


def main(first: int, count: int, folder: Path, mutate: Callable[[int], tuple[str, bytes]]) -> dict:
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    slowest, highest = (0.0, ""), (0, "")
    reasons: Counter[str] = Counter()
    path = folder / "photograph.jpg"
    for seed in range(first, first + count):
        what, data = mutate(seed)
        name = f"seed {seed} ({what})"
        path.write_bytes(data)
        (folder / "seed").write_text(name)
        signal.setitimer(signal.ITIMER_PROF, HANG)
        before, start = reset_peak(), time.process_time()
        try:
            outcome = decode(path)
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {error}")
            outcome = "broken"
        spent, taken = time.process_time() - start, status("VmHWM") - before
        signal.setitimer(signal.ITIMER_PROF, 0)
        outcomes[f"{what.split(':')[0]} {'decoded' if outcome == 'decoded' else 'refused'}"] += 1
        reasons[outcome.split(" (")[0]] += 1
        slowest, highest = max(slowest, (spent, name)), max(highest, (taken, name))
        if spent > SECONDS:
            failures.append(f"{name}: took {spent:.1f} s")
        if taken > MEMORY:
            failures.append(f"{name}: took {taken / 1e6:.0f} MB")
    return {
        "outcomes": dict(outcomes), "reasons": dict(reasons), "slowest": slowest, "highest": highest,
        "failures": failures,
    }  # fmt: skip


def decode(path: Path) -> str:
    """ "decoded", or the reason of the refusal without the path."""
    try:
        image = load_image(path, max_pixels=MAX_PIXELS)
    except UserError as error:
        return refusal(error, path)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and 0 not in image.shape
    assert image.flags.writeable
    small = load_image(path, max_pixels=MAX_PIXELS, at_least=16)
    assert small.shape == image.shape or min(small.shape[:2]) >= 32, small.shape
    if path.read_bytes()[128:132] != b"DICM":
        mask = load_mask(path, max_pixels=MAX_PIXELS)
        assert mask.dtype == bool and mask.shape == image.shape[:2]
    return "decoded"


def refusal(error: UserError, path: Path) -> str:
    text = str(error)
    assert "\n" not in text and text.startswith(f"photograph {path}: ") and len(text) < 450 + len(str(path)), text
    return text.removeprefix(f"photograph {path}: ")


def status(key: str) -> int:
    """Bytes from /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def reset_peak() -> int:
    """Let the peak memory start again from what is in use now, which is returned."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


# Freed memory goes back at once: kept for later, it would hide what the next file takes.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}

if __name__ == "__main__":
    if not ALLOCATOR.keys() <= os.environ.keys():  # is read when a process starts
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.imaging.fuzz", *sys.argv[1:]], {**os.environ, **ALLOCATOR}
        )
    if sys.argv[4:] == ["dicom"]:
        from tests.imaging.dicom_files import mutate
    else:
        from tests.imaging.mutations import mutate
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)  # says where, then ends the process
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), mutate)))
