"""What a released encoder is shown is, bit for bit, what the pipeline of its own code makes of the photograph."""

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.transforms as v1
from PIL import Image, ImageEnhance
from torchvision.transforms import InterpolationMode, v2

from mdf.config import AugmentConfig
from mdf.datasets.shards import CROP, crop_of
from mdf.errors import UserError
from mdf.imaging.augment import Transform, sample
from mdf.imaging.cache import PreparedCache
from mdf.imaging.decode import load_image
from mdf.imaging.field import field_square, find_field
from mdf.imaging.phantom import draw
from mdf.imaging.preprocess import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Crop, Preprocessing
from mdf.imaging.recipe import Recipe
from mdf.processor import MDFProcessor
from mdf.records import FundusRecord
from mdf.training.picture import pixels
from tests.tiny_processor import tiny_processor

BICUBIC = InterpolationMode.BICUBIC
SMALL = Preprocessing(encoder_size=96, unet_size=128)


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A phantom with a camera's grain on a black ground, its field cut off where the photograph is too low for it."""
    side = max(height, width)
    image = draw(seed, side).image.astype(int)
    image = image + np.random.default_rng(seed).integers(-6, 7, image.shape) * (image > 0)
    top, left = (side - height) // 2, (side - width) // 2
    image = image[top : top + height, left : left + width]
    return np.ascontiguousarray(image.clip(0, 255).astype(np.uint8))


SHAPES = [(300, 417), (411, 290), (256, 256), (150, 230), (97, 301)]
PHOTOGRAPHS = [photograph(*shape, seed) for seed, shape in enumerate(SHAPES)]


def on_pil(*steps: Callable, mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[np.ndarray], torch.Tensor]:
    """torchvision's transforms on a Pillow image, as most releases have them."""
    chain = v1.Compose([*steps, v1.ToTensor(), v1.Normalize(mean, std)])
    return lambda image: chain(Image.fromarray(image))


def on_a_canvas(image: np.ndarray, side: int = 128) -> torch.Tensor:
    """FLAIR's: a float tensor of 0..1, its longer side scaled with antialiasing, zeros on the right and below."""
    values = torch.tensor(np.transpose(np.float32(image) / 255, (2, 0, 1))[None])
    scale = max(values.shape[-2:]) / side
    values = v1.Resize((int(values.shape[-2] / scale), int(values.shape[-1] / scale)), antialias=True)(values)
    below, right = side - values.shape[-2], side - values.shape[-1]
    return torch.nn.functional.pad(values, (0, right, 0, below))[0]


def on_tensors(image: np.ndarray) -> torch.Tensor:
    """RETFound-Green's: torchvision's second transforms on a uint8 tensor."""
    chain = v2.Compose(
        [v2.Resize((126, 126), antialias=True), v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.5,), (0.5,))]
    )
    return chain(torch.from_numpy(image).permute(2, 0, 1))


def in_hsv(image: np.ndarray) -> torch.Tensor:
    """VisionUnite's: more contrast, each channel's least value brought to 1, hue, saturation, value."""
    pixels = np.array(ImageEnhance.Contrast(Image.fromarray(image)).enhance(1.3))
    for channel in range(3):
        pixels[:, :, channel] = pixels[:, :, channel] - pixels[:, :, channel].min() + 1
    shown = Image.fromarray(pixels).convert("HSV")
    steps = [v1.Resize(112, BICUBIC), v1.CenterCrop(112), v1.ToTensor(), v1.Normalize([0.5] * 3, [0.5] * 3)]
    return v1.Compose(steps)(shown)


def zoomed(image: np.ndarray) -> torch.Tensor:
    """RetinaVLM's: a grey photograph scaled by scipy."""
    from scipy.ndimage import zoom

    grey = np.array(Image.fromarray(image).convert("L"))[None]
    return torch.from_numpy(zoom(grey, [1, 48 / grey.shape[1], 48 / grey.shape[2]], order=1) / np.float32(255))


