"""Maps of the networks' square, back on the photograph."""

import numpy as np
import pytest

from mdf.imaging.frame import Frame
from mdf.imaging.phantom import draw
from mdf.imaging.preprocess import Preprocessing
from mdf.imaging.recipe import RULES, Recipe

SIDE = 128


def photograph(height, width, centre, radius, spot):
    """A red disc on black with a bright spot of 9 pixels a side."""
    y, x = np.indices((height, width))
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2] = (120, 50, 20)
    image[spot[0] - 4 : spot[0] + 5, spot[1] - 4 : spot[1] + 5] = 255
    return image


@pytest.mark.parametrize(
    ("height", "width", "centre", "radius", "spot"),
    [
        (400, 600, (200, 280), 170, (120, 330)),  # wide, with a surround
        (600, 420, (310, 200), 180, (400, 130)),  # tall
        (300, 500, (150, 260), 220, (60, 300)),  # the field is cut off above and below
    ],
)
def test_a_bright_spot_comes_back_to_its_own_pixels(height, width, centre, radius, spot):
    image = photograph(height, width, centre, radius, spot)
    settings = Preprocessing(encoder_size=64, unet_size=SIDE)
    seen = settings.prepare(image).unet_pixels[2].numpy()  # blue: the spot alone
    frame = Frame.of(image, settings)
    placed = frame.place(seen - seen.min())
    assert placed.shape == (height, width)
    y, x = np.nonzero(placed > 0.7 * placed.max())
    assert (y.mean(), x.mean()) == pytest.approx(spot, abs=1.0)
    assert frame.place(np.ones((4, 4)))[spot] == 1


SHOWN = {
    "field": Preprocessing(encoder_size=SIDE, unet_size=SIDE),
    "squashed": Preprocessing(encoder_size=SIDE, unet_size=SIDE, resize="squash"),
    "padded": Preprocessing(encoder_size=SIDE, unet_size=SIDE, resize="pad"),
} | {
    rule: Preprocessing(unet_size=SIDE).with_recipe(
        Recipe(side=SIDE, rule=rule, shorter=150 if rule == "crop" else None)
    )
    for rule in RULES
}


@pytest.mark.parametrize(("height", "width"), [(400, 600), (610, 420), (300, 300)])
@pytest.mark.parametrize("settings", SHOWN.values(), ids=SHOWN)
def test_what_the_encoder_saw_comes_back_to_its_own_pixels_and_the_unet_s_frame_stays(settings, height, width):
    spot = height * 2 // 5, width * 3 // 5
    image = photograph(height, width, (height // 2, width // 2), 0.45 * min(height, width), spot)
    seen = settings.prepare(image).pixel_values[2].numpy()
    frame = Frame.of_encoder(image, settings)
    placed = frame.place(seen - seen.min())
    assert placed.shape == (height, width)
    y, x = np.nonzero(placed > 0.7 * placed.max())
    assert (y.mean(), x.mean()) == pytest.approx(spot, abs=1.5)
    assert Frame.of(image, settings) == Frame.of(image, SHOWN["field"])
    if settings.shown == "crop":  # what the encoder was not shown
        assert not frame.place(np.ones((4, 4)))[0, 0]


def test_beside_the_square_there_is_nothing():
    image = photograph(400, 600, (200, 280), 170, (120, 330))
    frame = Frame.of(image, Preprocessing(encoder_size=64, unet_size=SIDE))
    placed = frame.place(np.ones((4, 4)), smooth=False)
    row, column = frame.corner
    assert placed.sum() == frame.side**2 and placed[row, column] == 1 and placed[row - 1, column] == 0


def test_patches_lie_edge_to_edge():
    image = draw(0, 96).image
    frame = Frame.of(image, Preprocessing(encoder_size=64, unet_size=64, crop_field=False))
    assert frame.corner == (0, 0) and frame.side == 96
    values = np.arange(16.0).reshape(4, 4)
    assert np.array_equal(frame.place(values, smooth=False), np.kron(values, np.ones((24, 24))))
