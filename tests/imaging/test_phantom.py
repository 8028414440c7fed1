import re

import numpy as np
import pytest
from scipy import ndimage

from mdf.errors import UserError
from mdf.imaging.phantom import DIAGNOSES, MASKS, Phantom, draw
from mdf.imaging.phantom_lesions import LESIONS

EIGHT = np.ones((3, 3))


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [draw(seed) for seed in range(80)]


def quadrant(phantom: Phantom, x: float, y: float) -> str:
    centre = (phantom.image.shape[0] - 1) / 2
    temporal = (x > centre) == (phantom.fovea[0] > phantom.disc[0])
    return ("supero" if y < centre else "infero") + ("temporal" if temporal else "nasal")


def test_shapes(phantoms):
    for phantom in phantoms:
        assert phantom.image.shape == (256, 256, 3) and phantom.image.dtype == np.uint8
        assert tuple(phantom.masks) == MASKS
        assert all(mask.shape == (256, 256) and mask.dtype == bool for mask in phantom.masks.values())
        assert not (phantom.masks["cup"] & ~phantom.masks["disc"]).any()


def test_findings_counts_and_masks_agree(phantoms):
    for seed, phantom in enumerate(phantoms):
        counts = {finding.name: finding.count for finding in phantom.findings if finding.name in LESIONS}
        for kind in LESIONS:
            parts = ndimage.label(phantom.masks[kind], EIGHT)[1]
            assert parts == counts.get(kind, 0) == ndimage.label(phantom.masks[kind])[1], (seed, kind)
        lesions = np.sum([phantom.masks[kind] for kind in LESIONS], axis=0)
        assert lesions.max() <= 1
        assert ndimage.label(lesions, EIGHT)[1] == sum(counts.values()), seed  # none touches one of another kind
        assert not (lesions.astype(bool) & (phantom.masks["disc"] | ~phantom.masks["field"])).any()


def test_locations_are_those_of_the_lesions(phantoms):
    single = 0
    for seed, phantom in enumerate(phantoms):
        for finding in phantom.findings:
            if finding.name not in LESIONS:
                continue
            parts, count = ndimage.label(phantom.masks[finding.name], EIGHT)
            middles = ndimage.center_of_mass(phantom.masks[finding.name], parts, range(1, count + 1))
            if finding.location == "macula":
                reach = 0.55 * np.hypot(phantom.fovea[0] - phantom.disc[0], phantom.fovea[1] - phantom.disc[1])
                assert all(np.hypot(x - phantom.fovea[0], y - phantom.fovea[1]) < reach for y, x in middles)
                continue
            assert {quadrant(phantom, x, y) for y, x in middles} == set(finding.location.split(", ")), seed
            rows, columns = np.nonzero(phantom.masks[finding.name])  # clear of the dividing lines, so never in doubt
            assert min(np.abs(rows - 127.5).min(), np.abs(columns - 127.5).min()) > 3
            single += "," not in finding.location
    assert single > 10


def test_diagnosis_grade_and_findings_agree(phantoms):
    seen = set()
    for phantom in phantoms:
        (diagnosis,) = phantom.diagnosis
        seen.add(diagnosis)
        found = {finding.name: finding for finding in phantom.findings}
        heights = [np.ptp(np.flatnonzero(phantom.masks[name].any(axis=1))) + 1 for name in ("cup", "disc")]
        assert (heights[0] / heights[1] > 0.6) == ("enlarged_cup" in found) == (diagnosis == "glaucoma")
        grade = phantom.grade.get("icdr", 0)
        assert (diagnosis == "diabetic_retinopathy") == (grade > 0)
        assert (diagnosis == "amd") == ("drusen" in found)
        if diagnosis == "normal":
            assert phantom.findings == ()
        if grade == 1:
            assert set(found) == {"microaneurysm"}
        if grade == 2:
            assert len(found) > 1
        if grade == 3:
            assert found["haemorrhage"].count > 20 and found["haemorrhage"].location.count(",") == 3
    assert seen == set(DIAGNOSES)


def test_disc_side_follows_the_eye(phantoms):
    assert {phantom.eye for phantom in phantoms} == {"left", "right"}
    for phantom in phantoms:
        assert (phantom.disc[0] > 127.5) == (phantom.eye == "right")
        assert (phantom.fovea[0] < phantom.disc[0]) == (phantom.eye == "right")
    assert draw(4, 128, eye="left").eye == "left" and draw(4, 128, eye="right").eye == "right"


def test_report_says_what_was_drawn(phantoms):
    names = {"microaneurysm": "microaneurysms?", "haemorrhage": "haemorrhages?", "hard_exudate": "hard exudates?"}
    names |= {"cotton_wool_spot": "cotton-wool spots?", "drusen": "drusen"}
    for phantom in phantoms:
        report = phantom.texts["report"]
        assert f"{phantom.eye} eye" in report.lower()
        assert re.search(r"cup-disc ratio(?: of)? 0\.\d\b", report)
        counted = {finding.name: finding.count for finding in phantom.findings if finding.count}
        for kind, name in names.items():
            stated = re.findall(rf"(\d+) {name}", report)
            assert stated == ([str(counted[kind])] if kind in counted else []), report
        if phantom.grade:
            assert f"ICDR grade {phantom.grade['icdr']}" in report


def test_what_is_said_can_be_seen(phantoms):
    """Dark lesions are darker than the retina round them, bright ones brighter, in green."""
    bright = {"hard_exudate", "cotton_wool_spot", "drusen"}
    for seed, phantom in enumerate(phantoms):
        green = phantom.image[..., 1].astype(float)
        free = phantom.masks["field"] & ~ndimage.binary_dilation(phantom.masks["vessel"], iterations=2)
        for kind in LESIONS:
            parts, count = ndimage.label(phantom.masks[kind], EIGHT)
            for part in range(1, count + 1):
                lesion = parts == part
                around = ndimage.binary_dilation(lesion, iterations=6) & ~ndimage.binary_dilation(lesion, iterations=3)
                around &= free & (parts == 0)
                if around.sum() < 10:
                    continue
                difference = green[lesion].mean() - np.median(green[around])
                assert (difference if kind in bright else -difference) > 4, (seed, kind, difference)


def test_same_seed_same_bytes():
    first, again, other = draw(11, 128), draw(11, 128), draw(12, 128)
    assert first.image.tobytes() == again.image.tobytes() and first.texts == again.texts
    assert all(np.array_equal(first.masks[name], again.masks[name]) for name in MASKS)
    assert first.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("size", [96, 160, 384])
def test_other_sizes_are_as_true(size):
    for seed in range(12):
        phantom = draw(seed, size)
        counts = {finding.name: finding.count for finding in phantom.findings}
        for kind in LESIONS:
            assert ndimage.label(phantom.masks[kind], EIGHT)[1] == counts.get(kind, 0), (size, seed, kind)


def test_too_small_is_refused():
    with pytest.raises(UserError, match="96"):
        draw(0, 64)
