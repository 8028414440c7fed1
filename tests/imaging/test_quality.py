import numpy as np
import pytest

from mdf.imaging.decode import load_image
from mdf.imaging.phantom import draw
from mdf.imaging.quality import assess

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
    from scipy import ndimage

    image = draw(3).image
    good = assess(image)
    blurred = assess(ndimage.gaussian_filter(image, (6, 6, 0)))
    dark = assess((image * 0.07).astype(np.uint8))
    assert good.gradable == "good"
    assert blurred.sharpness < good.sharpness / 4 and blurred.gradable == "not"
    assert dark.brightness < good.brightness and dark.gradable != "good"


def test_real_photographs_are_retinas(shared_data):
    paths = sorted((shared_data / "odir5k" / "preprocessed_images").glob("*.jpg"))[::40]
    paths += sorted((shared_data / "drive").glob("*/images/*.tif"))[::8]
    paths += sorted((shared_data / "hrf" / "images").iterdir())[::15]
    refused = [path.name for path in paths if not assess(load_image(path)).is_retina]
    assert len(refused) <= 0.01 * len(paths), refused
