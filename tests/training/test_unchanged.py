"""A run goes on over the data that it began with, or says what has changed; what is of no matter to it may change."""

import json
from pathlib import Path

import pytest

from mdf.config import Config
from mdf.datasets.phantom import draw_manifest
from mdf.errors import UserError
from mdf.records import FundusRecord, Manifest, read_manifest, write_manifest
from mdf.training.data import load_manifests
from mdf.training.run import train
from mdf.training.run_folder import RunFolder, environment
from mdf.training.unchanged import refuse_other_data
from tests.tiny import put
from tests.training.conftest import metrics
from tests.training.test_loop import crash, folder, stop_at

STAGES = {"run.stages": ("segment", "align"), "segment.steps": 2, "align.steps": 1, "run.keep_last_every": 1}


@pytest.fixture
def listed(tiny, tmp_path):
    """listed(**settings) -> a configuration whose data are the lines of TMP/data.jsonl."""
    drawn = draw_manifest(tmp_path / "phantoms", count=24, size=96, seed=0, val=0.25, test=0.25)

    def make(**settings) -> Config:
        rewrite(tmp_path / "data.jsonl", drawn, drawn.records)
        return tiny(**{"data.name": "manifest", "data.manifest": str(tmp_path / "data.jsonl"), "data.root": None,
                       **STAGES, **settings})  # fmt: skip

    return make


def rewrite(path: Path, drawn: Manifest, records: tuple[FundusRecord, ...]) -> None:
    write_manifest(path, records, root=drawn.root, dataset="phantom")


def with_change(cfg: Config, change) -> None:
    """Have `change` act on the list of records, as dictionaries, of the manifest."""
    manifest = read_manifest(str(cfg.data.manifest))
    lines = [record.to_dict() for record in manifest.records]
    change(lines)
    rewrite(Path(str(cfg.data.manifest)), manifest, tuple(FundusRecord.from_dict(line) for line in lines))


def add(split: str, **fields):
    """A change: one photograph more."""
    return lambda lines: lines.append({**next(x for x in lines if x["split"] == split), "id": "later", **fields})


def test_a_run_over_a_manifest_that_grew_is_refused_and_goes_on_exactly_where_that_does_not_touch_it(
    listed, monkeypatch
):
    whole, cut = listed(), listed(**{"run.name": "cut"})
    assert train(whole) == 0
    stop_at(monkeypatch, "segment", 2, crash)
    with pytest.raises(RuntimeError, match="the power went"):
        train(cut)
    written = Path(str(cut.data.manifest)).read_text()
    with_change(cut, add("train"))
    before = (folder(cut) / "last" / "model.safetensors").read_bytes(), (folder(cut) / "metrics.jsonl").read_text()
    with pytest.raises(UserError) as caught:
        train(cut, resume=True)
    said = str(caught.value)
    assert f"segment, to train on: 1 new (later); {folder(cut) / 'data.jsonl'} has them as they were" in said
    assert "align, to train on: 1 new (later)" in said
    assert f"run.name=NAME run.start_from={folder(cut) / 'last'} run.stages=[segment,align]" in said
    assert before == (
        (folder(cut) / "last" / "model.safetensors").read_bytes(), (folder(cut) / "metrics.jsonl").read_text()
    )  # fmt: skip
    Path(str(cut.data.manifest)).write_text(written)
    with_change(cut, add("test"))
    assert train(cut, resume=True) == 0
    assert metrics(cut) == metrics(whole)
    with_change(cut, add("train", id="after the end"))
    assert train(cut, resume=True) == 0, "nothing is left to train"


def begun(cfg: Config) -> RunFolder:
    """The folder of a run that has just begun; prompts are what last/ has of a model."""
    from mdf.dialogue import Prompts
    from mdf.resources import bundled

    made, manifests = RunFolder(cfg), load_manifests(cfg)
    made.create(environment(manifests, ""), manifests)
    made.last.mkdir()
    (made.last / "prompts").symlink_to(Prompts(bundled("prompts")).folder)
    return made


def swap(lines: list[dict]) -> None:
    """One photograph changes places between training and validation."""
    first, second = (next(x for x in lines if x["split"] == split) for split in ("train", "val"))
    first["split"], second["split"] = "val", "train"


def redraw(lines: list[dict]) -> None:
    next(x for x in lines if x["split"] == "train")["masks"].pop("vessel")


@pytest.mark.parametrize(
    ("change", "stages", "said"),
    [
        (add("test"), ("segment", "align"), None),
        (add("train", masks={}), ("segment",), None),  # which that stage would leave out
        (add("train", masks={}), ("segment", "align"), "align, to train on: 1 new"),
        (redraw, ("segment",), "segment, to train on: 1 changed"),
        (lambda lines: lines.pop(next(i for i, x in enumerate(lines) if x["split"] == "val")), ("align",), "1 gone"),
        (lambda lines: lines.reverse(), ("align",), "align, to train on: the same in another order"),
        (swap, ("align",), "align, to judge by: 1 new"),
    ],
    ids=["test", "without a mask", "without a mask, to align", "mask", "gone", "order", "split"],
)
def test_only_what_is_left_to_train_counts(listed, change, stages, said):
    cfg = listed(**{"segment.eval_photographs": 99, "align.eval_photographs": 99})
    made = begun(cfg)
    refuse_other_data(cfg, made, load_manifests(cfg), stages)
    with_change(cfg, change)
    manifests = load_manifests(cfg)
    refuse_other_data(cfg, made, manifests, ())
    if said is None:
        refuse_other_data(cfg, made, manifests, stages)
    else:
        with pytest.raises(UserError, match=said):
            refuse_other_data(cfg, made, manifests, stages)


def test_a_stage_with_data_of_its_own_is_held_against_those(listed, tmp_path):
    cfg = listed()
    other = put(cfg.data, "manifest", str(tmp_path / "other.jsonl"))
    cfg = put(cfg, "segment.data", other)
    manifest = read_manifest(str(cfg.data.manifest))
    rewrite(tmp_path / "other.jsonl", manifest, manifest.records[:20])
    made = begun(cfg)
    with_change(cfg, add("train"))
    refuse_other_data(cfg, made, load_manifests(cfg), ("segment",))
    with pytest.raises(UserError, match="align, to train on: 1 new"):
        refuse_other_data(cfg, made, load_manifests(cfg), ("align",))


def test_a_run_that_does_not_know_its_data_goes_on(listed):
    cfg = listed()
    made = begun(cfg)
    with_change(cfg, add("train"))
    with pytest.raises(UserError, match="align, to train on: 1 new"):
        refuse_other_data(cfg, made, load_manifests(cfg), ("align",))
    path = made.path / "environment.json"
    facts = json.loads(path.read_text())
    del facts["data_sha256"]
    path.write_text(json.dumps(facts))
    refuse_other_data(cfg, made, load_manifests(cfg), ("align",))
