"""A mask that is a part of a file is the same mask from files, from the cache, from shards and in a merged manifest."""

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mdf.batches import FundusDataset, Sample
from mdf.config import AugmentConfig, DialogueConfig
from mdf.datasets.merge import merge
from mdf.datasets.shards import Prepare, read, write_shards
from mdf.imaging.cache import PreparedCache
from mdf.imaging.phantom import draw
from mdf.imaging.preprocess import Preprocessing
from mdf.records import FundusRecord, Manifest, read_manifest, write_manifest
from mdf.training.stream import ShardDataset, ShardStream
from tests.imaging.test_mask_files import label_map

SETTINGS = Preprocessing(encoder_size=64, unet_size=96)
NAMES = ("disc", "cup", "hard_exudate", "fovea")
SIDE = 160  # pixels of a photograph
AUGMENT = AugmentConfig()


def write_set(root: Path, numbers: range, dataset: str) -> Path:
    """A manifest of phantoms whose masks are grey levels of one file, regions of a map and an outline."""
    records = []
    for number in numbers:
        drawn, place = draw(number, SIDE), root / f"{number}.png"
        root.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.image).save(place)
        levels = np.full((SIDE, SIDE), 255, dtype=np.uint8)
        levels[50:100, 60 + number : 110] = 128
        levels[60:90, 70 + number : 100] = 0
        Image.fromarray(levels).save(root / f"{number}.bmp")
        regions = np.zeros((SIDE, SIDE), dtype=np.int32)
        for region in range(1, 5):
            regions[30 * region : 30 * region + 12, 40:90] = region
        label_map(root / f"({number}).map.gz", regions)
        (root / f"{number}.txt").write_text(f"40 {50 + number}\n90 60\n80 120\n45 110\n")
        masks = {
            "disc": f"{number}.bmp#0-128", "cup": f"{number}.bmp#0", "hard_exudate": f"({number}).map.gz#1,3-4",
            "fovea": f"{number}.txt#{SIDE}x{SIDE}",
        }  # fmt: skip
        records.append(FundusRecord(id=f"{dataset}{number}", image=place.name, masks=masks, split="train"))
    write_manifest(root.parent / f"{dataset}.jsonl", records, root=root, dataset=dataset)
    return root.parent / f"{dataset}.jsonl"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    return read_manifest(write_set(tmp_path_factory.mktemp("parts") / "set", range(3), "parts"))


def dataset(kind: type[FundusDataset], manifest: Manifest, augment: AugmentConfig | None, **more) -> FundusDataset:
    processor = SimpleNamespace(preprocessing=SETTINGS, prompts=None)
    records = list(manifest.records)
    return kind(
        records, manifest, processor, DialogueConfig(), augment=augment, masks=NAMES, want_text=False, **more
    )  # fmt: skip


def samples(made: FundusDataset) -> dict[str, Sample]:
    return {made.records[i].id: made[0, i] for i in range(len(made))}


def assert_same(got: dict[str, Sample], wanted: dict[str, Sample]) -> None:
    assert set(got) == set(wanted)
    for id_, sample in wanted.items():
        for f in fields(sample.prepared):
            one, other = getattr(got[id_].prepared, f.name), getattr(sample.prepared, f.name)
            assert torch.equal(one, other) if other is not None else one is None, (id_, f.name)


@pytest.fixture(params=[None, AUGMENT], ids=["still", "augmented"])
def augment(request) -> AugmentConfig | None:
    return request.param


@pytest.fixture
def from_files(manifest, augment) -> dict[str, Sample]:
    """The samples of the manifest's files; each of their four masks shows something, and each something else."""
    made = samples(dataset(FundusDataset, manifest, augment))
    for sample in made.values():
        masks = sample.prepared.masks.flatten(1)
        assert sample.prepared.mask_known.all() and masks.any(1).all() and len(masks.unique(dim=0)) == len(NAMES)
    return made


def test_from_the_cache(manifest, augment, from_files, tmp_path):
    cache = PreparedCache(0.01, tmp_path / "cache")
    for _ in range(2):  # made, then read
        assert_same(samples(dataset(FundusDataset, manifest, augment, cache=cache)), from_files)
    assert len(list(cache.folder.glob("*/*.crop"))) == len(manifest.records)


def test_another_part_of_the_same_file_is_another_entry_of_the_cache(manifest, tmp_path):
    cache = PreparedCache(0.01, tmp_path / "cache")
    record = manifest.records[0]
    for part in ("#0-128", "#0", "#255"):
        masks = {"disc": record.image.replace(".png", f".bmp{part}")}
        one = Manifest((FundusRecord(id="1", image=record.image, masks=masks),), manifest.root)
        cached = samples(dataset(FundusDataset, one, None, cache=cache))
        assert_same(cached, samples(dataset(FundusDataset, one, None)))
    assert len(list(cache.folder.glob("*/*.crop"))) == 3


@pytest.mark.parametrize("prepared", [False, True], ids=["files", "prepared"])
def test_from_shards(manifest, augment, from_files, tmp_path, prepared):
    prepare = Prepare(SETTINGS, NAMES, augmented=augment is not None) if prepared else None
    write_shards(manifest, tmp_path / "shards", prepare=prepare)
    made = dataset(ShardDataset, read(tmp_path / "shards"), augment)
    assert_same(samples(made), from_files)  # one by one
    assert isinstance(made, ShardDataset)
    photographs = ShardStream(made, 0, 1, 0, 1, 0).photographs()
    streamed = [next(photographs) for _ in made.records]
    assert_same({r.id: made.sample(r, 0, made.crop_of(r, members)) for r, _, members in streamed}, from_files)


def test_a_file_of_several_masks_is_held_once(manifest, tmp_path):
    import tarfile

    write_shards(manifest, tmp_path / "shards")
    with tarfile.open(tmp_path / "shards" / "train-00000.tar") as tar:
        assert sum(name.endswith(".bmp") for name in tar.getnames()) == len(manifest.records)


def test_in_a_merged_manifest(manifest, augment, from_files, tmp_path):
    paths = [write_set(tmp_path / name / "set", numbers, name) for name, numbers in PARTS.items()]
    merged = merge(paths)
    got = samples(dataset(FundusDataset, merged, augment))
    wanted: dict[str, Sample] = {}
    for path in paths:
        wanted |= samples(dataset(FundusDataset, read_manifest(path), augment))
    assert_same(got, wanted)


PARTS = {"a": range(2), "b": range(2, 4)}
