"""The pictures that go with a report."""

import numpy as np

from mdf.imaging.frame import Frame
from mdf.inference.pictures import COLOURS, Pictures, place_masks


def test_each_layer_is_switched_alone_and_the_overlay_shows_all():
    photograph = np.full((20, 30, 3), 100, dtype=np.uint8)
    one, two = np.zeros((2, 20, 30), dtype=bool)
    one[2:5, 2:5], two[10:12, 20:25] = True, True
    pictures = Pictures(photograph, {"disc": one, "vessel": two})
    assert pictures.colour("disc") == COLOURS[0] and pictures.colour("vessel") == COLOURS[1]
    layer = pictures.layer("vessel")
    assert layer.shape == (20, 30, 4) and ((layer[..., 3] > 0) == two).all()
    assert tuple(layer[10, 20, :3]) == COLOURS[1]
    whole = np.asarray(pictures.overlay())
    changed = (whole != photograph).any(axis=2)
    assert (changed == (one | two)).all()


def test_without_masks_the_overlay_is_the_photograph():
    photograph = np.random.default_rng(0).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    assert (np.asarray(Pictures(photograph).overlay()) == photograph).all()


def test_masks_are_placed_on_the_photographs_own_pixels():
    frame = Frame(100, 160, (30, 0, 130, 100))
    mask = np.zeros((50, 50), dtype=np.float32)
    mask[10:20, 5:15] = 1
    placed = place_masks(frame, {"disc": mask, "cup": mask > 2})
    rows, columns = np.nonzero(placed["disc"])
    assert placed["disc"].shape == (100, 160) and not placed["cup"].any()
    assert (rows.min(), rows.max()) == (20, 39) and (columns.min(), columns.max()) == (40, 59)
