"""Photographs that a checkpoint was trained on cannot judge it."""

import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image

from mdf.errors import UserError
from mdf.evaluation.overlap import BY_NAME, STAMP, UNKNOWN, chosen_by, find_overlap, overlap_with, refuse_overlap
from mdf.records import Manifest, read_manifest, write_manifest
from mdf.trained_on import FILE, TrainedOn
from tests.scripts import run


def some(manifest: Manifest, split: str) -> list:
    return [r for r in manifest.records if r.split == split]


def test_the_test_split_of_its_own_manifest_is_no_overlap(checkpoint):
    manifest = checkpoint.manifest
    trained = TrainedOn.of(manifest.records)
    assert find_overlap(some(manifest, "test"), manifest, trained, [manifest]) == {}
    assert chosen_by(some(manifest, "test"), trained) == 0
    assert chosen_by(some(manifest, "val"), trained) == len(some(manifest, "val"))


def test_a_photograph_and_a_patient_are_known_again_by_name_alone(checkpoint):
    manifest = checkpoint.manifest
    train, test = some(manifest, "train"), some(manifest, "test")
    trained = TrainedOn.of(manifest.records)
    fellow = replace(test[0], patient=train[0].patient)
    elsewhere = replace(test[1], patient=train[0].patient, source="another hospital")
    found = find_overlap([train[1], fellow, elsewhere], manifest, trained)
    assert found == {"photograph": [train[1].id], "patient": [fellow.id]}
    with pytest.raises(UserError, match="2 of the 3 photographs cannot judge this checkpoint") as error:
        refuse_overlap(found, 3)
    assert train[1].id in str(error.value) and "--allow-overlap" in str(error.value)
    refuse_overlap({}, 3)


def test_a_checkpoint_knows_which_data_sets_its_masks_were_learnt_from(checkpoint, tmp_path):
    told = TrainedOn.of(checkpoint.manifest.records, checkpoint.model.config.masks)
    assert set(told.masks) == {"vessel", "disc"} == set(told.drawn())
    real = [replace(r, source="drive", masks={"vessel": "v.png"}) for r in checkpoint.manifest.records]
    both = told | TrainedOn.of(real, ("vessel", "disc"))
    assert both.masks["vessel"] == {"drive", "phantom"} and both.masks["disc"] == {"phantom"}
    assert "vessel" not in both.drawn() and "disc" in both.drawn()
    assert TrainedOn.of(real).masks == {}  # a stage that does not teach the U-Net
    nameless = [replace(r, source=None) for r in real]
    assert not TrainedOn.of(nameless, ("vessel",)).drawn()
    judged = [replace(r, split="test") for r in real]
    assert not TrainedOn.of(judged, ("vessel",)).masks
    both.write(tmp_path)
    assert TrainedOn.read(tmp_path) == both
    old = json.loads((tmp_path / FILE).read_text())
    del old["masks"]  # as it was written before
    (tmp_path / FILE).write_text(json.dumps(old))
    assert TrainedOn.read(tmp_path).drawn() == ()
    (tmp_path / FILE).write_text(json.dumps({**old, "masks": ["vessel"]}))
    with pytest.raises(UserError, match="is damaged"):
        TrainedOn.read(tmp_path)


def test_another_split_of_the_same_photographs_is_found(checkpoint):
    manifest = checkpoint.manifest
    other = [replace(r, split="train" if r.split == "test" else "test") for r in manifest.records]
    judged = [r for r in other if r.split == "test"]
    found = find_overlap(judged, manifest, TrainedOn.of(manifest.records), [manifest])
    assert len(found["photograph"]) == len(some(manifest, "train"))


def test_without_trained_on_json_the_manifest_of_its_run_tells(checkpoint):
    manifest = checkpoint.manifest
    train = some(manifest, "train")
    found = find_overlap(train, manifest, TrainedOn(), [manifest])
    assert found == {"photograph": [r.id for r in train]}
    assert find_overlap(some(manifest, "test"), manifest, TrainedOn(), [manifest]) == {}


