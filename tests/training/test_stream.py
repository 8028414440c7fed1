"""Training from shards: the real loop, resumed with the very next photograph, from files and prepared ones alike."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from mdf import datasets
from mdf.batches import Batch
from mdf.config import Config
from mdf.datasets.shards import shard_of, write_shards
from mdf.errors import UserError
from mdf.models.fusion import MDFModel, preprocessing_of
from mdf.training.data import StageData, dataset, sampler_of, training_batches
from mdf.training.run import train
from mdf.training.stages import Task
from mdf.training.stream import prepare_for
from tests.training.conftest import losses, metrics
from tests.training.test_loop import crash, stop_at

STAGES = {"run.stages": ("segment", "align"), "segment.steps": 6, "align.steps": 2}


@pytest.fixture(scope="module")
def folders(world, tmp_path_factory) -> dict[str, Path]:
    """The phantoms as shards of files, and as shards of prepared photographs."""
    from mdf.config import save_config
    from tests.tiny import tiny_config

    cfg, out = tiny_config(world), tmp_path_factory.mktemp("shards")
    manifest = datasets.load(cfg.data, cfg.run.seed)
    save_config(cfg, out / "tiny.yaml")
    prepare = prepare_for(str(out / "tiny.yaml"))
    assert prepare.augmented and prepare.preprocessing == preprocessing_of(cfg)
    write_shards(manifest, out / "files", megabytes=0.06)
    write_shards(manifest, out / "prepared", megabytes=0.15, prepare=prepare)
    return {name: out / name for name in ("files", "prepared")}


@pytest.fixture
def sharded(tiny, folders):
    def make(name: str = "files", **overrides) -> Config:
        return tiny(**STAGES | {"data.name": "shards", "data.root": str(folders[name])} | overrides)

    return make


@pytest.mark.parametrize("name", ["files", "prepared"])
def test_a_run_that_is_resumed_goes_on_with_the_very_next_photograph(sharded, monkeypatch, name):
    undisturbed, cfg = sharded(name), sharded(name, **{"run.name": "disturbed"})
    assert train(undisturbed) == 0
    stop_at(monkeypatch, "segment", 5, crash)
    with pytest.raises(RuntimeError):
        train(cfg)
    assert train(cfg, resume=True) == 0
    assert metrics(cfg) == metrics(undisturbed) and len(losses(cfg)) == 8


def batches(cfg: Config, model, workers: int, done: int, count: int, rank: int = 0, processes: int = 1) -> list[Batch]:
    manifest, task = datasets.load(cfg.data, 0), Task(cfg, "segment")
    records = manifest.split("train")
    samples = dataset(cfg, task, StageData(manifest, records, []), model.processor, train=True)
    sampler = sampler_of(cfg, task, records, rank, processes)
    return list(islice(training_batches(samples, sampler, done=done, total=99, workers=workers), count))


@pytest.fixture(scope="module")
def model(world):
    from tests.tiny import tiny_config

    return MDFModel.build(tiny_config(world), ())


def assert_equal(a: list[Batch], b: list[Batch]) -> None:
    assert [x.sample_ids for x in a] == [x.sample_ids for x in b]
    assert all(
        torch.equal(x.unet_pixels, y.unet_pixels) and torch.equal(x.masks, y.masks) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("source", ["files", "shards"])
def test_resumed_batches_are_the_next_ones_with_workers_or_without(sharded, tiny, model, workers, source):
    cfg = sharded() if source == "shards" else tiny(**STAGES)
    whole = batches(cfg, model, workers, 0, 7)
    assert len({i for b in whole for i in b.sample_ids}) > 4
    for done in (1, 4):
        assert_equal(batches(cfg, model, workers, done, 7 - done), whole[done:])


def test_processes_share_an_epoch_of_shards(sharded, model):
    cfg = sharded(**{"segment.batch_size": 1})
    count = len(datasets.load(cfg.data, 0).split("train"))
    seen = [[b.sample_ids[0] for b in batches(cfg, model, 0, 0, count, rank, 2)] for rank in range(2)]
    firsts = [list(dict.fromkeys(ids)) for ids in seen]  # each goes on into its next epoch
    assert not set(firsts[0][: count // 3]) & set(firsts[1][: count // 3])


def test_a_process_whose_shards_serve_nothing_in_an_epoch_goes_on_to_the_next(sharded, model):
    """All photographs that serve the stage lie in one shard, which each of two processes reads in some epochs."""
    cfg = sharded(**{"segment.batch_size": 1})
    manifest, task = datasets.load(cfg.data, 0), Task(cfg, "segment")
    train = manifest.split("train")
    some = [r for r in train if shard_of(r.image) == shard_of(train[0].image)]
    assert 0 < len(some) < len(train)
    for rank in range(2):
        samples = dataset(cfg, task, StageData(manifest, some, []), model.processor, train=True)
        made = training_batches(samples, sampler_of(cfg, task, some, rank, 2), done=0, total=99, workers=0)
        assert {next(made).sample_ids[0] for _ in range(2 * len(some))} == {r.id for r in some}


def test_prepared_shards_of_another_model_or_kind_are_refused(sharded, tiny):
    with pytest.raises(UserError, match="prepared for other sizes"):
        train(sharded("prepared", **{"unet.size": 128}))
    with pytest.raises(UserError, match="without the masks fovea"):
        train(sharded("prepared", **{"unet.masks": ("vessel", "fovea"), "run.name": "b"}))
    with pytest.raises(UserError, match="prepared to be augmented and is wanted without"):
        train(sharded("prepared", **{"segment.augment": False, "run.name": "c"}))