def of_the_field(image: np.ndarray) -> torch.Tensor:
    found = find_field(image)
    square = Image.fromarray(field_square(image, found.mask, found.box)).resize((96, 96), Image.Resampling.BICUBIC)
    return v1.Normalize(IMAGENET_MEAN, IMAGENET_STD)(v1.ToTensor()(square))


IMAGENET = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
CLIP = {"mean": CLIP_MEAN, "std": CLIP_STD}
HALF = {"mean": [0.5], "std": [0.5]}
PIPELINES: dict[str, tuple[Recipe, Callable[[np.ndarray], torch.Tensor]]] = {
    "squash": (Recipe(side=112, **CLIP), on_pil(v1.Resize((112, 112), BICUBIC), **CLIP)),
    "crop": (
        Recipe(side=112, rule="crop", shorter=128, **IMAGENET),
        on_pil(v1.Resize(128, BICUBIC), v1.CenterCrop(112), **IMAGENET),
    ),
    "crop-odd": (
        Recipe(side=111, rule="crop", shorter=128, interpolation="bilinear", **IMAGENET),
        on_pil(v1.Resize(128), v1.CenterCrop(111), **IMAGENET),
    ),
    "pad-float": (Recipe(side=128, rule="pad", backend="float", interpolation="bilinear"), on_a_canvas),
    "squash-tensor": (Recipe(side=126, backend="tensor", interpolation="bilinear", **HALF), on_tensors),
    "hsv": (Recipe(side=112, rule="crop", colour="visionunite", **HALF), in_hsv),
    "grey": (
        Recipe(side=96, colour="grey", mean=(0.4,), std=(0.2,)),
        on_pil(v1.Grayscale(), v1.Resize((96, 96), BICUBIC), mean=(0.4,), std=(0.2,)),
    ),
    "grey-scipy": (
        Recipe(side=48, colour="grey", backend="scipy", interpolation="bilinear", antialias=False),
        zoomed,
    ),
    "field": (Recipe(side=96, rule="field", **IMAGENET), of_the_field),
    "no-antialias": (
        Recipe(side=96, backend="float", antialias=False, interpolation="bilinear", **IMAGENET),
        lambda image: v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)(
            v2.Resize((96, 96), antialias=False)((torch.from_numpy(image) / 255).permute(2, 0, 1).contiguous())
        ),
    ),
}
RECIPES = {name: recipe for name, (recipe, _) in PIPELINES.items()}
every_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("number", range(len(SHAPES)), ids=[f"{h}x{w}" for h, w in SHAPES])
def test_it_is_the_original_pipeline_bit_for_bit(name, number):
    recipe, original = PIPELINES[name]
    ours = recipe.apply(PHOTOGRAPHS[number])
    assert ours.shape == (recipe.channels, recipe.side, recipe.side) and ours.dtype == torch.float32
    assert torch.equal(ours, original(PHOTOGRAPHS[number]))


def test_real_photographs_of_many_cameras_too(shared_data):
    folders = ["hrf/images", "chase_db1", "drive/training/images", "les_av/images", "odir5k/preprocessed_images"]
    seen = 0
    for folder in folders:
        for path in sorted(p for p in (shared_data / folder).glob("*") if p.suffix in (".jpg", ".JPG", ".tif"))[:1]:
            image = load_image(path)
            seen += 1
            for name, (recipe, original) in PIPELINES.items():
                assert torch.equal(recipe.apply(image), original(image)), (path.name, name)
    assert seen >= 2


@pytest.mark.parametrize(("mode", "rule"), [("squash", "squash"), ("shortest", "crop")])
def test_open_clip_shows_the_same(mode, rule):
    from open_clip.transform import image_transform

    theirs = image_transform(112, is_train=False, resize_mode=mode, **CLIP)
    for image in PHOTOGRAPHS:
        assert torch.equal(Recipe(side=112, rule=rule, **CLIP).apply(image), theirs(Image.fromarray(image)))


