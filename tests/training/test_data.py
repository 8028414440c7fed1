"""What a stage does with records that lack something, and with photographs that go missing."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mdf import datasets
from mdf.batches import collate
from mdf.config import Config, PartConfig
from mdf.dialogue import Prompts, converse
from mdf.errors import UserError
from mdf.models.fusion import MDFModel, preprocessing_of
from mdf.records import Finding, FundusRecord, Manifest, write_manifest
from mdf.resources import bundled
from mdf.training.data import dataset, lacks, stage_data
from mdf.training.run import train
from mdf.training.saving import STATE
from mdf.training.stages import Task
from tests.training.conftest import losses, metrics
from tests.training.test_loop import SEGMENT, folder, launch, stop_at

ALL_LOSSES = {
    "run.stages": ("fuse",),
    "fuse.losses": {"text": 1.0, "mask": 0.5, "contrastive": 0.3, "label_aware": 0.2, "grounding": 0.1},
    "dialogue.questions": {"eye": 1.0, "diagnosis": 1.0, "presence": 1.0},
    "fuse.parts.unet": PartConfig("full", 1e-3),
    "fuse.parts.encoder": PartConfig("full", 1e-3),
}


def bare(record: FundusRecord, *kept: str) -> FundusRecord:
    """The record without anything to learn from but the fields `kept`."""
    gone = {"diagnosis": None, "findings": None, "texts": {}, "masks": {}, "grade": {}, "eye": None}
    return replace(record, **{k: v for k, v in gone.items() if k not in kept})


@pytest.fixture
def own(world, tiny, tmp_path):
    """own(change, **overrides) -> Config on a copy of the phantoms' files, each training record through `change`."""

    def make(change=lambda number, record: record, **overrides) -> Config:
        cfg = tiny()
        manifest = datasets.load(cfg.data, cfg.run.seed)
        root = tmp_path / "photographs"
        if not root.exists():
            shutil.copytree(manifest.root, root)
        train = iter(range(len(manifest.records)))
        records = [change(next(train), r) if r.split == "train" else r for r in manifest.records]
        write_manifest(tmp_path / "own.jsonl", records, root=root, dataset="own")
        data = {"data.name": "manifest", "data.manifest": str(tmp_path / "own.jsonl"), "data.root": None}
        return tiny(**data | overrides)

    return make


def kinds(number: int, record: FundusRecord) -> FundusRecord:
    """Every third record has masks alone, every third a diagnosis alone."""
    return (record, bare(record, "masks"), bare(record, "diagnosis"))[number % 3]


def test_the_sizes_of_a_configuration_are_those_of_its_model(tiny):
    cfg = tiny()
    assert preprocessing_of(cfg).encoder_size == MDFModel.build(cfg, ()).encoder.size


@pytest.fixture(scope="module")
def built(world):
    """Configuration with all losses, its model, and the samples of six records."""
    from tests.tiny import tiny_config

    cfg = tiny_config(world, **ALL_LOSSES, **{"fuse.augment": False})
    torch.manual_seed(0)
    manifest = datasets.load(cfg.data, 0)
    model = MDFModel.build(cfg, ("normal", "glaucoma")).eval()
    return cfg, model, manifest


def terms(built, records: list[FundusRecord]) -> dict[str, tuple[float, float]]:
    cfg, model, manifest = built
    task = Task(cfg, "fuse")
    samples = dataset(cfg, task, stage_data_of(records, manifest), model.processor, train=True)
    batch = collate([samples[0, i] for i in range(len(records))], model.processor)
    found, _ = task(model, batch)
    assert {n: float(c) for n, (_, c) in found.items()} == task.counts(batch)
    return {name: (float(value), count) for name, (value, count) in found.items()}


def stage_data_of(records, manifest: Manifest):
    from mdf.training.data import StageData

    return StageData(manifest, records, [])


