"""WebDataset shards: plain tar files that hold the photographs of a manifest, to be read from front to back.

    DIR/index.json                 shards of each split: number of photographs, bytes, SHA-256
    DIR/manifest.jsonl             every record; its `image` says in which shard it lies
    DIR/train-00000.tar            00000000.json (the record), 00000000.jpg (the file's bytes, unchanged),
                                   00000000.mask_vessel.png; or, where prepared, 00000000.crop instead of both
    DIR/val-00000.tar, DIR/test-00000.tar, …

Any WebDataset reader can read them. Here the standard library does: others decode a member by its ending, and drop what
follows a damaged one.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mdf.errors import UserError
from mdf.files import read_json, write_text
from mdf.imaging.cache import makers
from mdf.imaging.decode import is_dicom, load_image, load_mask
from mdf.imaging.mask_files import mask_file, split_part
from mdf.imaging.preprocess import Crop, Preprocessing
from mdf.records import SPLITS, FundusRecord, Manifest, read_manifest, write_manifest

INDEX, MANIFEST = "index.json", "manifest.jsonl"
VERSION = 1
CROP = "crop"  # ending of a prepared photograph
BUFFER = 64  # photographs in memory, of which the next is drawn


@dataclass(frozen=True)
class Prepare:
    """How photographs are prepared before they go into shards."""

    preprocessing: Preprocessing
    masks: tuple[str, ...]
    augmented: bool  # the training photographs will be; those of other splits never are


def write_shards(manifest: Manifest, out: Path, *, megabytes: float = 256, prepare: Prepare | None = None) -> dict:
    """Write the photographs of `manifest` into `out`, a new folder, in random order, and return its index.

    A shard is closed before it would grow beyond `megabytes`; it holds one photograph at least. Raises UserError for
    files that cannot be read, photographs without a split, and an `out` that exists.
    """
    if out.exists():
        raise UserError(f"{out} exists already; name another folder or remove it")
    if without := sum(r.split is None for r in manifest.records):
        raise UserError(f"{without} photographs have no split, and each split has shards of its own; give them one")
    draft = out.with_name(f".{out.name}.draft")
    if draft.exists():
        raise UserError(f"{draft} is left of a run that was stopped; remove it")
    draft.mkdir(parents=True)
    try:
        index = fill(draft, manifest, int(megabytes * 1e6), prepare)
    except BaseException:
        shutil.rmtree(draft)
        raise
    draft.rename(out)
    return index


def fill(draft: Path, manifest: Manifest, limit: int, prepare: Prepare | None) -> dict[str, Any]:
    """Write shards of at most `limit` bytes, manifest and index into `draft`; returns the index."""
    splits: dict[str, list[dict[str, Any]]] = {}
    records: list[FundusRecord] = []
    for split in SPLITS:
        writer = ShardWriter(draft, split, limit)
        originals = manifest.split(split)
        for i in np.random.default_rng(0).permutation(len(originals)):  # a manifest may be sorted by diagnosis
            record = originals[i]
            members, places = pack(manifest, record, prepare)
            records.append(writer.add(record, f"{len(records):08d}", members, places))
        splits[split] = writer.close()
    written = write_manifest(
        draft / MANIFEST,
        records,
        root=draft,
        dataset=manifest.meta.get("dataset") or "shards",
        release=manifest.meta.get("release"),
        split_seed=manifest.meta.get("split_seed"),
    )
    index: dict[str, Any] = {
        "version": VERSION,
        "splits": splits,
        "manifest_sha256": written.sha256,
        "prepared": prepare
        and {
            "preprocessing": prepare.preprocessing.to_dict(),
            "hash": prepare.preprocessing.hash(),
            "masks": list(prepare.masks),
            "augmented": prepare.augmented,
            "makers": makers(),
        },
    }
    write_text(draft / INDEX, json.dumps(index, indent=1) + "\n")
    return index


def pack(manifest: Manifest, record: FundusRecord, prepare: Prepare | None) -> tuple[dict[str, bytes], dict[str, str]]:
    """What a shard holds of a record beside its JSON, ending -> bytes; and where the photograph ("") and each mask
    are in it: an ending, behind it the part of the file that the mask is.
    """
    path = manifest.path(record.image)
    if prepare is not None:
        drawn = {name: load_mask(manifest.path(record.masks[name])) for name in prepare.masks if name in record.masks}
        augmented = prepare.augmented and record.split == "train"
        crop = prepare.preprocessing.crop(load_image(path), drawn, augmented=augmented)
        return {CROP: crop.to_bytes()}, dict.fromkeys(("", *record.masks), CROP)
    members, places = {ending(path): read_bytes(path)}, {"": ending(path)}
    if is_dicom(io.BytesIO(members[ending(path)])):
        raise UserError(
            f"{path} is a DICOM file, whose tags may name the patient, and shards hold files as they are; "
            "write prepared shards with --preprocess"
        )
    held: dict[Path, str] = {}  # files of which several masks may be parts
    for name, relative in record.masks.items():
        file, part = split_part(manifest.path(relative))
        own = f"mask_{name}.{ending(file)}"
        member = own if part is None else held.setdefault(file, own)
        places[name] = member if part is None else f"{member}#{part}"
        if member not in members:
            members[member] = read_bytes(file)
    return members, places


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); mend it or leave the record out") from None


def ending(path: Path) -> str:
    """The file's ending in lower case; `img` where it has none, or one that means something else in a shard."""
    if path.name.endswith(".map.gz"):  # which says how it is read
        return "map.gz"
    suffix = path.suffix.lower().removeprefix(".")
    return suffix if suffix.isalnum() and suffix not in ("json", CROP) else "img"


