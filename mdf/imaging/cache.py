"""Prepared photographs kept on disk, so that epochs after the first need neither decode, crop nor scale them.

An entry is a `Crop`: what comes before augmentation and normalising, so that cached and uncached samples are equal bit
for bit. It is found by the settings of the preprocessing, the versions of what makes pixels, and the identity of the
photograph's and its masks' files: path, size and time of change in nanoseconds. That costs a look-up a file; a hash of
the contents would cost reading them, which is what the cache is there to save. A file that is rewritten with the same
size and time of change is therefore not noticed. Names of entries are hashes: they tell nothing of a patient.
"""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from mdf.imaging.mask_files import mask_file
from mdf.imaging.preprocess import Crop, Preprocessing
from mdf.resources import PACKAGE

ENDING = ".crop"
DRAFT = ".draft-"  # how the name of a file that is being written begins
ABANDONED = 3600  # seconds after which a draft is of a process that was killed
# modules of mdf.imaging that decide on the pixels of an entry
MAKERS = ("decode", "dicom", "field", "mask_files", "preprocess", "recipe")


@lru_cache(maxsize=1)
def makers() -> str:
    """Hash over the code and the libraries that make an entry: another of them makes other entries."""
    import PIL
    import torch
    import torchvision

    digest = hashlib.sha256(f"{PIL.__version__} {torch.__version__} {torchvision.__version__}".encode())
    for name in MAKERS:
        file = PACKAGE / "imaging" / f"{name}.py"
        digest.update(file.read_bytes() if file.exists() else b"")
    return digest.hexdigest()


def file_of(name: str, path: Path) -> Path:
    """The file of the photograph (name "") or of the mask `name`, whose path may name a part of it."""
    return mask_file(path) if name else path


def identity(name: str, path: Path) -> tuple[str, int, int]:
    """What an entry knows of a file: path with its part, bytes, time of change in ns. Raises OSError without a file."""
    found = file_of(name, path).stat()
    return str(path), found.st_size, found.st_mtime_ns


class PreparedCache:
    """A folder of entries of at most `limit` bytes together, written and read by any number of processes at once.

    A full cache takes no more entries and says so once. It drops none, since an epoch reads every photograph once: an
    entry that was least recently used is the one that is needed next.
    """

    def __init__(self, gigabytes: float, folder: Path):
        self.folder = folder
        self.limit = int(gigabytes * 1e9)
        self.told: set[str] = set()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.lock():
            self.count()

    def lock(self) -> FileLock:
        """Held while the size is looked at and changed; a new object each time, since forked processes share none."""
        return FileLock(self.folder / "size.lock")

    def count(self) -> None:
        """Write down how large the cache is, and remove drafts of processes that were killed."""
        size = 0
        for file in self.folder.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):  # another process has renamed or removed it
                found = file.stat()
                if file.name.startswith(DRAFT) and found.st_mtime < time.time() - ABANDONED:
                    file.unlink()
                else:
                    size += found.st_size
        (self.folder / "size").write_text(str(size))

    def get(
        self, preprocessing: Preprocessing, files: Sequence[tuple[str, Path]], make: Callable[[], Crop], augmented: bool
    ) -> Crop:
        """The crop of a photograph, from the cache or made and put there.

        `files` are (name, path) of the photograph and of its masks. Raises what `make` raises.
        """
        try:
            found = [(name, *identity(name, path)) for name, path in files]
        except OSError:
            return make()  # which says what is missing
        parts = [preprocessing.hash(), makers(), augmented, found]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        entry = self.folder / key[:2] / f"{key[2:]}{ENDING}"
        try:
            with entry.open("rb") as file:
                data = bytearray(os.fstat(file.fileno()).st_size)
                file.readinto(data)
            return Crop.from_bytes(data)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self.tell("damaged", f"{entry} cannot be used ({error}) and is made anew")
        crop = make()
        self.put(entry, crop.to_bytes())
        return crop

    def put(self, entry: Path, data: bytes) -> None:
        """Write an entry whole or not at all. Failing to is told and costs only time."""
        draft = None
        try:
            if not self.reserve(len(data)):
                return
            unused = len(data)  # of what is reserved
            try:
                entry.parent.mkdir(exist_ok=True)
                handle, draft = tempfile.mkstemp(dir=entry.parent, prefix=DRAFT)
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                with self.lock():  # a damaged entry, or one that another process has just written, is replaced
                    counted = entry.exists()
                    os.replace(draft, entry)
                unused = len(data) if counted else 0
            finally:
                if unused:
                    self.reserve(-unused)
        except OSError as error:
            self.tell("unwritable", f"{self.folder} cannot be written to ({error}); nothing is added to it")
            if draft is not None:
                Path(draft).unlink(missing_ok=True)

    def reserve(self, size: int) -> bool:
        """Whether `size` more bytes fit; they are then counted. Less than 0 gives back."""
        with self.lock():
            number = self.folder / "size"
            try:
                used = int(number.read_text())
            except (FileNotFoundError, ValueError):  # someone has emptied the folder
                self.count()
                used = int(number.read_text())
            if size > 0 and used + size > self.limit:
                self.tell(
                    "full",
                    f"{self.folder} holds {used / 1e9:.2f} of at most {self.limit / 1e9:g} GB; further photographs are "
                    "prepared anew in every epoch. Raise data.cache_gb, or remove the folder if it is of earlier runs",
                )
                return False
            number.write_text(str(max(0, used + size)))
        return True

    def tell(self, kind: str, text: str) -> None:
        """A note on stderr, one of a kind and process."""
        if kind not in self.told:
            print(f"note: the cache {text}", file=sys.stderr)
            self.told.add(kind)