@torch.no_grad()
def test_a_record_counts_in_the_losses_that_it_can_serve_and_in_no_other(built):
    some = built[2].split("train")[:4]
    whole = terms(built, some)
    nothing = terms(built, [*some, bare(some[0])])
    for name, (value, count) in whole.items():
        assert nothing[name] == (pytest.approx(value, rel=1e-5), count), name
    masks, words = terms(built, [*some, bare(some[0], "masks")]), terms(built, [*some, bare(some[0], "diagnosis")])
    assert masks["mask"][1] == whole["mask"][1] + 2 and words["mask"] == pytest.approx(whole["mask"], rel=1e-5)
    assert words["contrastive"][1] == 5 and words["text"][1] > whole["text"][1]
    for name in ("text", "contrastive", "label_aware", "grounding"):
        assert masks[name] == pytest.approx(whole[name], rel=1e-5), name
    assert whole["grounding"][1] > 0 and words["grounding"] == pytest.approx(whole["grounding"], rel=1e-5)
    both = terms(built, [*some, bare(some[0], "masks", "eye")])  # the eye is told by the disc, which has a mask
    assert both["grounding"][1] > whole["grounding"][1] and both["text"][1] > whole["text"][1]


LESION = "haemorrhage"
FOUND = {"findings": (Finding(LESION, location="superonasal", count=3),)}
GROUNDED = {  # what a record knows, beside a diagnosis, and the questions that are asked -> whether it can be grounded
    "presence of a lesion with a mask": ({"masks": {LESION: "a"}} | FOUND, ("presence",), True),
    "presence of a lesion that is not there": ({"masks": {"drusen": "a"}} | FOUND, ("presence",), True),
    "its quadrant": ({"masks": {LESION: "a"}} | FOUND, ("quadrant",), True),
    "its count": ({"masks": {LESION: "a"}} | FOUND, ("count",), True),
    "the count of another lesion": ({"masks": {"drusen": "a"}} | FOUND, ("count",), False),
    "a lesion without a mask": ({"masks": {"vessel": "a"}} | FOUND, ("presence", "quadrant", "count"), False),
    "a mask that the model has no output for": ({"masks": {"cup": "a"}} | FOUND, ("presence",), False),
    "a mask without findings": ({"masks": {LESION: "a"}}, ("presence", "quadrant", "count"), False),
    "the eye by its disc": ({"masks": {"disc": "a"}, "eye": "left"}, ("eye",), True),
    "no question about it": ({"masks": {LESION: "a", "disc": "b"}, "eye": "left"} | FOUND, ("diagnosis",), False),
    "no mask at all": ({"eye": "left"} | FOUND, ("presence", "eye"), False),
}


@pytest.mark.parametrize(("known", "kinds", "grounded"), GROUNDED.values(), ids=GROUNDED)
def test_a_record_is_grounded_by_an_answer_about_what_has_a_mask_and_serves_the_text_without(
    tiny, known, kinds, grounded
):
    questions = dict.fromkeys((*kinds, "diagnosis"), 1.0)
    masks = ("vessel", "disc", LESION, "drusen")
    cfg = tiny(**ALL_LOSSES | {"unet.masks": masks, "dialogue.questions": questions})
    record, prompts = FundusRecord("a", "a.png", diagnosis=("amd",), **known), Prompts(bundled("prompts"))
    lacking = lacks(record, Task(cfg, "fuse"), cfg, prompts)
    assert ("grounding" not in lacking) == grounded and "text" not in lacking
    if lacking.get("grounding"):
        assert "no answer about one of vessel, disc, haemorrhage, drusen" in lacking["grounding"]
    # what is promised comes in conversations, and nothing else does
    rng = np.random.default_rng(0)
    turns = [t for _ in range(60) for t in converse(record, prompts, cfg.dialogue, ("amd",), rng)]
    assert bool({t.finding for t in turns} & set(record.masks) & set(cfg.unet.masks)) == grounded


