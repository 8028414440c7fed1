import json

import numpy as np
import pytest

from mdf.errors import UserError
from mdf.evaluation.bootstrap import line_groups, put, resample, weighted_mean
from mdf.evaluation.compare import compare, same_photographs
from mdf.evaluation.grid_table import judge
from mdf.evaluation.page_comparison import right_by_id
from mdf.evaluation.paired import paired
from tests.evaluation.predictions import CLASSES, write_evaluation
from tests.scripts import run


def line_of(text: str, name: str) -> list[str]:
    return next(x for x in text.splitlines() if x.startswith(name)).split()


def test_side_by_side(tmp_path):
    for name, value, sha in (("a", 0.5, "x"), ("b", 0.75, "y")):
        metrics = {
            "n": 4,
            "data_sha256": sha,
            "checkpoint": name,
            "classification": {"accuracy": value, "accuracy_ci": [0.1, 0.9]},
        }
        (tmp_path / name / "evaluation").mkdir(parents=True)
        (tmp_path / name / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    text = compare([tmp_path / "a", tmp_path / "b"])
    assert "NOT THE SAME PHOTOGRAPHS as A in B" in text
    assert line_of(text, "classification.accuracy") == [
        "classification.accuracy",
        "0.500",
        "[0.100,",
        "0.900]",
        "0.750",
        "[0.100,",
        "0.900]",
        "+0.250",
    ]
    with pytest.raises(UserError, match=r"no metrics\.json"):
        compare([tmp_path, tmp_path / "b"])
    with pytest.raises(UserError, match="two or more"):
        compare([tmp_path / "a"])


def test_three_checkpoints_with_paired_intervals(tmp_path, capsys):
    folders = [write_evaluation(tmp_path / name, skill=skill) for name, skill in (("a", 0.5), ("b", 1.5), ("c", 0.5))]
    assert run("evaluate.py", "compare", *folders) == 0
    text = capsys.readouterr().out
    assert "NOT THE SAME" not in text and "no interval" not in text
    assert line_of(text, "A ")[1] == str(folders[0]) and line_of(text, "C ")[1] == str(folders[2])
    numbers = [float(word.strip("[],")) for word in line_of(text, "classification.balanced_accuracy")[1:]]
    a, b, c, b_less_a, b_less_a_ci, c_less_a, c_less_a_ci = (
        numbers[0], numbers[3], numbers[6], numbers[9], numbers[10:12], numbers[12], numbers[13:15],
    )  # fmt: skip
    assert b_less_a == pytest.approx(b - a, abs=2e-3) and b_less_a_ci[0] > 0
    assert c == a and c_less_a == 0 and c_less_a_ci == [0, 0]
    expected = paired(folders[:1], folders[1:2], task="diagnosis")["difference"]["balanced_accuracy_ci"]
    assert b_less_a_ci == pytest.approx(expected, abs=6e-4)
    assert len(line_of(text, "classification.macro_auprc")) == 1 + 3 * 3 + 2  # differences, but not their intervals


def test_evaluations_that_do_not_say_which_photographs_they_saw_are_not_taken_for_the_same():
    assert same_photographs([{"data_sha256": "x", "ids_sha256": "y"}] * 2)
    assert not same_photographs([{"data_sha256": "x", "ids_sha256": "y"}, {"data_sha256": "x"}])
    assert not same_photographs([{"n": 3}, {"n": 500}])


def test_without_the_answers_there_is_a_difference_and_no_interval(tmp_path):
    a, b = (write_evaluation(tmp_path / name, skill=skill) for name, skill in (("a", 0.5), ("b", 1.5)))
    (b / "predictions.jsonl").unlink()
    text = compare([a, b])
    assert "B - A: no interval of classification: there is no" in text
    assert len(line_of(text, "classification.accuracy")) == 8


def test_two_models_diagnoses_are_compared_patient_by_patient(tmp_path):
    a, b = (write_evaluation(tmp_path / name, skill=skill) for name, skill in (("a", 0.8), ("b", 1.2)))
    metrics = paired([a], [b], task="diagnosis")
    both = [json.loads((folder / "metrics.json").read_text())["classification"] for folder in (a, b)]
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc"):
        assert metrics["first"][name] == pytest.approx(both[0][name], abs=1e-4)
        assert metrics["difference"][name] == pytest.approx(both[1][name] - both[0][name], abs=1e-4)
        low, high = metrics["difference"][f"{name}_ci"]
        assert low <= metrics["difference"][name] <= high
        # narrower than the two intervals apart, since both were right or wrong of the same photographs
        assert high - low < np.diff(both[0][f"{name}_ci"]) + np.diff(both[1][f"{name}_ci"])


def test_patients_of_one_number_in_two_sources_are_two_for_pairs_and_grids(tmp_path):
    a, b = (write_evaluation(tmp_path / name, skill=skill) for name, skill in (("a", 0.8), ("b", 1.2)))
    for folder in (a, b):
        lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        for k, line in enumerate(lines):
            line |= {"patient": str(k // 4), "source": ("hrf", "stare")[k // 2 % 2]}
        (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(set(judge(a, "classification.accuracy").groups)) == 120
    judged = sorted(lines[:-1], key=lambda line: line["id"])
    right = [float(max(CLASSES, key=line["probabilities"].get) in line["truth"]) for line in judged]
    wanted: dict = {}
    put(wanted, "accuracy", weighted_mean(np.array(right)), resample(line_groups(judged)))
    assert paired([a], [b], task="diagnosis")["second"]["accuracy_ci"] == pytest.approx(wanted["accuracy_ci"])


def test_two_models_are_compared_among_some_classes_alone(tmp_path, capsys):
    a, b = (write_evaluation(tmp_path / name, skill=skill) for name, skill in (("a", 0.8), ("b", 1.2)))
    lines = [json.loads(line) for line in (a / "predictions.jsonl").read_text().splitlines()]
    two = list(CLASSES[:2])
    judged = [line for line in lines if set(line["truth"]) & set(two)]
    right = [max(two, key=line["probabilities"].get) in line["truth"] for line in judged]
    metrics = paired([a], [b], task="diagnosis", classes=two)["first"]
    assert metrics["n"] == len(judged) < len(lines)
    assert metrics["accuracy"] == pytest.approx(np.mean(right))
    assert run("evaluate.py", "paired", str(a), "--with", str(b), "--task", "diagnosis", "--classes", "glocoma") == 2
    assert "glocoma is not judged here" in capsys.readouterr().err


def test_several_models_are_each_compared_with_the_first(tmp_path, capsys):
    a, b, c = (str(write_evaluation(tmp_path / n, skill=s)) for n, s in (("a", 0.5), ("b", 1.0), ("c", 2.0)))
    assert run("evaluate.py", "paired", a, "--with", b, "--with", c, "--task", "diagnosis") == 0
    said = capsys.readouterr().out
    assert f"{a}  with  {b}" in said and f"{a}  with  {c}" in said and said.count("difference.macro_f1") == 2


def test_very_sure_models_are_compared_by_the_figures_of_their_metrics(tmp_path):
    """Their probabilities are 0 and 1 to six decimals, and yet they rank."""
    a, b = (write_evaluation(tmp_path / name, skill=skill, sharp=20) for name, skill in (("a", 0.5), ("b", 1.5)))
    metrics = paired([a], [b], task="diagnosis")
    for folder, side in ((a, "first"), (b, "second")):
        own = json.loads((folder / "metrics.json").read_text())["classification"]
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc"):
            assert metrics[side][name] == pytest.approx(own[name], abs=1e-12)
    assert "no interval" not in compare([a, b])
    lines = [json.loads(line) for line in (b / "predictions.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"probabilities": {n: round(p, 6) for n, p in line["probabilities"].items()}} if line["truth"] else {}
    (b / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = compare([a, b])  # a file of an earlier version has no interval that leaves its own difference out
    assert f"no interval of classification: {b / 'predictions.jsonl'} gives other figures than metrics.json" in text
    assert len(line_of(text, "classification.macro_auroc")) == 1 + 3 + 3 + 1


def test_a_line_ends_at_its_newline_alone(tmp_path):
    """U+2028 and U+0085 end a line for `str.splitlines`; a generated text may hold them."""
    a, b = (write_evaluation(tmp_path / name, skill=skill) for name, skill in (("a", 0.8), ("b", 1.2)))
    plain = paired([a], [b], task="diagnosis"), right_by_id(a / "predictions.jsonl")
    for folder in (a, b):
        path = folder / "predictions.jsonl"
        lines = [json.loads(x) | {"generated": "normal\u2028fundus\u0085"} for x in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(x, ensure_ascii=False) + "\n" for x in lines), encoding="utf-8")
    assert (paired([a], [b], task="diagnosis"), right_by_id(a / "predictions.jsonl")) == plain
    assert len(plain[1]) == 240 and judge(a, "classification.accuracy").metric is not None
    path.write_text('{"id": "1"}\n[]\n')
    with pytest.raises(UserError, match="a line is no JSON object"):
        paired([a], [b], task="diagnosis")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"probabilities": dict.fromkeys(("normal", "amd", "myopia"), 1 / 3)}, "do not know the same diagnoses"),
        ({"truth": ["cataract"]}, "not the same true ones"),
        ({"probabilities": dict.fromkeys(CLASSES, float("nan"))}, "are not numbers"),
    ],
)
def test_answers_that_cannot_be_compared_are_said(tmp_path, capsys, change, said):
    a, b = (write_evaluation(tmp_path / name, skill=1.0) for name in ("a", "b"))
    path = b / "predictions.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(lines[0]) | change), *lines[1:]]))
    assert run("evaluate.py", "paired", a, "--with", b, "--task", "diagnosis") == 2
    assert said in capsys.readouterr().err
    text = compare([a, b])  # the table stands all the same
    assert "no interval of classification" in text and "classification.accuracy" in text


def test_labels_that_no_class_stands_for_are_said(tmp_path, capsys):
    a, b = (write_evaluation(tmp_path / name, skill=1.0) for name in ("a", "b"))
    for folder in (a, b):
        path = folder / "predictions.jsonl"
        path.write_text(path.read_text().replace('"truth": ["amd"]', '"truth": ["cataract"]'))
    assert run("evaluate.py", "paired", a, "--with", b, "--task", "diagnosis") == 2
    assert "cataract: true diagnoses that are none of the classes" in capsys.readouterr().err