class ShardWriter:
    """The shards of one split, one open at a time."""

    def __init__(self, folder: Path, split: str, limit: int):
        self.folder, self.split, self.limit = folder, split, limit
        self.done: list[dict[str, Any]] = []
        self.tar: tarfile.TarFile | None = None
        self.count = 0

    @property
    def name(self) -> str:
        return f"{self.split}-{len(self.done):05d}.tar"

    def add(self, record: FundusRecord, key: str, members: dict[str, bytes], places: dict[str, str]) -> FundusRecord:
        """Write one photograph, see `pack`; returns its record with the paths that it has now."""
        # a member takes a header of 512 bytes and whole blocks of 512, and an archive ends in 10,240 more at the most
        size = sum(1024 + len(data) for data in members.values()) + 4096
        if self.tar is not None and self.tar.offset + size + tarfile.RECORDSIZE > self.limit:
            self.finish()
        if self.tar is None:
            self.tar = tarfile.TarFile(self.folder / self.name, "w", format=tarfile.USTAR_FORMAT)
        paths = {name: f"{self.name}/{key}.{place}" for name, place in places.items()}
        here = replace(record, image=paths[""], masks={name: paths[name] for name in record.masks})
        text = json.dumps(here.to_dict(), ensure_ascii=False).encode()
        for kind, data in ({"json": text} | members).items():
            entry = tarfile.TarInfo(f"{key}.{kind}")
            entry.size = len(data)
            self.tar.addfile(entry, io.BytesIO(data))
        self.count += 1
        return here

    def finish(self) -> None:
        """Close the open shard and note what it holds."""
        assert self.tar is not None
        self.tar.close()
        file = self.folder / self.name
        with file.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        self.done.append({"file": file.name, "count": self.count, "bytes": file.stat().st_size, "sha256": sha256})
        self.tar, self.count = None, 0

    def close(self) -> list[dict[str, Any]]:
        """The index of the split."""
        if self.tar is not None:
            self.finish()
        return self.done