@pytest.mark.parametrize("told", [True, False], ids=["trained_on.json", "the manifest of the run"])
def test_photographs_by_which_a_step_was_chosen_are_counted_aloud(checkpoint, tmp_path, capsys, told):
    manifest, run_folder = checkpoint.manifest, tmp_path / "run"
    write_manifest(run_folder / "data.jsonl", manifest.records, root=manifest.root, dataset="phantom")
    (run_folder / "best").mkdir(parents=True, exist_ok=True)
    if told:
        TrainedOn.of(manifest.records).write(run_folder / "best")
    val = some(manifest, "val")
    assert overlap_with(run_folder / "best", val, manifest) == {}
    assert f"{len(val)} of {len(val)} photographs are of patients by whom" in capsys.readouterr().out


def test_copies_under_other_names_are_found_by_file_and_by_what_they_show(checkpoint, tmp_path):
    manifest = checkpoint.manifest
    train, test = some(manifest, "train"), some(manifest, "test")
    shutil.copy(manifest.path(train[0].image), tmp_path / "same_bytes.png")
    with Image.open(manifest.path(train[1].image)) as picture:
        picture.resize((120, 120)).save(tmp_path / "smaller.jpg", quality=92)
    shutil.copy(manifest.path(test[0].image), tmp_path / "other.png")
    records = [
        replace(test[0], id=name, image=name, patient=None, source="copies", masks={})
        for name in ("same_bytes.png", "smaller.jpg", "other.png")
    ]
    write_manifest(tmp_path / "copies.jsonl", records, root=tmp_path, dataset="copies")
    copies = read_manifest(tmp_path / "copies.jsonl")
    found = find_overlap(copies.records, copies, TrainedOn.of(manifest.records), [manifest])
    assert found["file"] == ["same_bytes.png"] and found["near_duplicate"] == ["smaller.jpg"]


def test_marks_travel_with_the_checkpoint_and_name_nobody(checkpoint, tmp_path):
    trained = TrainedOn.of(checkpoint.manifest.records)
    trained.write(tmp_path)
    text = (tmp_path / FILE).read_text()
    assert TrainedOn.read(tmp_path) == trained
    assert not any(r.id in text or (r.patient or r.id) in text for r in checkpoint.manifest.records)
    assert TrainedOn.read(tmp_path / "nowhere") == TrainedOn()
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        TrainedOn.read(tmp_path)


def test_the_script_refuses_and_with_leave_stamps(checkpoint, tmp_path, capsys):
    shutil.copytree(checkpoint.run / "best", tmp_path / "best")
    TrainedOn.of(checkpoint.manifest.records).write(tmp_path / "best")
    args = ("--checkpoint", tmp_path / "best", "--data", checkpoint.data, "--tasks", "zero_shot")
    assert run("evaluate.py", *args, "--split", "all", "--out", tmp_path / "a") == 2
    error = capsys.readouterr().err
    assert "was trained on" in error and not (tmp_path / "a").exists()
    assert run("evaluate.py", *args, "--split", "all", "--allow-overlap", "--out", tmp_path / "b") == 0
    assert STAMP in capsys.readouterr().out
    assert json.loads((tmp_path / "b" / "metrics.json").read_text())["overlap"]["photograph"] == len(
        some(checkpoint.manifest, "train")
    )
    assert run("evaluate.py", *args, "--split", "test", "--out", tmp_path / "c") == 0
    shown = capsys.readouterr().out
    assert STAMP not in shown and UNKNOWN not in shown and BY_NAME in shown
    (tmp_path / "best" / FILE).unlink()
    assert run("evaluate.py", *args, "--split", "all", "--out", tmp_path / "d") == 0
    assert UNKNOWN in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["calibrate", "layers"])
def test_verbs_refuse_what_was_trained_on_too(checkpoint, tmp_path, capsys, verb):
    shutil.copytree(checkpoint.run / "best", tmp_path / "best")
    TrainedOn.of(checkpoint.manifest.records).write(tmp_path / "best")
    turned = {"train": "val", "val": "test", "test": "train"}
    records = [replace(r, split=turned[r.split]) for r in checkpoint.manifest.records]
    write_manifest(tmp_path / "turned.jsonl", records, root=checkpoint.manifest.root, dataset="turned")
    args = ["--checkpoint", tmp_path / "best", "--data", tmp_path / "turned.jsonl"]
    args += ["--out", tmp_path / "out", "--split", "val"] if verb == "layers" else []
    assert run("evaluate.py", verb, *args) == 2
    assert "was trained on" in capsys.readouterr().err
    assert not (tmp_path / "best" / "operating_point.json").exists()
