"""Learnt from one data set, judged on another: what both know, what may not be in both, and the table."""

import json
from dataclasses import replace

import pytest

from mdf.datasets.phantom import draw_manifest
from mdf.errors import UserError
from mdf.evaluation.transfer import common_classes, copied, transfer
from mdf.files import write_text
from mdf.records import FundusRecord, Manifest, to_jsonl
from tests.scripts import run

TASKS = ("--tasks", "zero_shot,probe,few_shot,retrieval")
COLUMNS = ["zero-shot, names", "zero-shot, described", "probe", "few-shot, k=1", "few-shot, k=4", "few-shot, k=16"]
COLUMNS += ["image→text", "image→image"]


def of(*diagnoses: str) -> list[FundusRecord]:
    """A photograph of each diagnosis."""
    return [FundusRecord(id=str(i), image=f"{i}.png", diagnosis=(name,)) for i, name in enumerate(diagnoses)]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Manifest:
    """Other phantoms than those of the checkpoint, from another place."""
    drawn = draw_manifest(tmp_path_factory.mktemp("source"), count=24, size=96, seed=7, val=0.3, test=0.1)
    return replace(drawn, records=tuple(replace(r, source="elsewhere") for r in drawn.records))


def written(path, records, root) -> tuple:
    """--learn-from and its root, of a manifest that is written to `path`."""
    write_text(path, to_jsonl(records))
    write_text(path.with_suffix(".meta.json"), json.dumps({"dataset": "elsewhere"}))
    return "--learn-from", path, "--learn-from-root", root


def results(out) -> dict:
    return json.loads((out / "metrics.json").read_text())


def test_the_classes_are_those_that_both_know_and_the_others_are_said(capsys):
    judged, learnt = of("normal", "glaucoma", "drusen", "retinal_vein_occlusion"), of("normal", "glaucoma", "cataract")
    assert common_classes(judged, learnt, ("glaucoma", "normal", "cataract")) == ("glaucoma", "normal")
    said = capsys.readouterr().out
    assert "only the photographs judged have them: retinal_vein_occlusion" in said
    assert "only those to learn from have them: cataract" in said


@pytest.mark.parametrize("swapped", [False, True])
def test_where_one_side_is_finer_the_coarser_name_is_the_class(swapped):
    sides = of("normal", "normal_tension_glaucoma", "primary_open_angle_glaucoma"), of("normal", "glaucoma")
    assert common_classes(*(sides[::-1] if swapped else sides), ()) == ("glaucoma", "normal")


def test_one_common_class_is_too_few():
    with pytest.raises(UserError, match=r"two classes that both manifests know, there are 1 \(normal\)"):
        common_classes(of("normal", "glaucoma"), of("normal", "cataract"), ())


def test_a_copy_under_another_name_is_found(photograph, tmp_path):
    a, b = photograph(tmp_path / "a.png", seed=1), photograph(tmp_path / "b.png", seed=2)
    copy = tmp_path / "copy.png"
    copy.write_bytes(a.read_bytes())
    changed = tmp_path / "changed.png"
    changed.write_bytes(a.read_bytes()[:-1] + b"\0")  # as long, not the same
    assert copied([copy, changed], [a, b]) == {copy}
    assert copied([a], [a]) == {a}
    assert copied([tmp_path / "gone.png"], [a]) == set()


def test_a_probe_learns_from_one_set_and_is_judged_on_another(checkpoint, source, tmp_path, capsys):
    args = ("--checkpoint", checkpoint.run, "--data", checkpoint.data, *TASKS)
    learn = written(tmp_path / "m.jsonl", source.records, source.root)
    assert run("evaluate.py", *args, "--split", "all", *learn, "--out", tmp_path / "there") == 0
    found = results(tmp_path / "there")
    assert found["n"] == len(checkpoint.manifest.records) and found["learnt_from"]["dataset"] == "elsewhere"
    assert {s: found["probe"][s] for s in ("train", "val")} == {s: len(source.split(s)) for s in ("train", "val")}
    assert found["classes"] == ["normal", "diabetic_retinopathy", "amd", "glaucoma"]
    assert run("evaluate.py", *args[:4], "--tasks", "probe,retrieval", "--out", tmp_path / "itself") == 0
    capsys.readouterr()
    table = tmp_path / "table.md"
    assert run("evaluate.py", "transfer", tmp_path / "itself", tmp_path / "there", "--out", table) == 0
    text = capsys.readouterr().out
    assert table.read_text() == text
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert lines[0][:8] == ["data set", "n", "learnt from", "measure", "chance", *COLUMNS[:3]]
    assert lines[0][8:] == COLUMNS[3:]
    assert [row[2:5] for row in lines[2:5]] == [
        ["itself", "balanced accuracy", "0.250"], ["itself", "macro AUROC", "0.5"],
        ["itself", "R@1", f"{1 / results(tmp_path / 'itself')['retrieval']['captions']:.3f}"],
    ]  # fmt: skip
    there = next(row for row in lines if row[2] == "elsewhere")
    low, high = found["probe"]["balanced_accuracy_ci"]
    assert there[7] == f"{found['probe']['balanced_accuracy']:.3f} [{low:.3f}, {high:.3f}]"
    assert there[8].startswith(f"{found['few_shot']['shots_1']['clap']['balanced_accuracy']:.3f} [")
    assert there[11] == "-"  # retrieval has no balanced accuracy
    assert "classes normal, diabetic_retinopathy, amd, glaucoma" in text and str(tmp_path / "there") in text


