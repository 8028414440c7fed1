import numpy as np
import pytest

from mdf.dialogue import SMALL_LESIONS
from mdf.inference.predictor import Predictor, nasal_side


def circle(size: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return np.hypot(columns - x, rows - y) < radius


def test_the_nasal_side_is_that_of_the_disc():
    field = circle(64, 31.5, 31.5, 30)
    left, middle, speck = (circle(64, x, 32, r).astype(float) for x, r in ((15, 5), (32, 5), (15, 1)))
    assert nasal_side({"disc": left}, field) == -1
    assert nasal_side({"disc": left[:, ::-1]}, field) == 1
    assert nasal_side({"disc": middle}, field) is None  # centred on the disc
    assert nasal_side({"disc": speck}, field) is None
    assert nasal_side({"vessel": left}, field) is None
    assert nasal_side({"disc": left}, field, eye="right") == 1  # what the user says goes first


def test_the_nasal_side_is_that_of_the_phantoms(checkpoint):
    from mdf.imaging.decode import load_mask

    for record in checkpoint.manifest.records:
        disc, field = (load_mask(checkpoint.manifest.path(record.masks[name])) for name in ("disc", "field"))
        assert nasal_side({"disc": disc.astype(float)}, field) == nasal_side({}, field, record.eye)


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor(checkpoint.run, "cpu")


def test_answers_about_a_photograph(predictor, checkpoint):
    photograph = predictor.read(checkpoint.photograph, force=True)
    probabilities = predictor.diagnose(photograph)
    assert set(probabilities) == set(predictor.processor.diagnoses)
    assert sum(probabilities.values()) == pytest.approx(1)
    assert list(probabilities.values()) == sorted(probabilities.values(), reverse=True)
    masks = predictor.masks(photograph)
    assert set(masks) == {"vessel", "disc"}
    assert all(m.min() >= 0 and m.max() <= 1 for m in masks.values())
    outside = ~photograph.inputs["field"][0, 0].numpy()
    assert outside.any() and (masks["vessel"][outside] == 0).all()
    present = predictor.presence(photograph)
    assert list(present) == list(SMALL_LESIONS) and all(0 <= p <= 1 for p in present.values())
    quadrant, count = predictor.places(photograph, ["drusen"])
    assert set(quadrant) == set(count) == {"drusen"}
    assert predictor.ask(photograph, "What is the diagnosis?", limit=6) == predictor.ask(
        photograph, "What is the diagnosis?", limit=6
    )
