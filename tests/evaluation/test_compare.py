import json

import pytest

from mdf.errors import UserError
from mdf.evaluation.compare import compare


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
    text = compare(tmp_path / "a", tmp_path / "b")
    assert "NOT THE SAME PHOTOGRAPHS" in text
    line = next(x for x in text.splitlines() if x.startswith("classification.accuracy"))
    assert line.split() == [
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
        compare(tmp_path, tmp_path / "b")


def test_differences_are_from_the_first(tmp_path):
    for name, value in (("a", 0.5), ("b", 0.75), ("c", 0.4)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({"checkpoint": name, "probe": {"accuracy": value}}))
    text = compare(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert "NOT THE SAME" not in text
    line = next(x for x in text.splitlines() if x.startswith("probe.accuracy"))
    assert line.split() == ["probe.accuracy", "0.500", "0.750", "0.400", "+0.250", "-0.100"]
