"""Photographs a second from files to batches, as ratios against the same work written plainly, measured in turns.

Everything runs on one thread a process and with the same number of loader workers, so that like is compared with like.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional as tv

from mdf.batches import Batch, FundusDataset
from mdf.benchmarks import Row, interleave
from mdf.config import Config, DialogueConfig
from mdf.datasets.common import image_files
from mdf.datasets.phantom import draw_manifest
from mdf.datasets.shards import Prepare, read, write_shards
from mdf.imaging.cache import PreparedCache
from mdf.imaging.preprocess import Preprocessing
from mdf.memory import keep_freed_memory
from mdf.models.fusion import preprocessing_of
from mdf.records import FundusRecord, Manifest
from mdf.resources import cache_dir
from mdf.training.data import loader, whole
from mdf.training.stream import ShardDataset, streamed

PHOTOGRAPHS, BATCH = 48, 8
PHANTOM_SIZE = 768  # pixels, where no real photographs are given
FOLDERS = ("images", "preprocessed_images", ".")  # below --data-root; masks lie elsewhere
DARK = 16  # grey levels of 255; the plain reference takes what is brighter for the field


class Plain(torch.utils.data.Dataset):
    """The same work as anyone would write it: PIL decodes, crops and scales, torchvision makes normalised tensors."""

    def __init__(self, paths: list[Path], settings: Preprocessing):
        self.paths, self.settings = paths, settings

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        s = self.settings
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        lit = np.asarray(image.convert("L")) > DARK
        rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        image, field = image.crop(box), Image.fromarray(lit).crop(box).convert("L")
        side = max(image.size)
        corner = ((side - image.width) // 2, (side - image.height) // 2)
        square, cover = Image.new("RGB", (side, side)), Image.new("L", (side, side))
        square.paste(image, corner, field)  # black outside the field
        cover.paste(field, corner)
        encoder = square.resize((s.encoder_size, s.encoder_size), Image.Resampling.BICUBIC)
        unet = square.resize((s.unet_size, s.unet_size), Image.Resampling.BICUBIC)
        inside = tv.to_tensor(cover.resize((s.unet_size, s.unet_size), Image.Resampling.BILINEAR)) > 0.5
        return {
            "pixel_values": tv.normalize(tv.to_tensor(encoder), list(s.encoder_mean), list(s.encoder_std)),
            "unet_pixels": tv.normalize(tv.to_tensor(unet) * inside, list(s.unet_mean), list(s.unet_std)),
            "field": inside,
        }


def phantoms_or(root: Path | None) -> Manifest:
    """PHOTOGRAPHS phantoms, drawn once, or as many of the photographs below `root`, whole batches where it has one.

    Raises UserError where `root` holds no photograph.
    """
    if root is None:
        phantoms = cache_dir() / f"benchmark-{PHOTOGRAPHS}-{PHANTOM_SIZE}"
        drawn = draw_manifest(phantoms, count=PHOTOGRAPHS, size=PHANTOM_SIZE, seed=0, val=0.0, test=0.0)
        paths, base = [drawn.path(r.image) for r in drawn.records], drawn.root
    else:
        base = next(root / name for name in FOLDERS if (root / name).is_dir()).resolve()
        found = image_files(base, "--data-root")
        paths = [found[i] for i in np.linspace(0, len(found) - 1, min(PHOTOGRAPHS, len(found))).astype(int)]
    paths = paths[: len(paths) // BATCH * BATCH] or paths
    records = tuple(
        FundusRecord(id=str(i), image=path.relative_to(base).as_posix(), split="train") for i, path in enumerate(paths)
    )
    return Manifest(records, base, {})


class Photographs:
    """One set of photographs and every way to make batches of it."""

    def __init__(self, cfg: Config, root: Path | None, folder: Path, workers: int):
        """`folder` takes cache and shards. Raises UserError where `root` holds no photograph."""
        self.settings, self.workers = preprocessing_of(cfg), workers
        self.manifest = phantoms_or(root)
        self.paths = [self.manifest.path(r.image) for r in self.manifest.records]
        self.cache = PreparedCache(64, folder / "cache")
        write_shards(self.manifest, folder / "files", megabytes=16)
        still = Prepare(self.settings, (), augmented=False)
        write_shards(self.manifest, folder / "prepared", megabytes=16, prepare=still)
        self.shards = {name: read(folder / name) for name in ("files", "prepared")}

    @property
    def keys(self) -> list[list[tuple[int, int]]]:
        """An epoch in batches."""
        count = len(self.paths)
        return [[(0, i) for i in range(start, min(start + BATCH, count))] for start in range(0, count, BATCH)]

    def samples(self, kind: type[FundusDataset], manifest: Manifest, **more: Any) -> FundusDataset:
        processor = SimpleNamespace(preprocessing=self.settings, prompts=None)
        return kind(list(manifest.records), manifest, processor, DialogueConfig(), want_text=False, **more)

    def plain(self) -> Iterator[dict[str, torch.Tensor]]:
        """Batches of the reference."""
        order = [[i for _, i in batch] for batch in self.keys]
        dataset = Plain(self.paths, self.settings)
        yield from torch.utils.data.DataLoader(dataset, batch_sampler=order, num_workers=self.workers)

    def from_files(self, cache: PreparedCache | None = None) -> Iterator[Batch]:
        """Batches as training reads them."""
        return loader(self.samples(FundusDataset, self.manifest, cache=cache), self.keys, workers=self.workers)

    def from_shards(self, name: str) -> Iterator[Batch]:
        """As many batches as an epoch has, streamed."""
        manifest = self.shards[name]
        samples = self.samples(ShardDataset, manifest)
        assert isinstance(samples, ShardDataset)
        stream = whole(streamed(samples, 0, BATCH, 0, 1, start=0, workers=self.workers))
        for _, batch in zip(self.keys, stream, strict=False):
            yield batch

    def decoded(self) -> Iterator[Image.Image]:
        """PIL's decoding and nothing else, in this process."""
        for path in self.paths:
            with Image.open(path) as file:
                yield file.convert("RGB")