def test_a_photograph_that_fits_already_is_not_scaled():
    image = photograph(128, 128)
    plain = torch.from_numpy(image).permute(2, 0, 1) / 255
    assert torch.equal(Recipe(side=128).apply(image), plain)
    assert torch.equal(Recipe(side=128, rule="pad", backend="float").apply(image), plain)


@every_recipe
def test_the_model_is_shown_what_the_recipe_gives_and_the_unet_what_it_always_saw(recipe):
    settings = SMALL.with_recipe(recipe)
    for image in PHOTOGRAPHS[:2]:
        masks = {"vessel": image[:, :, 0] > 150}
        plain = dataclasses.replace(SMALL, unet_size=160).prepare(image, masks, ("vessel",))
        made = dataclasses.replace(settings, unet_size=160).prepare(image, masks, ("vessel",))
        assert torch.equal(made.pixel_values, recipe.apply(image))
        for name in ("unet_pixels", "field", "masks", "mask_known"):
            assert torch.equal(getattr(made, name), getattr(plain, name)), name


@every_recipe
def test_augmentation_that_changes_nothing_gives_the_same_bits_and_the_unet_is_augmented_as_without(recipe):
    settings, image = SMALL.with_recipe(recipe), PHOTOGRAPHS[0]
    assert torch.equal(settings.prepare(image, transform=Transform()).pixel_values, recipe.apply(image))
    rng = np.random.default_rng(1)
    for _ in range(3):
        transform = sample(AugmentConfig(), rng)
        made, plain = settings.prepare(image, transform=transform), SMALL.prepare(image, transform=transform)
        assert made.pixel_values.shape == (recipe.channels, recipe.side, recipe.side)
        assert made.pixel_values.isfinite().all()
        assert torch.equal(made.unet_pixels, plain.unet_pixels) and torch.equal(made.field, plain.field)


@every_recipe
@pytest.mark.parametrize("augmented", [False, True])
def test_cache_and_shards_hold_the_same_photograph(recipe, augmented, tmp_path):
    settings, image = SMALL.with_recipe(recipe), PHOTOGRAPHS[1]
    transform = Transform(angle=7.0, flip=True, gamma=1.1, shift=(0.02, 0.01)) if augmented else None
    direct = settings.prepare(image, transform=transform)
    crop = settings.crop(image, augmented=augmented)
    assert crop.pictures[0].is_floating_point() == (recipe.backend == "float")  # a quarter of the bytes elsewhere
    file = tmp_path / "eye.png"
    Image.fromarray(image).save(file)
    cache = PreparedCache(0.01, tmp_path / "cache")
    for make in (lambda: crop, lambda: pytest.fail("the cache was to answer")):
        found = cache.get(settings, [("", file)], make, augmented)
        assert torch.equal(settings.finish(found, (), transform).pixel_values, direct.pixel_values)
    record = FundusRecord(id="1", image=f"shard/00000001.{CROP}")
    read = crop_of(record, {CROP: crop.to_bytes()}, settings, (), augmented)
    assert torch.equal(settings.finish(read, (), transform).pixel_values, direct.pixel_values)


def test_a_crop_of_floats_is_refused_when_damaged():
    settings = SMALL.with_recipe(RECIPES["pad-float"])
    data = settings.crop(PHOTOGRAPHS[0], augmented=False).to_bytes()
    with pytest.raises(ValueError, match="damaged or cut short"):
        Crop.from_bytes(data[:-4])


