"""FLAIR's protocol."""

import json
import random

import pytest

from mdf.errors import UserError
from mdf.evaluation.protocols import flair, reshuffle
from tests.scripts import run


def test_the_reshuffle_is_flairs():
    labels = [0] * 10 + [1] * 5
    judged, learnt = reshuffle(labels, 3)
    rows = list(range(15))
    random.seed(3)
    random.shuffle(rows)
    wanted = [r for r in rows if labels[r] == 0][:2] + [r for r in rows if labels[r] == 1][:1]
    assert judged == wanted and sorted(judged + learnt) == list(range(15))
    assert reshuffle(labels, 4)[0] != judged


def test_zero_shot_probe_and_shots_each_with_their_spread(checkpoint, tmp_path):
    classes = ["diabetic_retinopathy", "glaucoma"]
    args = ("--checkpoint", checkpoint.run, "--classes", *classes, "--out", tmp_path)
    assert run("evaluate.py", "benchmark", "flair", checkpoint.data, *args) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    for name in ("zero_shot_names", "zero_shot_described", "linear_probe", "shots_1", "shots_10"):
        assert {"aca", "aca_ci", "aca_sd", "kappa", "kappa_ci", "kappa_sd"} <= found[name].keys()


def test_too_few_photographs_of_a_class_are_refused(checkpoint):
    with pytest.raises(UserError, match="fewer than 5 photographs of"):
        flair(checkpoint.model, checkpoint.manifest.records[:6], checkpoint.manifest)
