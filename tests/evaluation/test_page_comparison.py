import json

import pytest

from mdf.errors import UserError
from mdf.evaluation.page_comparison import DIFFERENT, write_comparison
from tests.page_reader import Page, assert_self_contained


@pytest.fixture
def folder(tmp_path):
    """folder("a", 0.5) writes an evaluation with that balanced accuracy, right about that share of the photographs."""

    def write(name, value, ids="same", **more):
        place = tmp_path / name / "evaluation"
        place.mkdir(parents=True)
        part = {"balanced_accuracy": value, "balanced_accuracy_ci": [value - 0.1, value + 0.1], "n": 10}
        metrics = {"n": 10, "checkpoint": name, "data_sha256": "x", "ids_sha256": ids, "classification": part, **more}
        (place / "metrics.json").write_text(json.dumps(metrics))
        lines = [
            {"id": str(i), "truth": ["amd"], "probabilities": {"amd": p, "normal": 1 - p}}
            for i in range(10)
            for p in [0.9 if i < 10 * value else 0.2]
        ]
        (place / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return tmp_path / name

    return write


def test_any_number_of_evaluations_side_by_side(folder, tmp_path):
    folders = [folder("base", 0.4), folder("fusion", 0.7, spatial={"small": 0.25, "n": 3}), folder("large", 0.6)]
    path = write_comparison(tmp_path / "out", folders)
    page = Page(path)
    assert_self_contained(page)
    for name in ("base", "fusion", "large", "0.400", "0.700", "+0.300", "+0.200", "[0.600, 0.800]", "Small lesions"):
        assert name in page.text, name
    assert DIFFERENT not in page.text
    assert "A and B 10 4 0 3 3" in page.text  # photographs, both, only A, only B, neither
    assert str(tmp_path) not in page.source
    assert path.read_bytes() == write_comparison(tmp_path / "again.html", folders).read_bytes()


def test_other_photographs_are_said_on_top(folder, tmp_path):
    page = Page(write_comparison(tmp_path, [folder("a", 0.4), folder("b", 0.7, ids="other")]))
    assert page.text.index(DIFFERENT) < page.text.index("Comparison of 2 evaluations")


def test_paired_differences_have_their_sign(folder, tmp_path):
    paired = {"B": {"balanced_accuracy": 0.3, "balanced_accuracy_ci": [-0.1, 0.5]}}
    page = Page(write_comparison(tmp_path, [folder("a", 0.4), folder("b", 0.7)], paired=paired))
    assert "Paired differences from A" in page.text and "[\N{MINUS SIGN}0.100, +0.500]" in page.text


def test_without_predictions_there_is_no_agreement(folder, tmp_path):
    folders = [folder("a", 0.4), folder("b", 0.7)]
    (folders[0] / "evaluation" / "predictions.jsonl").unlink()
    assert "Where they agree" not in Page(write_comparison(tmp_path, folders)).text


@pytest.mark.parametrize(
    ("content", "message"), [(None, r"no metrics\.json"), ("{", "is not JSON"), ("[]", "no JSON object")]
)
def test_a_folder_without_metrics_is_refused(folder, tmp_path, content, message):
    first, broken = folder("a", 0.4), tmp_path / "b"
    broken.mkdir()
    if content is not None:
        (broken / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=message):
        write_comparison(tmp_path, [first, broken])
