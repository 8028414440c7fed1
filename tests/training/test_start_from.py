"""A run that goes on from a whole model: its settings are those of its own configuration from the first step on."""

import shutil

import pytest
import torch
from torch import nn

from mdf.config import Config
from mdf.errors import UserError
from mdf.models.fusion import MDFModel
from mdf.models.language import bare
from mdf.resources import bundled
from mdf.training.start import first_model, next_model

DIAGNOSES = ("normal", "glaucoma")


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """A checkpoint of adapters over LoRA."""
    from tests.tiny import tiny_config

    folder = tmp_path_factory.mktemp("trained")
    MDFModel.build(tiny_config(world), DIAGNOSES).save_pretrained(folder)
    return folder


def config(tiny, folder, **changes) -> Config:
    return tiny(**{"run.stages": ("fuse",), "run.start_from": str(folder), **changes})


def test_what_no_weight_depends_on_is_that_of_the_run_from_the_first_stage_to_the_last(tiny, trained):
    """And so a resumed run goes on with what it began with."""
    cfg = config(tiny, trained, **{"language.lora_dropout": 0.3, "language.attention": "eager"})
    for model in (first_model(cfg, DIAGNOSES, torch.float32), next_model(cfg, trained, torch.float32)):
        dropouts = [m.p for n, m in model.language.named_modules() if "lora_dropout" in n and isinstance(m, nn.Dropout)]
        assert dropouts and set(dropouts) == {0.3}
        assert bare(model.language).config._attn_implementation == "eager"
        assert model.config.sections()[3].lora_dropout == 0.3


def test_the_prompts_of_the_run_are_asked_and_without_any_those_of_the_checkpoint(tiny, trained, tmp_path):
    shutil.copytree(bundled("prompts"), tmp_path / "prompts")
    (tmp_path / "prompts" / "system.txt").write_text("You are asked otherwise.")
    changed = config(tiny, trained, **{"dialogue.prompts": str(tmp_path / "prompts")})
    model = first_model(changed, DIAGNOSES, torch.float32)
    assert model.processor.prompts.system == "You are asked otherwise."
    model.save_pretrained(tmp_path / "asked")
    again = first_model(config(tiny, tmp_path / "asked"), DIAGNOSES, torch.float32)
    assert again.processor.prompts.system == "You are asked otherwise."


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dialogue.max_length": 4096}, r"dialogue\.max_length: 4096 tokens, and .* reads 2048 at most"),
        ({"encoder.image_locked": 99}, r"encoder\.image_locked: 99, but the image tower has a stem and"),
    ],
)
def test_settings_that_its_model_cannot_have_are_refused(tiny, trained, changes, said):
    with pytest.raises(UserError, match=said):
        first_model(config(tiny, trained, **changes), DIAGNOSES, torch.float32)