def test_geometry_moves_what_the_encoder_sees_as_it_moves_the_rest():
    """A spot turned, shifted and mirrored; and what lay beside the middle is there to come in."""
    image = np.zeros((100, 180, 3), dtype=np.uint8)
    image[45:55, 115:125] = 200  # right of the middle
    recipe = Recipe(side=100, rule="crop")
    settings = SMALL.with_recipe(recipe)

    def middle(transform: Transform) -> tuple[float, float]:
        ys, xs = (settings.prepare(image, transform=transform).pixel_values[0] > 0.4).nonzero().float().mean(0).tolist()
        return xs, ys

    x, y = middle(Transform())
    assert (x, y) == pytest.approx((79.5, 49.5))
    assert middle(Transform(flip=True))[0] == pytest.approx(99 - x, abs=0.5)
    assert middle(Transform(shift=(-0.1, 0.05))) == pytest.approx((x - 10, y + 5), abs=0.5)
    assert middle(Transform(angle=10))[1] < y - 3
    bright = np.full((100, 180, 3), 90, dtype=np.uint8)
    moved = settings.prepare(bright, transform=Transform(shift=(0.2, 0.0))).pixel_values
    assert moved.min() == pytest.approx(90 / 255)  # no black edge
    padded = SMALL.with_recipe(Recipe(side=100, rule="pad")).prepare(bright, transform=Transform(shift=(0.2, 0.0)))
    assert padded.pixel_values[:, :, :19].max() == 0 and padded.pixel_values[:, 60:].max() == 0


@pytest.mark.parametrize("backend", ["pil", "tensor", "float"])
def test_colours_change_alike_whatever_scales_and_black_stays_black(backend):
    image = photograph(160, 200)
    transform = Transform(brightness=1.2, contrast=0.8, gains=(1.0, 0.9, 1.1))
    settings = SMALL.with_recipe(Recipe(side=96, rule="pad", backend=backend, interpolation="bilinear"))
    plain = SMALL.with_recipe(Recipe(side=96, rule="pad", interpolation="bilinear"))
    made, pil = (s.prepare(image, transform=transform).pixel_values for s in (settings, plain))
    lit = (made > 0) & (pil > 0)  # dark grain beside the field may be black in one and not in the other
    assert (made - pil)[lit].abs().max() <= 2.5 / 255 and lit.float().mean() > 0.4
    assert not made[:, 77:].any() and (made - plain.prepare(image).pixel_values).abs().mean() > 0.02


@pytest.mark.parametrize("colour", ["grey", "visionunite"])
def test_other_colours_change_in_brightness_alone(colour):
    recipe = Recipe(side=96, colour=colour)
    settings, image = SMALL.with_recipe(recipe), photograph(160, 200)
    made = settings.prepare(image, transform=Transform(brightness=0.7, gains=(1.1, 1.0, 0.9))).pixel_values
    plain = recipe.apply(image)
    assert torch.equal(made[:-1], plain[:-1])  # hue and saturation
    assert 0.6 * plain[-1].mean() < made[-1].mean() < 0.8 * plain[-1].mean()


def test_a_batch_holds_what_each_photograph_gives_alone(tmp_path):
    processor = tiny_processor(tmp_path)
    processor.preprocessing = SMALL.with_recipe(RECIPES["crop"])
    together = processor(PHOTOGRAPHS)
    for row, image in enumerate(PHOTOGRAPHS):
        assert torch.equal(together["pixel_values"][row], RECIPES["crop"].apply(image))
        assert torch.equal(processor(image)["pixel_values"][0], together["pixel_values"][row])


@every_recipe
def test_it_travels_with_the_checkpoint(recipe):
    settings = SMALL.with_recipe(recipe)
    written = json.loads(json.dumps(settings.to_dict()))
    assert Preprocessing.from_dict(written) == settings and Preprocessing.from_dict(written).hash() == settings.hash()
    assert written == Preprocessing.from_dict(written).to_dict()
    assert Preprocessing.from_dict(SMALL.to_dict()).recipe is None


def test_a_checkpoint_shows_its_encoder_what_training_did_and_an_edited_recipe_is_refused(tmp_path):
    processor = tiny_processor(tmp_path / "language")
    processor.preprocessing = SMALL.with_recipe(RECIPES["crop"])
    processor.save_pretrained(tmp_path / "best")
    read = MDFProcessor.from_pretrained(tmp_path / "best")
    assert torch.equal(read(PHOTOGRAPHS[0])["pixel_values"][0], RECIPES["crop"].apply(PHOTOGRAPHS[0]))
    file = tmp_path / "best" / "preprocessing.json"
    values = json.loads(file.read_text())
    values["recipe"]["interpolation"] = "bilinear"
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"preprocessing\.json was changed after training"):
        MDFProcessor.from_pretrained(tmp_path / "best")


