"""What another preparation of the photographs does to an encoder: one setting at a time, against its own."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from mdf.errors import UserError
from mdf.evaluation.layers import parts_of
from mdf.evaluation.photographs import embed, load_images, load_inputs
from mdf.evaluation.recipes import OWN, framed, recipe_features, recipe_of, recipe_report, table_of, variants
from mdf.imaging.preprocess import Preprocessing
from mdf.imaging.recipe import Recipe
from mdf.models.embedder import Embedder
from mdf.records import Manifest
from tests.scripts import run


@pytest.fixture(scope="module")
def embedder(checkpoint):
    return Embedder.from_pretrained(checkpoint.run / "best")


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(side=224, rule="crop", shorter=256, mean=(0.5,), std=(0.5,)),
        Recipe(side=512, rule="pad", backend="float", interpolation="bilinear"),
        Recipe(side=192, colour="grey", backend="scipy", interpolation="bilinear", antialias=False),
    ],
)
def test_each_variant_changes_one_thing(recipe):
    made = variants(recipe)
    assert next(iter(made)) == OWN and made.pop(OWN) == recipe and len(made) >= 3
    together = [{"rule", "shorter"}, {"mean", "std"}, {"backend", "antialias"}]
    for name, other in made.items():
        changed = {k for k, v in dataclasses.asdict(other).items() if v != getattr(recipe, k)}
        assert len(changed) == 1 or any(changed <= one for one in together), (name, changed)
        assert other.channels == recipe.channels


@pytest.mark.parametrize("resize", ["field", "squash"])
def test_our_own_preparation_is_a_recipe_too(checkpoint, resize):
    """To the last bit of a value: the recipe multiplies by 1/255 where ours divides by 255."""
    settings = Preprocessing(encoder_size=96, unet_size=64, resize=resize)
    for image in load_images(checkpoint.manifest.records[:2], checkpoint.manifest):
        ours, theirs = settings.prepare(image).pixel_values, recipe_of(settings).apply(image)
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)
    with_own = settings.with_recipe(Recipe(side=64))
    assert recipe_of(with_own) == Recipe(side=64)


def test_a_photograph_back_in_the_frame_of_a_camera():
    image = np.full((40, 40, 3), 7, dtype=np.uint8)
    wide, tall = framed(image, 1.5), framed(image, 0.5)
    assert wide.shape == (40, 60, 3) and (wide[:, 10:50] == 7).all() and wide.sum() == image.sum()
    assert tall.shape == (80, 40, 3) and (tall[20:60] == 7).all() and framed(image, 0.0) is image


def test_features_of_the_own_recipe_are_those_of_the_model(checkpoint, embedder):
    records = checkpoint.manifest.records[:3]
    recipes = variants(recipe_of(embedder.processor.preprocessing))
    found = recipe_features(embedder, records, checkpoint.manifest, recipes, batch_size=2)
    assert list(found) == list(recipes)
    wanted = embed(embedder, load_inputs(embedder, records, checkpoint.manifest)[0], "pooled")
    assert np.allclose(found[OWN], wanted, atol=1e-4)
    turned = {name: (vectors * found[OWN]).sum(1) for name, vectors in found.items()}
    assert turned["colours visionunite"].max() < turned["torchvision, float"].min() <= 1 + 1e-6


def test_from_the_command_line(checkpoint, tmp_path, capsys):
    words = ("recipes", "--checkpoint", checkpoint.run, "--data", checkpoint.data, "--out", tmp_path, "--limit", "12")
    assert run("evaluate.py", *words, "--aspect", "1.5", "--batch-size", "4") == 0
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "recipes.json").read_text())
    assert table_of(report["recipes"]) in said and report["train"] == 12 and report["aspect"] == 1.5
    own = report["recipes"][OWN]
    assert own["cosine"] == pytest.approx(1) and own["fixed"]["balanced_accuracy"] == own["anew"]["balanced_accuracy"]
    assert own["fixed"]["against"]["balanced_accuracy"] == 0
    for setting, row in report["recipes"].items():
        assert f"| {setting} |" in said and -1 <= row["lowest"] <= row["cosine"] <= 1 + 1e-6
        assert row["fixed"]["against"]["balanced_accuracy"] == pytest.approx(
            row["fixed"]["balanced_accuracy"] - own["fixed"]["balanced_accuracy"]
        )
        assert Recipe.from_dict(row["recipe"]).side == own["recipe"]["side"]
    assert run("evaluate.py", *words, "--aspect", "9") == 2
    assert "--aspect 0 or from 0.2 to 5" in capsys.readouterr().err
    assert run("evaluate.py", *words, "--size", "96") == 2
    assert "a checkpoint knows its own" in capsys.readouterr().err


def test_the_regularisation_is_not_chosen_on_the_photographs_judged(checkpoint, embedder, tmp_path):
    manifest = checkpoint.manifest
    report = recipe_report(embedder, manifest, tmp_path, split="val", resamples=20)
    parts = parts_of(manifest, "val")
    assert {name: report[name] for name in ("train", "val")} == {name: len(parts[name]) for name in ("train", "val")}
    assert report["n"] == len(manifest.split("val")) and report["train"] < len(manifest.split("train"))


def test_a_split_that_is_missing_is_named_before_anything_is_computed(checkpoint, embedder, tmp_path):
    manifest = checkpoint.manifest
    untrained = Manifest(tuple(r for r in manifest.records if r.split != "val"), manifest.root)
    with pytest.raises(UserError, match="no photograph of the val split has one of the diagnoses"):
        recipe_report(embedder, untrained, tmp_path)
    with pytest.raises(UserError, match="cannot be judged on all"):
        recipe_report(embedder, manifest, tmp_path, split="all")
    with pytest.raises(UserError, match="no photograph of the train split has one of the diagnoses coats_disease"):
        recipe_report(embedder, manifest, tmp_path, classes=["coats_disease"])
    assert not list(tmp_path.iterdir())