def read(root: Path) -> Manifest:
    """The records of a folder of shards, its index under meta["shards"]. Raises UserError where it is not whole."""
    if not (root / INDEX).is_file():
        raise UserError(f"{root} holds no {INDEX}: it is no folder of shards; `prepare.py shards` writes one")
    index = read_json(root / INDEX)
    if index.get("version") != VERSION:
        raise UserError(f"{root / INDEX} is of another version of mdf; write the shards again")
    for shard in (s for shards in index["splits"].values() for s in shards):
        file = root / shard["file"]
        size = file.stat().st_size if file.is_file() else None
        if size != shard["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            raise UserError(f"{file} {found}, {INDEX} says {shard['bytes']} bytes; copy it again")
    manifest = read_manifest(root / MANIFEST)
    if manifest.sha256 != index["manifest_sha256"]:
        raise UserError(f"{root / MANIFEST} is not the one that was written with the shards; copy it again")
    return replace(manifest, meta=manifest.meta | {"shards": index})


def verify(root: Path) -> int:
    """Compare every shard with its SHA-256; the number of photographs. Raises UserError that names the wrong ones."""
    shards = [s for shards in read(root).meta["shards"]["splits"].values() for s in shards]
    wrong = []
    for shard in shards:
        with (root / shard["file"]).open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != shard["sha256"]:
                wrong.append(shard["file"])
    if wrong:
        raise UserError(f"{root}: not as they were written, copy them again: {', '.join(wrong)}")
    return sum(shard["count"] for shard in shards)


@lru_cache(maxsize=64)
def places(shard: Path) -> dict[str, tuple[int, int]]:
    """Where in a shard each member's bytes are: name -> (offset, size)."""
    with tarfile.open(shard) as tar:
        return {member.name: (member.offset_data, member.size) for member in tar}


def read_member(root: Path, path: str) -> bytes:
    """The bytes of one file of a shard, `path` as a record has it: for the few photographs that are not streamed."""
    shard, _, name = str(mask_file(path)).partition("/")
    try:
        offset, size = places(root / shard)[name]
        with (root / shard).open("rb") as file:
            return os.pread(file.fileno(), size, offset)
    except (OSError, tarfile.TarError, KeyError) as error:
        raise damaged(root / shard, error) from None


def damaged(shard: Path, error: Exception) -> UserError:
    return UserError(f"{shard} is damaged ({error}); `prepare.py shards {shard.parent}` lists all that are")


def shard_of(path: str) -> str:
    """The shard of a record from its `image`: SHARD/KEY.ENDING."""
    return path.partition("/")[0]


def key_of(path: str) -> str:
    """The WebDataset key of a record from its `image`."""
    return path.partition("/")[2].partition(".")[0]


def field_of(path: str) -> str:
    """The WebDataset field: what follows the key, without the part of a mask."""
    return str(mask_file(path)).partition("/")[2].partition(".")[2]


def shuffled(manifest: Manifest, split: str, seed: int, epoch: int) -> list[str]:
    """The shards of a split in the order of an epoch, the same on every process."""
    names = [shard["file"] for shard in manifest.meta["shards"]["splits"][split]]
    return [names[i] for i in np.random.default_rng([seed, epoch]).permutation(len(names))]


def own_shards(manifest: Manifest, split: str, *, seed: int, rank: int, processes: int, epoch: int) -> list[str]:
    """The shards that this process (within a data loader, this worker of it) reads in an epoch, in their order.

    Raises UserError for fewer shards than processes.
    """
    import torch

    names = shuffled(manifest, split, seed, epoch)
    if len(names) < processes:
        raise UserError(
            f"{manifest.root}: {len(names)} shards of {split} cannot be shared by {processes} processes; "
            "write smaller ones (prepare.py shards --megabytes)"
        )
    worker = torch.utils.data.get_worker_info()
    names = names[rank::processes]
    return names[worker.id :: worker.num_workers] if worker else names


def stream(
    manifest: Manifest, split: str, *, seed: int, rank: int, processes: int, epoch: int
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The photographs of `own_shards`: (key, ending -> bytes), always the same for the same arguments.

    Shards are read from front to back, and the next photograph is drawn from a buffer of `BUFFER`. Raises UserError for
    fewer shards than processes, and for a shard that cannot be read.
    """
    mine = own_shards(manifest, split, seed=seed, rank=rank, processes=processes, epoch=epoch)
    counts = {shard["file"]: shard["count"] for shard in manifest.meta["shards"]["splits"][split]}
    rng = np.random.default_rng([seed, epoch, int(hashlib.sha256(mine[0].encode()).hexdigest()[:8], 16)])
    buffer: list[tuple[str, dict[str, bytes]]] = []
    for name in mine:
        for example in read_shard(manifest.root / name, counts[name]):
            buffer.append(example)
            if len(buffer) > BUFFER:
                place = int(rng.integers(len(buffer)))
                buffer[place], buffer[-1] = buffer[-1], buffer[place]
                yield buffer.pop()
    for place in rng.permutation(len(buffer)):
        yield buffer[place]


def read_shard(shard: Path, count: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The `count` photographs of a shard in their order: key, ending -> bytes. Raises UserError for a damaged one."""
    try:
        with tarfile.open(shard, "r|", bufsize=1 << 20) as tar:
            found = 0
            for key, entries in groupby(tar, lambda entry: entry.name.partition(".")[0]):
                yield key, {e.name.partition(".")[2]: file.read() for e in entries if (file := tar.extractfile(e))}
                found += 1
        if found != count:  # tarfile takes a damaged header for the end
            raise tarfile.ReadError(f"{found} of its {count} photographs are found")
    except (OSError, tarfile.TarError) as error:
        raise damaged(shard, error) from None


def crop_of(
    record: FundusRecord,
    members: dict[str, bytes],
    preprocessing: Preprocessing,
    masks: tuple[str, ...],
    augmented: bool,
) -> Crop:
    """The crop of a photograph from what its shard holds. Raises UserError for damaged bytes."""
    if CROP in members:
        try:
            return Crop.from_bytes(members[CROP])
        except ValueError as error:
            raise UserError(f"{record.image}: {error}; copy the shard again") from None
    pixels = load_image(record.image, data=members[field_of(record.image)])
    drawn = {n: load_mask(p, data=members[field_of(p)]) for n, p in record.masks.items() if n in masks}
    return preprocessing.crop(pixels, drawn, augmented=augmented)