def test_each_setting_has_its_hash_and_none_leaves_that_of_older_checkpoints():
    base = Recipe(side=96, rule="crop", backend="tensor")
    changes = {"side": 64, "rule": "pad", "shorter": 128, "interpolation": "bilinear", "antialias": False}
    changes |= {"backend": "float", "colour": "grey", "scale": 1.0}
    made = [base, *(dataclasses.replace(base, **{k: v}) for k, v in changes.items())]
    made += [dataclasses.replace(base, mean=(0.5,), std=(0.5,)), dataclasses.replace(base, mean=(0.5,), std=(0.4,))]
    assert len({SMALL.with_recipe(r).hash() for r in made} | {SMALL.hash()}) == len(made) + 1
    assert Preprocessing().hash() == "e721fb243e2f"  # as mdf 0.1 and 0.2 wrote it


WRONG = [
    ({"side": 0}, "above 0"),
    ({"side": 224, "rule": "stretch"}, "rule 'stretch' is none of squash, crop, pad, field"),
    ({"side": 224, "backend": "cv2"}, "backend 'cv2' is none of"),
    ({"side": 224, "colour": "lab"}, "colour 'lab' is none of"),
    ({"side": 224, "interpolation": "cubic"}, "interpolation 'cubic' is none of bilinear, bicubic"),
    ({"side": 224, "mean": [0.5, 0.5], "std": [1.0]}, "mean has 2 numbers, the encoder reads 3 channels"),
    ({"side": 224, "mean": [0.5]}, "belong together"),
    ({"side": 224, "mean": [0.5], "std": [0.0]}, "above 0"),
    ({"side": 224, "shorter": 256}, "shorter goes with the rule crop"),
    ({"side": 224, "rule": "crop", "shorter": 200}, "at least side, 224"),
    ({"side": 224, "antialias": False}, "PIL always scales with antialiasing"),
    ({"side": 224, "backend": "scipy"}, "scipy scales bilinearly"),
    ({"side": 224, "resize": "crop"}, "unknown setting resize"),
    ({"rule": "crop"}, "side is missing"),
    ({"side": "wide"}, "of another kind"),
    ({"side": 224, "mean": ["a"], "std": [1.0]}, "of another kind"),
]


@pytest.mark.parametrize(("values", "said"), WRONG)
def test_settings_that_do_not_go_together_are_refused(values, said):
    with pytest.raises(UserError, match=said):
        Recipe.from_dict(values)
    with pytest.raises(UserError, match=said):
        Preprocessing.from_dict({**SMALL.to_dict(), "recipe": values})


def test_a_strip_is_no_photograph():
    with pytest.raises(UserError, match="a strip of 400x3 pixels"):
        SMALL.with_recipe(RECIPES["crop"]).prepare(np.full((3, 400, 3), 90, dtype=np.uint8))


def test_a_number_may_be_written_either_way_and_one_mean_stands_for_all_channels():
    one, other = Recipe(side=8, scale=255, mean=[1], std=[1]), Recipe(side=8, mean=(1.0,) * 3, std=(1.0,) * 3)
    assert one == other and SMALL.with_recipe(one).hash() == SMALL.with_recipe(other).hash()


def test_a_grey_input_is_drawn_for_the_eye():
    seen = RECIPES["grey"].apply(PHOTOGRAPHS[0])
    drawn = pixels(seen, RECIPES["grey"].mean, RECIPES["grey"].std)
    wanted = np.array(Image.fromarray(PHOTOGRAPHS[0]).convert("L").resize((96, 96), Image.Resampling.BICUBIC))
    assert drawn.shape == (96, 96, 3) and np.array_equal(drawn[:, :, 0], wanted)


def test_a_recipe_beside_other_sizes_is_refused():
    values = SMALL.with_recipe(Recipe(side=224)).to_dict() | {"encoder_size": 336}
    with pytest.raises(UserError, match="are not those of its recipe"):
        Preprocessing.from_dict(values)
