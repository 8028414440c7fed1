import dataclasses

import numpy as np
import pytest
import torch

from mdf.errors import UserError
from mdf.imaging.augment import Transform
from mdf.imaging.phantom import draw
from mdf.imaging.preprocess import Crop, Preprocessing

SMALL = Preprocessing(encoder_size=96, unet_size=128)


def extent(mask: torch.Tensor) -> tuple[int, int]:
    return int(mask.any(dim=0).sum()), int(mask.any(dim=1).sum())


def ring(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A photograph with a round field cut off above and below, and a circle in it."""
    y, x = np.ogrid[:height, :width]
    distance = np.hypot(x - width / 2, y - height / 2)
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[(distance < width * 0.45)] = (180, 90, 40)
    circle = distance < height * 0.3
    image[circle] = (220, 200, 120)
    return image, circle


@pytest.mark.parametrize(("height", "width"), [(400, 600), (1168, 1752), (600, 500), (128, 128)])
def test_shapes_and_a_circle_stays_a_circle(height, width):
    image, circle = ring(height, width)
    for crop in (True, False):
        settings = dataclasses.replace(SMALL, crop_field=crop)
        out = settings.prepare(image, {"cup": circle}, ("vessel", "cup"))
        assert out.pixel_values.shape == (3, 96, 96) and out.pixel_values.dtype == torch.float32
        assert out.unet_pixels.shape == (3, 128, 128) and out.field.shape == (1, 128, 128)
        assert out.field.dtype == torch.bool and out.mask_known.tolist() == [False, True]
        assert out.masks.shape == (2, 128, 128) and set(out.masks.unique().tolist()) <= {0.0, 1.0}
        assert not out.masks[0].any()
        wide, high = extent(out.masks[1])
        assert abs(wide - high) <= 1 and wide > 20


def test_outside_the_field_is_black_before_normalising():
    image, _ = ring(300, 400)
    image[:4, :4] = 90  # a mark outside the field
    out = SMALL.prepare(image)
    black = -torch.tensor(SMALL.unet_mean) / torch.tensor(SMALL.unet_std)
    outside = out.unet_pixels[:, ~out.field[0]]
    assert outside.shape[1] > 100
    assert torch.allclose(outside, black[:, None].expand_as(outside))
    assert out.masks.shape == (0, 128, 128)


def test_training_and_inference_see_the_same_pixels():
    phantom = draw(5, 128)
    plain = SMALL.prepare(phantom.image)
    with_masks = SMALL.prepare(phantom.image, phantom.masks, ("vessel", "drusen"))
    assert torch.equal(plain.pixel_values, with_masks.pixel_values)
    assert torch.equal(plain.unet_pixels, with_masks.unet_pixels)


def test_thin_vessels_survive_scaling_down():
    image = np.full((1024, 1024, 3), 120, dtype=np.uint8)
    vessel = np.zeros((1024, 1024), dtype=bool)
    for offset in range(0, 900, 100):  # lines at every phase of the target's pixels, a little over half of one wide
        vessel[:, offset + offset // 100 : offset + offset // 100 + 6] = True
    out = SMALL.prepare(image, {"vessel": vessel}, ("vessel",)).masks[0]
    assert out.any(dim=0).sum() >= 9


def test_geometry_moves_image_and_masks_alike_and_colour_only_the_image():
    phantom = draw(5, 128)
    settings = dataclasses.replace(SMALL, encoder_size=128)
    names = ("disc", "vessel")
    plain = settings.prepare(phantom.image, phantom.masks, names)
    same = settings.prepare(phantom.image, phantom.masks, names, Transform())
    assert torch.equal(same.masks, plain.masks)
    assert (same.unet_pixels - plain.unet_pixels).abs().mean() < 0.02
    flipped = settings.prepare(phantom.image, phantom.masks, names, Transform(flip=True))
    assert torch.equal(flipped.masks, plain.masks.flip(-1))
    assert (flipped.unet_pixels - plain.unet_pixels.flip(-1)).abs().mean() < 0.02
    moved = settings.prepare(phantom.image, phantom.masks, names, Transform(angle=8, scale=1.05, shift=(0.02, -0.03)))
    assert not torch.equal(moved.masks, plain.masks)
    bright = moved.unet_pixels.sum(dim=0)
    disc = moved.masks[0].bool()
    assert bright[disc].mean() > bright[moved.field[0] & ~disc].mean() + 0.5
    paler = settings.prepare(phantom.image, phantom.masks, names, Transform(brightness=0.8, gamma=1.1))
    assert torch.equal(paler.masks, plain.masks) and paler.unet_pixels.mean() < plain.unet_pixels.mean()


def test_transform_directions():
    """Anticlockwise, right and down as seen, larger above 1."""
    image = np.full((128, 128, 3), 100, dtype=np.uint8)
    spot = np.zeros((128, 128), dtype=bool)
    spot[60:68, 100:108] = True  # right of the middle

    def middle(transform: Transform) -> tuple[float, float]:
        ys, xs = SMALL.prepare(image, {"s": spot}, ("s",), transform).masks[0].nonzero().float().mean(dim=0).tolist()
        return xs, ys

    x, y = middle(Transform())
    assert middle(Transform(angle=10))[1] < y - 3
    assert middle(Transform(shift=(0.1, 0.05))) == pytest.approx((x + 12.8, y + 6.4), abs=1)
    assert middle(Transform(scale=1.2))[0] > x + 4
    assert middle(Transform(flip=True))[0] == pytest.approx(127 - x, abs=1)


def test_hash_is_stable_and_changes_with_every_setting():
    settings = Preprocessing()
    assert settings.hash() == Preprocessing().hash() and len(settings.hash()) == 12
    assert Preprocessing.from_dict(settings.to_dict()) == settings
    assert Preprocessing.from_dict(settings.to_dict()).hash() == settings.hash()
    changes = {"encoder_size": 336, "unet_size": 512, "crop_field": False, "version": 99, "encoder_mean": (0.5,) * 3}
    changes |= {"encoder_std": (0.5,) * 3, "unet_mean": (0.5,) * 3, "unet_std": (0.5,) * 3, "resize": "squash"}
    changes["language_size"] = 560
    hashes = {dataclasses.replace(settings, **{key: value}).hash() for key, value in changes.items()}
    assert len(hashes | {settings.hash()}) == len(changes) + 1


def test_squash_is_what_open_clip_does():
    from open_clip.transform import image_transform
    from PIL import Image

    image, _ = ring(300, 400)
    settings = dataclasses.replace(SMALL, resize="squash")
    theirs = image_transform(96, is_train=False, resize_mode="squash", mean=SMALL.encoder_mean, std=SMALL.encoder_std)
    ours = settings.prepare(image).pixel_values
    # PIL and torchvision round bicubic weights differently: by at most two of 255 steps
    assert (ours - theirs(Image.fromarray(image))).abs().max() < 2.5 / 255 / min(SMALL.encoder_std)
    assert torch.equal(settings.prepare(image).unet_pixels, SMALL.prepare(image).unet_pixels)


def test_pad_keeps_the_whole_photograph_in_the_upper_left_corner():
    image = np.full((100, 200, 3), 200, dtype=np.uint8)
    plain = dataclasses.replace(SMALL, resize="pad", encoder_mean=(0.0,) * 3, encoder_std=(1.0,) * 3)
    pixels = plain.prepare(image).pixel_values
    assert torch.equal(pixels[:, :48], torch.full((3, 48, 96), 200 / 255)) and not pixels[:, 48:].any()
    bright = plain.prepare(image, transform=Transform(brightness=1.2, contrast=0.5)).pixel_values
    assert bright[:, :48].min() > 200 / 255 and not bright[:, 48:].any()  # black beside the photograph stays black


@pytest.mark.parametrize("resize", ["field", "squash", "pad"])
@pytest.mark.parametrize("augmented", [False, True])
def test_a_crop_survives_its_file(resize, augmented):
    settings, transform = dataclasses.replace(SMALL, resize=resize), Transform(angle=9.0) if augmented else None
    image, circle = ring(200, 260)
    crop = settings.crop(image, {"cup": circle}, augmented=augmented)
    again = Crop.from_bytes(crop.to_bytes())
    assert again.augmented == augmented and len(again.pictures) == (1 if augmented and resize == "field" else 2)
    first, second = (settings.finish(c, ("cup",), transform) for c in (crop, again))
    whole = settings.prepare(image, {"cup": circle}, ("cup",), transform)
    for name in ("pixel_values", "unet_pixels", "masks"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert torch.equal(getattr(first, name), getattr(whole, name))


@pytest.mark.parametrize("resize", ["field", "squash", "pad"])
@pytest.mark.parametrize("transform", [None, Transform(angle=9.0, flip=True, brightness=1.1)])
def test_a_vision_language_model_gets_the_photograph_as_the_unet_sees_it(resize, transform):
    image, circle = ring(200, 260)
    plain = dataclasses.replace(SMALL, resize=resize, unet_mean=(0.0,) * 3, unet_std=(1.0,) * 3)
    settings = dataclasses.replace(plain, language_size=128)
    made = settings.prepare(image, {"cup": circle}, ("cup",), transform)
    assert made.picture.dtype == torch.uint8 and made.picture.shape == (3, 128, 128)
    assert torch.equal(made.picture * made.field, (made.unet_pixels * 255).round().to(torch.uint8) * made.field)
    larger = dataclasses.replace(settings, language_size=150)
    assert larger.prepare(image, None, (), transform).picture.shape == (3, 150, 150)
    crop = larger.crop(image, {"cup": circle}, augmented=transform is not None)
    again = Crop.from_bytes(crop.to_bytes())
    assert torch.equal(
        larger.finish(again, ("cup",), transform).picture, larger.prepare(image, transform=transform).picture
    )
    without = plain.prepare(image, {"cup": circle}, ("cup",), transform)
    assert without.picture is None
    for name in ("pixel_values", "unet_pixels", "masks"):
        assert torch.equal(getattr(without, name), getattr(made, name)), name


def test_wrong_input_is_refused():
    with pytest.raises(UserError, match="resize"):
        Preprocessing.from_dict({"resize": "stretch"})
    with pytest.raises(UserError, match="unknown setting"):
        Preprocessing.from_dict({"encodersize": 3})
    with pytest.raises(UserError, match="version"):
        Preprocessing.from_dict({"version": 99})
    with pytest.raises(UserError, match="uint8"):
        SMALL.prepare(np.zeros((10, 10), dtype=np.uint8))
    with pytest.raises(UserError, match="vessel is 5x5"):
        SMALL.prepare(np.zeros((10, 10, 3), dtype=np.uint8), {"vessel": np.zeros((5, 5), bool)}, ("vessel",))
