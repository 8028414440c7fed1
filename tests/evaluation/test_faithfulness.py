"""The task `maps` on a checkpoint that learnt nothing."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mdf.dialogue import SMALL_LESIONS
from mdf.errors import UserError
from mdf.evaluation.faithfulness import Faithfulness, Judged, faithfulness_metrics, map_questions
from mdf.evaluation.photographs import load_inputs

MASKS = ("haemorrhage", "disc")


@pytest.fixture(scope="module")
def model(checkpoint):
    """The tiny model as if its two masks were these."""
    config = copy.copy(checkpoint.model.config)
    config.mdf = copy.deepcopy(config.mdf)
    config.mdf["unet"]["masks"] = list(MASKS)
    was, checkpoint.model.config = checkpoint.model.config, config
    yield checkpoint.model
    checkpoint.model.config = was


def bled(manifest):
    return [r for r in manifest.records if any(f.name == "haemorrhage" for f in r.findings or ())]


@pytest.fixture(scope="module")
def metrics(checkpoint, model):
    records = bled(checkpoint.manifest)[:2] + [r for r in checkpoint.manifest.records if r.diagnosis == ("normal",)][:1]
    return faithfulness_metrics(model, records, checkpoint.manifest, batch_size=2, curves=1, resamples=50)


def test_every_map_has_its_figures_beside_the_references(metrics):
    assert metrics["lesions"]["n"] == 2 and metrics["disc"]["n"] == 3
    for name in ("attention", "attention_depth_1", "attention_depth_3", "gradient", "random", "centre", "unet"):
        for figure in ("pointing", "energy", "iou"):
            low, high = metrics["lesions"][name][f"{figure}_ci"]
            assert 0 <= low <= metrics["lesions"][name][figure] <= high <= 1
    for name in ("attention", "gradient", "random", "centre", "unet"):
        assert 0 <= metrics["lesions"][name]["deletion"] <= 1 and 0 <= metrics["lesions"][name]["insertion"] <= 1
    assert "deletion" not in metrics["disc"]["attention"] and metrics["by_lesion"]["haemorrhage"]["n"] == 2
    table = metrics["lesions"]
    assert table["gain_over_random"] == pytest.approx(table["attention"]["pointing"] - table["random"]["pointing"])


def test_what_is_asked_about_a_photograph(checkpoint, model):
    record = bled(checkpoint.manifest)[0]
    _, [(masks, known)] = load_inputs(model, [record], checkpoint.manifest, MASKS)
    blood, disc = map_questions(model, record, 0, masks, known)
    assert (blood.name, blood.candidates) == ("haemorrhage", ("Yes.", "No.")) and "haemorrhage" in blood.text
    assert disc.name == "disc" and record.eye in disc.candidates[0].lower() and len(disc.candidates) == 2
    assert map_questions(model, record, 0, masks, np.array([False, False])) == []


def test_batches_and_what_was_seen_before_change_nothing(checkpoint, model):
    records = bled(checkpoint.manifest)[:2]
    found = []
    for size in (1, 2):
        task = Faithfulness(model, records, curves=0)
        with torch.inference_mode():  # as the pass of an evaluation runs
            for start in range(0, 2, size):
                inputs, masks = load_inputs(model, records[start : start + size], checkpoint.manifest, MASKS)
                task.see(range(start, start + size), model.look(inputs) if size == 2 else inputs, masks)
        found.append([j.values["attention"] | {"gradient": j.values["gradient"]["energy"]} for j in task.judged])
    for one, two in zip(*found, strict=True):
        assert one == pytest.approx(two, abs=1e-4, nan_ok=True)
    assert set(task.line(0)["maps"]) == set(MASKS) and task.line(5) == {}


def test_a_map_that_points_is_told_from_one_that_does_not(checkpoint, model):
    task = Faithfulness(model, checkpoint.manifest.records[:8], resamples=200)
    for row in range(8):
        for name in SMALL_LESIONS[:2]:
            figures = {"pointing": 1.0, "energy": 0.9, "iou": 0.5}
            task.judged.append(Judged(row, name, {"attention": figures, "random": dict.fromkeys(figures, 0.0)}))
    found = task.metrics()["maps"]["lesions"]
    assert found["gain_over_random"] == 1 and found["gain_over_random_ci"] == [1, 1]
    assert found["photographs"] == 8 and found["n"] == 16


def test_bad_input(checkpoint, model, capsys):
    with pytest.raises(UserError, match="no photograph has a mask"):
        Faithfulness(model, checkpoint.manifest.records[:1]).metrics()
    without = SimpleNamespace(fusion=SimpleNamespace(adapters=()))
    with pytest.raises(UserError, match="no adapters"):
        Faithfulness(without, [])
    whole = SimpleNamespace(
        fusion=model.fusion, processor=SimpleNamespace(preprocessing=SimpleNamespace(shown="squash"))
    )
    assert Faithfulness(whole, []).left == 0 and "left out" in capsys.readouterr().out
