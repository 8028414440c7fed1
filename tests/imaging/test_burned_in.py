import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from mdf.imaging.burned_in import text_outside_field
from mdf.imaging.decode import load_image
from mdf.imaging.phantom import draw


def written(image: np.ndarray, text: str, place: tuple[int, int], size: int, shade: int = 220) -> np.ndarray:
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).text(place, text, fill=(shade,) * 3, font=ImageFont.load_default(size))
    return np.asarray(picture)


@pytest.fixture(scope="module")
def phantom() -> np.ndarray:
    return draw(seed=4, size=384).image


def test_a_name_in_the_corner_is_seen(phantom):
    assert text_outside_field(phantom) is False
    assert text_outside_field(written(phantom, "Muster, Eva", (3, 3), 12)) is True
    assert text_outside_field(written(phantom, "1958", (3, 365), 14)) is True


def test_a_single_mark_or_noise_is_no_text(phantom):
    assert text_outside_field(written(phantom, "R", (4, 4), 20)) is False
    noise = np.random.default_rng(0).integers(0, 25, phantom.shape, dtype=np.uint8)
    assert text_outside_field(np.maximum(phantom, noise)) is False


def test_without_a_dark_surround_nothing_can_be_said():
    assert text_outside_field(np.full((100, 100, 3), 120, np.uint8)) is None


def test_real_photographs_have_none_until_it_is_written(shared_data):
    files = (
        sorted((shared_data / "hrf" / "images").iterdir())[:6] + sorted((shared_data / "drive").rglob("*_test.tif"))[:6]
    )
    images = [load_image(f) for f in files]
    assert not any(text_outside_field(image) for image in images)
    for image in images:
        marked = written(image, "PAT 77431", (4, 4), max(12, image.shape[0] // 50))
        assert text_outside_field(marked) is not False
