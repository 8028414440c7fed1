import numpy as np
import pytest
from scipy.stats import spearmanr

from mdf.datasets import csdi
from mdf.imaging.decode import load_image
from mdf.imaging.field import find_field
from mdf.imaging.phantom import draw
from mdf.imaging.quality import assess
from tests.imaging.damage import blackened, blurred, light, veiled

data = pytest.importorskip("skimage.data")


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "page", "text", "rocket", "moon", "grass"])
def test_everyday_pictures_are_no_retinas(name):
    picture = getattr(data, name)()
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    quality = assess(np.ascontiguousarray(picture))
    assert not quality.is_retina and quality.gradable == "not" and quality.reasons


def test_made_up_pictures_are_no_retinas():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)
    y, x = np.ogrid[:200, :200]
    round_noise = noise * ((x - 100) ** 2 + (y - 100) ** 2 < 90**2)[..., None].astype(np.uint8)
    plain = [np.full((100, 120, 3), colour, dtype=np.uint8) for colour in ((0, 0, 0), (255, 255, 255), (200, 90, 40))]
    for picture in (noise, round_noise, *plain, np.zeros((1, 1, 3), dtype=np.uint8)):
        assert not assess(picture).is_retina


def test_phantoms_and_a_real_photograph_are_retinas():
    for seed in range(25):
        assert assess(draw(seed).image).is_retina, seed
    quality = assess(data.retina())
    assert quality.is_retina and quality.gradable == "good" and quality.reasons == ()
    assert 0 < quality.brightness < 1 and 0 < quality.field_share < 1


def test_worse_photographs_get_worse_marks():
    image = draw(3).image
    good, cloudy, dark = assess(image), assess(blurred(image, 6)), assess((image * 0.07).astype(np.uint8))
    assert good.gradable == "good" and good.reasons == () and good.score == min(good.parts.values()) > 2 / 3
    assert cloudy.sharpness < good.sharpness / 4 and cloudy.gradable == "not" and cloudy.score < 1 / 3
    assert "out of focus or hazy" in cloudy.reasons
    assert dark.brightness < good.brightness and dark.gradable != "good" and "too dark" in dark.reasons


def test_score_falls_with_blur_veil_and_darkness():
    """Step by step, on phantoms and a real photograph; 0.02 is what rounding to grey levels adds to fine detail."""
    phantom = draw(3)
    photograph = np.ascontiguousarray(data.retina()[::2, ::2])
    for image, field in ((phantom.image, phantom.masks["field"]), (photograph, find_field(photograph).mask)):
        for worse in (
            [blurred(image, sigma) for sigma in (0.5, 1, 2, 4, 8)],
            [veiled(image, field, share) for share in (0.3, 0.6, 0.8, 0.95)],
            [(image * gain).astype(np.uint8) for gain in (0.6, 0.4, 0.25, 0.15, 0.08)],
        ):
            marks = [assess(picture, find_field(image)).score for picture in (image, *worse)]
            assert np.all(np.diff(marks) <= 0.02) and marks[-1] < marks[0] - 0.3, marks


def test_each_reason_is_given():
    phantom = draw(3)
    image, field = phantom.image, phantom.masks["field"]
    for picture, reason in (
        ((image * 0.1).astype(np.uint8), "too dark"),
        (np.clip(image * 2.0 + 100 * field[..., None], 0, 255).astype(np.uint8), "too bright"),
        (light(image, field, np.where(np.arange(256) < 115, 20.0, 1.0)[None, :, None])[0], "unevenly lit"),
        (blurred(image, 4), "out of focus or hazy"),
        (veiled(image, field, 0.93), "vessels hardly visible"),
        (blackened(image, field, 1, 0.3)[0], "much of the field is cut off"),
    ):
        quality = assess(picture)
        assert quality.is_retina and quality.gradable != "good" and reason in quality.reasons, (reason, quality)


def test_score_follows_the_degree_of_cataract(shared_data):
    """A cataract blurs and veils: CSDI's score is 0 (clear) to 10 (nothing to be seen)."""
    records = csdi.read(shared_data / "csdi")[::2]
    degree = np.array([record.grade["csdi"] for record in records])
    score = np.array([assess(load_image(shared_data / "csdi" / record.image)).score for record in records])
    clear, cloudy = score[degree <= 3], score[degree >= 5]
    auroc = (clear[:, None] > cloudy).mean() + (clear[:, None] == cloudy).mean() / 2
    print(f"AUROC {auroc:.3f}, rank correlation {spearmanr(degree, score)[0]:.3f}")
    assert auroc > 0.95


def test_real_photographs_are_retinas(shared_data):
    paths = sorted((shared_data / "odir5k" / "preprocessed_images").glob("*.jpg"))[::40]
    paths += sorted((shared_data / "drive").glob("*/images/*.tif"))[::8]
    paths += sorted((shared_data / "hrf" / "images").iterdir())[::15]
    refused = [path.name for path in paths if not assess(load_image(path)).is_retina]
    assert len(refused) <= 0.01 * len(paths), refused
