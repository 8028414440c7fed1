"""Multiple-choice benchmarks in the layouts of FunBench and VLMEvalKit."""

import base64
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mdf.errors import UserError
from mdf.evaluation.choices import Choice, choice_metrics, chosen, read_funbench, read_tsv
from mdf.records import write_manifest
from tests.scripts import run


def tsv(path, *rows: dict):
    heads = list(rows[0])
    lines = ["\t".join(heads), *("\t".join(str(row[h]) for h in heads) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def row(checkpoint, index: int, **more) -> dict:
    picture = base64.b64encode(checkpoint.photograph.read_bytes()).decode()
    base = {"index": index, "image": picture, "question": "What is the diagnosis?", "A": "Normal fundus.",
            "B": "Glaucoma.", "C": "", "answer": "B", "category": "disease"}  # fmt: skip
    return {**base, **more}


def test_a_table_of_vlmevalkit_is_read_and_answered(checkpoint, tmp_path):
    file = tsv(tmp_path / "bench.tsv", row(checkpoint, 1), row(checkpoint, 2, image=1, answer="A", category="sign"))
    choices = read_tsv(file)
    assert [list(c.options) for c in choices] == [["A", "B"], ["A", "B"]]
    assert choices[0].image == choices[1].image  # the second cell names the first row
    args = ("--checkpoint", checkpoint.run, "--out", tmp_path / "out")
    assert run("evaluate.py", "benchmark", "vlmeval", file, *args) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["n"] == 2 and found["chance"] == 0.5 and found["by_category"].keys() == {"disease", "sign"}
    lines = (tmp_path / "out" / "predictions.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["index", "question", "answer", "category", "prediction"] and len(lines) == 3
    assert run("evaluate.py", "benchmark", "vlmeval", file, *args, "--answers", "letter") == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": "D"}, "line 3: the answer D is none of the options A, B"),
        ({"image": "no base64!"}, "line 3: the column image is neither"),
        ({"index": 1}, "the index 1 stands there twice"),
    ],
)
def test_a_bad_row_is_named(checkpoint, tmp_path, change, said):
    file = tsv(tmp_path / "bench.tsv", row(checkpoint, 1), {**row(checkpoint, 2), **change})
    with pytest.raises(UserError, match=said):
        read_tsv(file)


def test_a_row_that_is_cut_off_is_named(checkpoint, tmp_path):
    file = tsv(tmp_path / "bench.tsv", row(checkpoint, 1), row(checkpoint, 2))
    file.write_text(file.read_text()[: -len("\tC.\tB\tdisease\n") - 20])
    with pytest.raises(UserError, match="line 3 ends before the column answer"):
        read_tsv(file)


def test_a_table_without_its_columns_is_refused(tmp_path):
    with pytest.raises(UserError, match="lacks answer"):
        read_tsv(tsv(tmp_path / "bench.tsv", {"index": 1, "question": "?", "A": "a", "image": ""}))


def funbench(folder, name: str, gt: str, options: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"gt": gt, "raw_data": {"question": "Which?", "options": options}}
    (folder / "task.json").write_text(json.dumps({"data": {name: entry}}))


def test_files_of_funbench_are_read_and_answered(checkpoint, tmp_path):
    name = checkpoint.photograph.name
    funbench(tmp_path / "FunBench" / "L4-disease" / "L4a", name, "A,B", {"A": "Glaucoma.", "B": "Drusen."})
    funbench(tmp_path / "FunBench" / "L1-modality", name, "B", ["A. OCT", "B. Colour fundus photograph"])
    choices = read_funbench(tmp_path / "FunBench", checkpoint.photograph.parent)
    assert [c.category for c in choices] == ["L1-modality/task", "L4-disease/L4a/task"]
    assert choices[0].options == {"A": "OCT", "B": "Colour fundus photograph"} and choices[1].right == ("A", "B")
    args = ("--images", checkpoint.photograph.parent, "--checkpoint", checkpoint.run, "--out", tmp_path / "out")
    assert run("evaluate.py", "benchmark", "funbench", tmp_path / "FunBench", *args) == 0
    answers = json.loads((tmp_path / "out" / "answers" / "L1-modality" / "task.json").read_text())
    assert answers.keys() == {name}


@pytest.mark.parametrize("layout", ["funbench", "vlmeval"])
def test_a_benchmark_of_photographs_that_were_trained_on_is_refused(checkpoint, tmp_path, capsys, layout):
    manifest = checkpoint.manifest
    learnt = manifest.path(next(r.image for r in manifest.records if r.split == "train"))
    if layout == "funbench":
        funbench(tmp_path / "asked", learnt.name, "A", {"A": "Glaucoma.", "B": "Drusen."})
        source, images = tmp_path / "asked", ("--images", learnt.parent)
    else:  # the picture stands in the table, and was written anew
        with Image.open(learnt) as picture:
            picture.resize((120, 120)).save(tmp_path / "smaller.jpg", quality=92)
        cell = base64.b64encode((tmp_path / "smaller.jpg").read_bytes()).decode()
        source, images = tsv(tmp_path / "asked.tsv", row(checkpoint, 1), row(checkpoint, 2, image=cell)), ()
    shutil.copytree(checkpoint.run / "best", tmp_path / "run" / "best")
    write_manifest(tmp_path / "run" / "data.jsonl", manifest.records, root=manifest.root, dataset="phantom")
    args = ("benchmark", layout, source, *images, "--checkpoint", tmp_path / "run")
    assert run("evaluate.py", *args, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "cannot judge this checkpoint" in error and not (tmp_path / "out").exists()
    assert ("another name (task/" if layout == "funbench" else "shows the same as one that was trained on (2)") in error
    assert run("evaluate.py", *args, "--out", tmp_path / "out", "--allow-overlap") == 0
    kind = "file" if layout == "funbench" else "near_duplicate"
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["overlap"] == {kind: 1}


def test_other_layouts_and_missing_photographs_are_refused(checkpoint, tmp_path):
    where = checkpoint.photograph.parent
    funbench(tmp_path, checkpoint.photograph.name, "C", {"A": "x"})
    with pytest.raises(UserError, match="the answer C is none of the options"):
        read_funbench(tmp_path / "task.json", where)
    funbench(tmp_path, "gone.png", "A", {"A": "x"})
    with pytest.raises(UserError, match=r"no photograph gone\.png"):
        read_funbench(tmp_path / "task.json", where)
    funbench(tmp_path, "../task.json", "A", {"A": "x"})
    with pytest.raises(UserError, match="no photograph"):
        read_funbench(tmp_path / "task.json", tmp_path / "images")
    (tmp_path / "task.json").write_text("[1]")
    with pytest.raises(UserError):
        read_funbench(tmp_path / "task.json", where)


def asked(right: str, picture: str = "a") -> Choice:
    return Choice(picture + right, picture.encode(), "?", {"A": "yes", "B": "no"}, tuple(right.split(",")))


def test_funbenchs_f1_is_the_harmonic_mean_of_sensitivity_and_specificity():
    choices = [asked("A", "1"), asked("A", "2"), asked("B", "3"), asked("B", "4")]
    answers = [("A",), ("B",), ("B",), ("B",)]
    found = choice_metrics(choices, answers, resamples=10)
    assert found["accuracy"] == 0.75
    # yes: sensitivity 1/2, specificity 1; no: sensitivity 1, specificity 1/2; both have the harmonic mean 2/3
    assert found["funbench_f1"] == pytest.approx(2 / 3)
    always = choice_metrics(choices, [("A",)] * 4, resamples=10)
    assert always["accuracy"] == 0.5 and always["funbench_f1"] == 0  # never wrong about yes, never right about no


def test_several_options_are_chosen_only_where_several_can_be_right():
    table = [np.array([0.6, 0.4]), np.array([0.55, 0.45])]
    assert chosen([asked("A"), asked("B")], table) == [("A",), ("A",)]
    three = Choice("3", b"", "?", {"A": "x", "B": "y", "C": "z"}, ("A", "B"))
    assert chosen([three], [np.array([0.45, 0.4, 0.15])]) == [("A", "B")]
