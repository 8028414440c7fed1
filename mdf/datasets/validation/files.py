"""One look at every file of a manifest: what cannot be read, and what the later checks need of each photograph."""

import hashlib
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from mdf.datasets.validation.duplicates import Fingerprint, Pictures, fingerprint, group_alike
from mdf.errors import UserError
from mdf.imaging.decode import load_image, load_mask
from mdf.imaging.field import find_field
from mdf.records import FundusRecord, Manifest

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Look:
    """What was seen of one record's files. Without a readable photograph everything but `errors` is None."""

    errors: tuple[tuple[str, str], ...] = ()  # name of the finding, what is wrong
    sha256: str | None = None
    size: tuple[int, int] | None = None  # width, height
    form: str | None = None  # JPEG, PNG, … by content, not by name
    border: str | None = None  # how the field of view lies in the picture, coarsely
    detail: float = 0.0  # see duplicates.py


@dataclass(frozen=True)
class Seen:
    """All looks, in the order of the records, and the groups of photographs that show the same, as positions."""

    looks: list[Look]
    groups: list[list[int]]


def look_at_all(manifest: Manifest, workers: int = 0) -> Seen:
    """Decode every photograph and mask with `workers` threads (0 = one a core); shows progress on stderr.

    In memory stay a few hundred bytes a photograph, and the pictures that the threads are busy with.
    """
    return look_through([(manifest, record) for record in manifest.records], workers)


def look_through(items: Sequence[tuple[Manifest, FundusRecord]], workers: int = 0) -> Seen:
    """The same for records of several manifests."""
    pictures = Pictures()
    looks: list[Look] = []
    bits = np.zeros((len(items), 32), dtype=np.uint8)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        results = in_order(pool, lambda item: look_at(*item), items)
        for i, (look, mark) in enumerate(progress(results, len(items))):
            looks.append(look)
            pictures.add(mark.picture if mark else None)
            if mark:
                bits[i] = mark.bits
    details = np.array([look.detail for look in looks])
    return Seen(looks, group_alike([look.sha256 for look in looks], bits, details, pictures.__getitem__))


def look_at(manifest: Manifest, record: FundusRecord) -> tuple[Look, Fingerprint | None]:
    try:
        path = manifest.path(record.image)
        image = load_image(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (UserError, OSError) as error:
        return Look((("unreadable-file", below_root(manifest, error)), *look_at_masks(manifest, record))), None
    height, width = image.shape[:2]
    found = find_field(image)
    mark = fingerprint(image, found.box)
    return Look(
        look_at_masks(manifest, record, (width, height)),
        digest,
        (width, height),
        file_format(path),
        describe_border(found.box, found.share, width, height),
        mark.detail,
    ), mark


def below_root(manifest: Manifest, error: Exception) -> str:
    """What the error says, without the folders above the data's root: pages and logs are passed on."""
    root = re.escape(os.path.abspath(manifest.root))
    return re.sub(rf"{root}(?![\w.-])({re.escape(os.sep)})?", lambda found: "" if found[1] else ".", str(error))


def look_at_masks(
    manifest: Manifest, record: FundusRecord, size: tuple[int, int] | None = None
) -> tuple[tuple[str, str], ...]:
    """What is wrong with the masks of a photograph of `size` (None: it cannot be read)."""
    found = (look_at_mask(manifest, name, path, size) for name, path in record.masks.items())
    return tuple(wrong for wrong in found if wrong)


def look_at_mask(manifest: Manifest, name: str, path: str, size: tuple[int, int] | None) -> tuple[str, str] | None:
    """What is wrong with a mask, as the name of a finding and a text."""
    try:
        mask = load_mask(manifest.path(path))
    except (UserError, OSError) as error:
        return "unreadable-file", below_root(manifest, error)
    height, width = mask.shape
    if size and (width, height) != size:
        return "mask-size", f"the mask {name} is {width}x{height} pixels, the photograph {size[0]}x{size[1]}"
    if name in NEVER_EMPTY and not mask.any():
        return "implausible-value", f"the mask {name} is empty"
    if name in THIN and mask.mean() > 0.5:
        return "implausible-value", f"the mask {name} covers {mask.mean():.0%} of the photograph: is it inverted?"
    return None


NEVER_EMPTY = ("vessel", "field")  # every photograph has some
THIN = ("vessel", "artery", "vein")


def file_format(path: Path) -> str:
    """By content; by the name's ending where the content is none that PIL opens (DICOM, a packed file)."""
    try:
        with Image.open(path) as image:
            return image.format or path.suffix
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return path.suffix.lower()


def describe_border(box: tuple[int, int, int, int], share: float, width: int, height: int) -> str:
    """The field's share of the picture, its box and the sides that it touches, in steps of a twentieth.

    Cameras and the people who cut photographs out leave borders of their own.
    """
    left, top, right, bottom = box
    edges = (left == 0, top == 0, right == width, bottom == height)
    touched = "".join(side for side, touches in zip("ltrb", edges, strict=True) if touches)
    return f"{20 * share:.0f} {20 * (right - left) / width:.0f} {20 * (bottom - top) / height:.0f} {touched}"


def in_order(pool: ThreadPoolExecutor, work: Callable[[S], T], items: Iterable[S], ahead: int = 64) -> Iterator[T]:
    """The results in the order of the items; at most `ahead` of them wait, unlike those of pool.map."""
    waiting: deque[Future[T]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


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


def duplicate_ids(records: Sequence[FundusRecord], seen: Seen) -> list[list[str]]:
    """The groups of photographs that show the same, as ids. Raises UserError where a photograph cannot be read."""
    unread = [look.errors[0][1] for look in seen.looks if look.sha256 is None]
    if unread:
        raise UserError(
            f"{len(unread)} photographs cannot be read, so copies of them cannot be found; the first: {unread[0]}\n"
            "`prepare.py validate` lists all. With --patients-only no photograph is looked at."
        )
    return [[records[i].id for i in group] for group in seen.groups]
