import numpy as np
import pytest

from mdf.dialogue import SMALL_LESIONS
from mdf.inference.predictor import Predictor, locate, nasal_side


def circle(size: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return np.hypot(columns - x, rows - y) < radius


def test_regions_and_quadrants_by_hand():
    field = circle(64, 31.5, 31.5, 30)
    mask = circle(64, 20, 15, 3) | circle(64, 45, 50, 2)
    mask[32, 10] = True  # one pixel: noise
    mask[0, 0] = True  # outside the field
    assert locate(mask, field, 1) == (2, ("superotemporal", "inferonasal"))  # a right eye: nasal is on the right
    assert locate(mask, field, -1) == (2, ("inferotemporal", "superonasal"))
    assert locate(mask, field, None) == (2, None)
    assert locate(np.zeros_like(mask), field, 1) == (0, ())


def test_the_nasal_side_is_that_of_the_disc():
    field = circle(64, 31.5, 31.5, 30)
    left, middle, speck = (circle(64, x, 32, r).astype(float) for x, r in ((15, 5), (32, 5), (15, 1)))
    assert nasal_side({"disc": left}, field) == -1
    assert nasal_side({"disc": left[:, ::-1]}, field) == 1
    assert nasal_side({"disc": middle}, field) is None  # centred on the disc
    assert nasal_side({"disc": speck}, field) is None
    assert nasal_side({"vessel": left}, field) is None
    assert nasal_side({"disc": left}, field, eye="right") == 1  # what the user says goes first


def test_the_quadrants_are_those_of_the_phantoms(checkpoint):
    from mdf.imaging.decode import load_mask

    seen = 0
    for record in checkpoint.manifest.records:
        masks = {name: load_mask(checkpoint.manifest.path(path)) for name, path in record.masks.items()}
        for finding in record.findings or ():
            if finding.name in SMALL_LESIONS and finding.location not in (None, "macula") and finding.name in masks:
                side = nasal_side({"disc": masks["disc"].astype(float)}, masks["field"])
                assert side == nasal_side({}, masks["field"], record.eye)
                found = locate(masks[finding.name], masks["field"], side)[1]
                assert set(found) <= set(finding.location.split(", "))
                seen += 1
    assert seen > 5


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
    findings = predictor.findings(photograph, masks, "left")
    assert [f.name for f in findings] == list(SMALL_LESIONS)
    for finding in findings:
        assert (finding.quadrant is None) == (finding.present < 0.5) == (finding.count is None)
        assert finding.regions is None  # this checkpoint has no lesion masks
    assert predictor.ask(photograph, "What is the diagnosis?", limit=6) == predictor.ask(
        photograph, "What is the diagnosis?", limit=6
    )
