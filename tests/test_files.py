"""What is written is whole, and can be read again by whoever reads JSON."""

import json
import math

import numpy as np

from mdf.files import write_json


def test_numbers_that_json_cannot_hold_are_null(tmp_path):
    values = {"a": math.nan, "b": [1.5, math.inf, {"c": -math.inf}], "d": (float(np.float64("nan")), "NaN", None, 2)}
    write_json(tmp_path / "metrics.json", values)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    assert found == {"a": None, "b": [1.5, None, {"c": None}], "d": [None, "NaN", None, 2]}
