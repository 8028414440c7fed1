from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mdf.imaging.decode import load_image
from mdf.imaging.field import find_field
from mdf.imaging.phantom import draw
from mdf.imaging.retina_maps import field_copy
from mdf.imaging.retina_score import coefficients, measure, retina_score
from tests.imaging.damage import light
from tests.imaging.fit_retina_score import FITTED_ON, TESTED_ON, fit, phantoms
from tests.imaging.no_retinas import drawings, photographs

AUROC = 0.99  # asked of the product
REFUSED = 0.01  # of real photographs, at the most; one in a hundred is told to use --force


def scores(pictures) -> np.ndarray:
    return np.array([retina_score(*field_copy(image, find_field(image)))[0] for image in pictures])


def real(data: Path, step: int):
    """Photographs of all sets at hand, every `step`-th of ODIR-5K and of the others together."""
    folders = ("hrf/images", "drive/training/images", "drive/test/images", "les_av/images", "csdi/original_images")
    few = [path for folder in folders for path in sorted((data / folder).iterdir())]
    few += sorted((data / "chase_db1").glob("*.jpg"))
    paths = few[:: max(1, step // 4)] + sorted((data / "odir5k" / "preprocessed_images").glob("*.jpg"))[::step]
    return [load_image(path) for path in paths]


def no_retinas(pictures, seed=0, drawn=240):
    return [image for _, image in photographs(pictures, seed=seed)] + [image for _, image in drawings(drawn, seed=seed)]


def auroc(retinas, others):
    return roc_auc_score([1] * len(retinas) + [0] * len(others), np.clip(np.concatenate([retinas, others]), -1e9, 1e9))


def test_what_is_tested_had_no_part_in_the_fit():
    assert not set(FITTED_ON) & set(TESTED_ON) and len(TESTED_ON) > 10


def test_phantoms_in_any_light_are_retinas():
    for seed in range(5):
        phantom = draw(seed)
        pictures = [light(phantom.image, phantom.masks["field"], gain)[0] for gain in (0.15, 0.4, 1, 1.5)]
        assert scores(pictures).min() > 0, seed


def test_photographs_without_colour_are_retinas():
    """As red-free photographs and, as their negatives, angiograms have it: dark and bright vessels."""
    for seed in range(12):
        phantom = draw(seed)
        green = phantom.image[:, :, 1:2].repeat(3, axis=2)
        negative = np.where(phantom.masks["field"][..., None], 255 - green, 0).astype(np.uint8)
        assert scores([green, negative]).min() > 0, seed


def test_negatives_are_told_from_photographs(shared_data):
    retinas = scores(real(shared_data, 150))
    others = scores([image for _, image in photographs(TESTED_ON[::5])] + [image for _, image in drawings(24)])
    assert auroc(retinas, others) >= AUROC - 0.01  # of about 100 each: a picture more or less is up to 0.01
    assert (retinas < 0).sum() <= 2


@pytest.mark.slow
def test_every_photograph_against_all_negatives(shared_data):
    retinas, others = scores(real(shared_data, 1)), scores(no_retinas(TESTED_ON))
    found, refused, passed = auroc(retinas, others), (retinas < 0).mean(), (others >= 0).mean()
    print(
        f"{len(retinas)} photographs, {len(others)} others: "
        f"AUROC {found:.4f}, refused {refused:.4f}, passed {passed:.3f}"
    )
    assert found >= AUROC and refused <= REFUSED


def test_the_table_is_what_the_fit_makes():
    """A smaller fit gives a table of the same shape, that tells its own pictures apart; all of it: fit_retina_score."""
    retinas = [measure(*field_copy(image, find_field(image))) for image in phantoms(12)]
    others = [measure(*field_copy(image, find_field(image))) for _, image in drawings(16, seed=1)]
    table = fit(retinas, [row for row in others if row], margin=0)
    assert list(table["measures"]) == list(coefficients()["colour"]["measures"]) == list(retinas[0])
    for name, line in coefficients()["colour"]["measures"].items():
        assert len(line["at"]) == len(line["add"]) and np.all(np.diff(line["at"]) > 0), name
