import numpy as np
import pytest

from mdf.imaging.decode import load_image, load_mask
from mdf.imaging.field import find_field
from mdf.imaging.phantom import draw


def disc(height: int, width: int, radius: float, brightness: int = 150) -> np.ndarray:
    y, x = np.ogrid[:height, :width]
    image = np.zeros((height, width, 3), dtype=np.uint8)
    inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 < radius**2
    image[inside] = (brightness, brightness // 2, brightness // 4)
    return image


@pytest.mark.parametrize("brightness", [40, 150, 255])
@pytest.mark.parametrize(("height", "width"), [(300, 400), (1000, 1333), (97, 131)])
def test_box_and_share_of_a_disc(height, width, brightness):
    radius = height * 0.4
    noise = np.random.default_rng(0).integers(0, 5, (height, width, 3), dtype=np.uint8)
    field = find_field(np.maximum(disc(height, width, radius, brightness), noise))
    slack = 2 + height // 192 * 2
    expected = (width / 2 - radius, height / 2 - radius, width / 2 + radius, height / 2 + radius)
    assert np.abs(np.subtract(field.box, expected)).max() <= slack
    assert field.mask.shape == (height, width)
    assert field.share == pytest.approx(np.pi * radius**2 / (height * width), rel=0.06)


def test_no_surround_or_no_light_is_the_whole_picture():
    for image in (
        np.full((60, 80, 3), 120, dtype=np.uint8),
        np.zeros((60, 80, 3), dtype=np.uint8),
        np.zeros((1, 1, 3), dtype=np.uint8),
    ):
        field = find_field(image)
        assert field.box == (0, 0, image.shape[1], image.shape[0]) and field.share == 1 and field.mask.all()


def test_a_label_beside_the_field_is_left_out():
    image = disc(300, 500, 130)
    image[10:20, 10:60] = 255
    left, top, right, bottom = find_field(image).box
    assert left > 100 and top > 10 and right < 400 and bottom < 290


def test_phantoms_have_their_own_field():
    for seed in range(20):
        phantom = draw(seed, 192)
        found, true = find_field(phantom.image).mask, phantom.masks["field"]
        assert (found & true).sum() / (found | true).sum() > 0.95, seed


def test_field_of_hrf_agrees_with_its_masks(shared_data):
    for path in sorted((shared_data / "hrf" / "images").iterdir())[::9]:
        found = find_field(load_image(path)).mask
        true = load_mask(next((shared_data / "hrf" / "mask").glob(f"{path.stem}*")))
        assert (found & true).sum() / (found | true).sum() > 0.97, path.name