def test_records_with_and_without_masks_of_lesions_train_together(own):
    """Half of them can be grounded; all serve the text, and none is left out."""
    cfg = own(
        lambda n, r: bare(r, "findings", "diagnosis", *(["masks"] if n % 2 else [])),
        **ALL_LOSSES
        | {"unet.masks": ("vessel", "hard_exudate", "haemorrhage"), "fuse.losses": {"text": 1.0, "grounding": 0.5}},
    )
    said: list[str] = []
    manifest, task = datasets.load(cfg.data, 0), Task(cfg, "fuse")
    data = stage_data(cfg, task, manifest, Prompts(bundled("prompts")), said.append)
    records = manifest.split("train")
    assert data.train == records
    assert any(f"{len(records[::2])} training photographs do not serve grounding" in line for line in said)
    assert not any("serve text" in line or "WARNING" in line for line in said)


def test_a_batch_that_serves_no_loss_gives_gradients_of_zero(built):
    cfg, model, manifest = built
    task = Task(cfg, "fuse")
    records = [bare(r) for r in manifest.split("train")[:2]]
    samples = dataset(cfg, task, stage_data_of(records, manifest), model.processor, train=True)
    model.set_trainable(task.stage.parts, tuple(task.weights))
    batch = collate([samples[0, i] for i in range(2)], model.processor)
    found, _ = task(model, batch)
    assert {name: (value.item(), count) for name, (value, count) in found.items()} == dict.fromkeys(found, (0.0, 0.0))
    task.total(found, task.counts(batch), 1).backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert gradients and not any(g.any() for g in gradients)
    model.zero_grad(set_to_none=True)


def test_a_stage_of_several_losses_trains_on_records_that_serve_only_some(own, capsys):
    cfg = own(kinds, **ALL_LOSSES, **{"fuse.steps": 3})
    assert train(cfg) == 0
    said = capsys.readouterr().out
    assert "do not serve mask: no mask of vessel, disc" in said and "do not serve text: no question" in said
    assert all(torch.tensor(value).isfinite() for value in losses(cfg)) and len(losses(cfg)) == 3


def test_a_record_that_serves_no_loss_is_left_out_and_a_loss_without_any_is_named(own):
    cfg = own(lambda n, r: bare(r) if n < 2 else bare(r, "diagnosis"), **ALL_LOSSES)
    said: list[str] = []
    manifest = datasets.load(cfg.data, 0)
    task = Task(cfg, "fuse")
    data = stage_data(cfg, task, manifest, MDFModel.build(cfg, ()).processor.prompts, said.append)
    assert len(data.train) == len(manifest.split("train")) - 2
    assert any("2 training photographs left out" in line for line in said)
    assert any("WARNING" in line and "the loss mask" in line for line in said)


def test_weights_mix_the_sources_and_have_to_name_each(own, capsys):
    def named(number: int, record: FundusRecord) -> FundusRecord:
        return replace(record, source="few" if number < 3 else "many")

    cfg = own(named, **SEGMENT, **{"data.weights": {"few": 1.0, "many": 0.0, "phantom": 0.0}, "data.val": 0.0})
    assert train(cfg) == 0
    said = capsys.readouterr().out
    assert "segment: 3 training" in said and "drawn from few 100.0%" in said
    with pytest.raises(UserError, match="no weight is given to 'many'"):
        train(own(named, **SEGMENT, **{"data.weights": {"few": 1.0, "phantom": 1.0}, "run.name": "b"}))
    weights = {"few": 1.0, "phantom": 1.0, "many": 1.0, "odir": 1.0}
    with pytest.raises(UserError, match="there is no 'odir'"):
        train(own(named, **SEGMENT, **{"data.weights": weights, "run.name": "c"}))


# -- the cache --------------------------------------------------------------------------------------------------------


