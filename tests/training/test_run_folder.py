"""The folder of a run."""

from dataclasses import replace

from mdf.config import DataConfig
from mdf.records import read_manifest
from mdf.training.data import load_manifests
from mdf.training.run_folder import RunFolder


def test_data_jsonl_is_what_the_finished_model_is_evaluated_on(tiny, tmp_path):
    """A U-Net that learns on phantoms first does not make them the data of the run."""
    cfg = tiny()
    first = replace(cfg.segment, data=DataConfig(root=str(tmp_path / "first"), count=8, size=96))
    cfg = replace(cfg, segment=first)
    manifests = load_manifests(cfg)
    assert manifests["segment"] is not manifests["align"] is manifests["fuse"]
    folder = RunFolder(cfg)
    folder.create({}, manifests)
    assert read_manifest(folder.path / "data.jsonl").records == manifests["fuse"].records
    assert read_manifest(folder.path / "data-segment.jsonl").records == manifests["segment"].records
    assert sorted(p.name for p in folder.path.glob("data*.jsonl")) == ["data-segment.jsonl", "data.jsonl"]


def test_a_machine_that_does_not_see_the_folder_of_the_run_says_where_it_has_to_lie(tiny):
    folder = RunFolder(tiny())
    assert "run.dir has to lie on a disk that all machines share" in str(folder.unseen(patience=0.0))
    folder.create({}, load_manifests(folder.cfg))
    assert folder.unseen(patience=0.0) is None