def test_a_class_without_a_photograph_to_learn_from_is_left_out_or_judged_and_said(
    checkpoint, source, tmp_path, capsys
):
    learn = written(
        tmp_path / "m.jsonl",
        [r for r in source.records if r.diagnosis != ("glaucoma",)],
        source.root,
    )
    args = ("--checkpoint", checkpoint.run, "--data", checkpoint.data, "--split", "all", "--tasks")
    assert run("evaluate.py", *args, "probe", *learn, "--out", tmp_path / "out") == 0
    assert "left out, since only the photographs judged have them: glaucoma" in capsys.readouterr().out
    assert "glaucoma" not in results(tmp_path / "out")["classes"]
    three = (*learn, "--classes", "normal,amd,glaucoma")
    assert run("evaluate.py", *args, "probe,few_shot", *three, "--out", tmp_path / "out") == 0
    assert "--learn-from's train split has no photograph of glaucoma" in capsys.readouterr().out
    found = results(tmp_path / "out")
    assert found["probe"]["unlearnt"] == found["few_shot"]["unlearnt"] == ["glaucoma"]
    assert found["probe"]["recall"]["glaucoma"] == 0 and found["probe"]["chance"] == 1 / 3
    assert "without a photograph to learn from: glaucoma" in transfer([tmp_path / "out"])


def test_nobody_is_learnt_from_and_judged(checkpoint, source, tmp_path, capsys):
    args = ("--checkpoint", checkpoint.run, "--data", checkpoint.data, "--split", "all", "--tasks", "probe")
    out = ("--out", tmp_path / "out")
    own = checkpoint.manifest
    foreign = [replace(r, source="elsewhere") for r in own.records]  # the same files
    for records, root, said in (
        (foreign, own.root, "are a photograph of its train or val split"),
        ([replace(r, source="phantom") for r in source.records], source.root, "are of a patient of its train or val"),
    ):
        assert run("evaluate.py", *args, *written(tmp_path / "m.jsonl", records, root), *out) == 2
        error = capsys.readouterr().err
        assert said in error and not (tmp_path / "out").exists()
    assert run("evaluate.py", *args, *out) == 2
    assert "cannot be judged there" in capsys.readouterr().err
    test = (*args[:4], "--split", "test", "--tasks", "probe", "--learn-from", checkpoint.data)
    assert run("evaluate.py", *test, *out) == 0  # another split of the same manifest is fine


def test_options_that_do_not_fit_are_refused(checkpoint, tmp_path, capsys):
    args = ("--checkpoint", checkpoint.run, "--data", checkpoint.data, "--out", tmp_path / "out")
    for words, said in (
        (("--tasks", "zero_shot", "--learn-from", checkpoint.data), "goes with the tasks probe and few_shot"),
        (("--tasks", "probe", "--folds", 3, "--learn-from", checkpoint.data), "without --folds"),
        (("--tasks", "probe", "--learn-from-root", tmp_path), "belongs to --learn-from"),
        (("--tasks", "probe", "--learn-from", tmp_path / "gone.jsonl"), "is missing"),
    ):
        assert run("evaluate.py", *args, *words) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    write_text(tmp_path / "other" / "metrics.json", json.dumps({"n": 3, "classification": {"accuracy": 0.5}}))
    assert run("evaluate.py", "transfer", tmp_path / "other") == 2
    assert "neither zero_shot, probe, few_shot nor retrieval" in capsys.readouterr().err
    assert run("evaluate.py", "transfer", tmp_path / "other", "--few-shot", "guess") == 2
    assert "choose from clap" in capsys.readouterr().err


def test_evaluations_of_the_same_data_set_are_told_apart_by_their_folder(tmp_path):
    for name, value in (("old", 0.5), ("new", 0.75)):
        metrics = {"n": 4, "dataset": "hrf", "zero_shot": {"n": 4, "classes": 2, "names": {"balanced_accuracy": value}}}
        write_text(tmp_path / name / "metrics.json", json.dumps(metrics))
    lines = transfer([tmp_path / "old", tmp_path / "new"]).splitlines()
    assert lines[0] == "| data set | n | learnt from | measure | chance | zero-shot, names |"
    assert lines[2] == "| hrf (old) | 4 | - | balanced accuracy | 0.500 | 0.500 |"
    assert lines[3] == "| hrf (new) | 4 | - | balanced accuracy | 0.500 | 0.750 |"