def test_a_cached_run_is_the_same_run(own, tmp_path, monkeypatch):
    """Two epochs with augmentation, of which the second reads the cache, and validation."""
    monkeypatch.setenv("MDF_CACHE", str(tmp_path / "cache"))
    settings = SEGMENT | {"segment.steps": 7, "segment.eval_every": 3}
    plain, cached = own(**settings), own(**settings, **{"run.name": "cached", "data.cache_gb": 0.05})
    assert [train(plain), train(cached)] == [0, 0]
    assert metrics(plain) == metrics(cached)
    assert len(list((tmp_path / "cache" / "prepared").glob("*/*.crop"))) > 10


# -- missing photographs ----------------------------------------------------------------------------------------------


def images(cfg: Config) -> Path:
    return Path(cfg.data.manifest).parent / "photographs" / "images"


def test_a_photograph_that_vanishes_stops_training_with_its_name_and_leaves_a_checkpoint(own, monkeypatch):
    settings = SEGMENT | {"segment.steps": 4, "segment.eval_every": 4, "run.keep_last_every": 99}
    undisturbed, cfg = own(**settings), own(**settings, **{"run.name": "disturbed"})
    assert train(undisturbed) == 0
    stop_at(monkeypatch, "segment", 2, lambda: images(cfg).rename(images(cfg).with_name("away")))
    with pytest.raises(UserError, match=r"phantom_0000\d\d\.png: no such file"):
        train(cfg)
    assert json.loads((folder(cfg) / "last" / STATE / "state.json").read_text())["step"] == 2
    with pytest.raises(UserError, match="files of the data are missing"):
        train(cfg, resume=True)
    images(cfg).with_name("away").rename(images(cfg))
    assert train(cfg, resume=True) == 0
    assert metrics(cfg) == metrics(undisturbed)


def test_a_photograph_that_vanishes_is_skipped_and_counted_where_the_user_said_so(own, monkeypatch, capsys):
    cfg = own(**SEGMENT | {"segment.steps": 7, "data.missing": "skip"})
    gone = [r.image for r in datasets.load(cfg.data, 0).split("train")][:2]
    stop_at(monkeypatch, "segment", 1, lambda: [(images(cfg).parent / name).unlink() for name in gone])
    assert train(cfg) == 0
    noted = [line for line in capsys.readouterr().err.splitlines() if "is gone; it is left out" in line]
    counts = [line.get("missing", 0) for line in metrics(cfg) if "loss" in line]
    assert counts == sorted(counts) and counts[-1] == len(noted) > 0
    assert all(torch.tensor(value).isfinite() for value in losses(cfg)) and len(losses(cfg)) == 7
    again = own(**SEGMENT, **{"run.name": "again", "data.missing": "skip"})  # now they are gone from the start
    assert train(again) == 0
    assert "2 files of the data are missing" in capsys.readouterr().out
    with pytest.raises(UserError, match="2 files of the data are missing"):
        train(own(**SEGMENT, **{"run.name": "strict"}))


def test_skipping_does_not_go_on_without_any_photograph(own, monkeypatch):
    cfg = own(**SEGMENT | {"segment.steps": 4, "segment.eval_every": 4, "data.missing": "skip"})
    stop_at(monkeypatch, "segment", 1, lambda: images(cfg).rename(images(cfg).with_name("away")))
    with pytest.raises(UserError, match="every photograph of a step is gone"):
        train(cfg)
    assert json.loads((folder(cfg) / "last" / STATE / "state.json").read_text())["step"] == 1


@pytest.mark.slow
def test_of_two_processes_both_stop_and_leave_a_checkpoint(own, tmp_path):
    cfg = own(**SEGMENT | {"segment.steps": 4000, "segment.eval_every": 4000, "run.keep_last_every": 9999})
    process = launch(cfg, tmp_path / "two.yaml", 2)
    log = folder(cfg) / "metrics.jsonl"
    until = time.monotonic() + 240
    while not (log.exists() and log.read_text()) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    images(cfg).rename(images(cfg).with_name("away"))
    output, _ = process.communicate(timeout=240)
    assert process.returncode != 0 and "no such file" in output, output
    assert json.loads((folder(cfg) / "last" / STATE / "state.json").read_text())["step"] >= 1