def data(
    cfg: Config, repeats: int, *, root: Path | None, workers: int, say: Callable[[str], None] = print
) -> list[Row]:
    """The rows of the benchmark `data`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does
    try:
        with tempfile.TemporaryDirectory() as folder:
            say("data: writing shards of the photographs")
            photographs = Photographs(cfg, root, Path(folder), workers)
            with Image.open(photographs.paths[0]) as first:
                size = f"{first.width}x{first.height} {first.format}"
            s = photographs.settings
            say(
                f"data: {len(photographs.paths)} photographs ({size}, the first) of {root or 'phantoms'} to "
                f"{s.encoder_size} and {s.unet_size} pixels, batches of {BATCH}, {workers} workers, 1 thread each"
            )
            ways: dict[str, Callable[[], Iterator[Any]]] = {
                "plain": photographs.plain,
                "files": photographs.from_files,
                "cache": lambda: photographs.from_files(photographs.cache),
                "shards": lambda: photographs.from_shards("files"),
                "prepared": lambda: photographs.from_shards("prepared"),
                "decoded": photographs.decoded,
            }
            actions = [partial(exhaust, way) for way in ways.values()]
            seconds = interleave(actions, repeats, warm_up=1, device=torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    count = len(photographs.paths)
    speed = {name: [count / t for t in times] for name, times in zip(ways, seconds, strict=True)}
    unit, plain = "photographs/s", "PIL and torchvision"
    return [
        Row("data, from files", plain, unit, speed["files"], speed["plain"], bar=1.5),
        Row("data, from files", "bare decoding", unit, speed["files"], speed["decoded"]),
        Row("data, from cache", plain, unit, speed["cache"], speed["plain"], bar=5.0),
        Row("data, from shards of files", plain, unit, speed["shards"], speed["plain"]),
        Row("data, from prepared shards", plain, unit, speed["prepared"], speed["plain"], bar=5.0),
    ]


def exhaust(way: Callable[[], Iterator[Any]]) -> None:
    """Take everything there is; there has to be something."""
    count = sum(1 for _ in way())
    assert count
