"""A run that takes some parts of another model and starts the rest anew."""

from dataclasses import replace

import pytest
import torch

from mdf.config import check
from mdf.errors import ConfigError, UserError
from mdf.models.fusion import MDFModel
from mdf.trained_on import TrainedOn
from mdf.training.start import differ, first_model
from tests.tiny import put

DIAGNOSES = ("normal", "glaucoma")


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """A checkpoint of adapters over LoRA whose encoder and U-Net are not what a new model has."""
    from tests.tiny import tiny_config

    model = MDFModel.build(tiny_config(world), DIAGNOSES)
    with torch.no_grad():
        for part in (model.encoder, model.unet):
            for parameter in part.parameters():
                parameter.add_(0.25)
    model.config.stale_masks = True
    model.trained_on = TrainedOn(frozenset("ab"), masks={"vessel": frozenset({"phantom"})})
    folder = tmp_path_factory.mktemp("trained")
    model.save_pretrained(folder)
    return folder, model


def started(tiny, folder, parts, **changes):
    cfg = tiny(**{"run.stages": ("fuse",), "run.start_from": str(folder), "run.start_parts": parts, **changes})
    return first_model(cfg, ("amd",), torch.float32), cfg


@pytest.mark.parametrize("parts", [("encoder", "unet"), ("encoder",), ("unet",)])
def test_the_parts_named_are_taken_to_the_last_bit_and_the_rest_is_new(tiny, trained, parts):
    folder, given = trained
    model, cfg = started(tiny, folder, parts, **{"fusion.kind": "concat", "fuse.parts.language.mode": "frozen"})
    new = MDFModel.build(cfg, ("amd",)).state_dict()
    for name, tensor in model.state_dict().items():
        part = name.split(".")[0]
        wanted = given.state_dict() if part in parts else new
        assert torch.equal(tensor, wanted[name]), name
    assert model.processor.diagnoses == ("amd",) and not model.config.lora
    assert model.config.stale_masks is ("unet" in parts)
    assert model.trained_on.train == {"a", "b"} and model.trained_on.drawn() == (("vessel",) if "unet" in parts else ())


def test_a_part_with_other_settings_is_refused_and_that_of_one_not_taken_is_not(tiny, trained):
    folder, _ = trained
    with pytest.raises(UserError, match=r"another model.*\n.*unet\.masks"):
        started(tiny, folder, ("unet",), **{"unet.masks": ("vessel",)})
    started(tiny, folder, ("encoder",), **{"unet.masks": ("vessel",)})
    with pytest.raises(UserError, match=r"shown its photographs in another way.*\n.*encoder_mean"):
        started(tiny, folder, ("encoder",), **{"encoder.mean": (0.1, 0.1, 0.1)})
    with pytest.raises(UserError, match=r"another model.*\n.*fusion\.kind"):
        started(tiny, folder, ("fusion",), **{"fusion.kind": "concat"})


def test_start_parts_need_a_checkpoint_and_are_no_language_model(tiny):
    with pytest.raises(ConfigError, match=r"run\.start_parts: given, but run\.start_from names no checkpoint"):
        check(tiny(**{"run.start_parts": ("unet",)}))
    cfg = tiny(**{"run.start_from": "somewhere"})
    with pytest.raises(ConfigError, match="'language' must be of encoder, unet, fusion"):
        check(replace(cfg, run=put(cfg.run, "start_parts", ("language",))))


@pytest.mark.parametrize(
    ("there", "here", "refused"),
    [
        ("retfound-mae:/old/file.pth", "retfound-mae:/new/file.pth", False),  # a checkpoint needs no file any more
        ("retfound-mae:/a/file.pth", "retfound-mae", False),
        ("retfound-mae:/a/file.pth", "deretfound:/a/file.pth", True),  # equal in every shape
        ("retfound-mae:/a/file.pth", "/a/converted.safetensors", False),  # whose name stands in the file
        ("efficientnet-lite0-imagenet", None, True),
    ],
)
def test_a_checkpoint_of_one_release_is_not_taken_for_another(there, here, refused):
    lines = differ({"encoder": {"weights": there}}, {"encoder": {"weights": here}})
    assert bool(lines) is refused
    assert not refused or lines == [f"encoder.weights: {there!r} there, {here!r} here"]
