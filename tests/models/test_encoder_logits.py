"""What stands between cosine similarities and logits: a learnt multiplier and, for the sigmoid loss, a learnt bias."""

import json
import math
from dataclasses import replace

import pytest
import torch

from mdf.config import EncoderConfig, PartConfig, check
from mdf.errors import ConfigError
from mdf.models.fundus_encoder import FundusEncoder
from mdf.models.fusion import MDFModel
from mdf.models.towers import ARCHITECTURES
from tests.tiny import tiny_config

TINY = EncoderConfig(model="fundus-vit-tiny")


def test_scale_and_bias_start_where_the_settings_say_and_there_is_no_bias_without_one():
    plain = FundusEncoder(TINY)
    assert plain.logit_bias is None and plain.logit_scale.item() == pytest.approx(1 / 0.07)
    siglip = FundusEncoder(replace(TINY, init_logit_scale=10.0, init_logit_bias=-10.0))
    assert siglip.logit_bias is not None and float(siglip.logit_bias) == -10
    assert siglip.logit_scale.item() == pytest.approx(10)
    names = dict(siglip.named_parameters()).keys() - dict(plain.named_parameters()).keys()
    assert names == {"clip.logit_bias"}


def test_the_bias_of_an_architecture_is_kept(tmp_path):
    values = json.loads((ARCHITECTURES / "fundus-vit-tiny.json").read_text())
    (tmp_path / "sigmoid.json").write_text(json.dumps(values | {"init_logit_scale": 2.3, "init_logit_bias": -9.0}))
    encoder = FundusEncoder(EncoderConfig(model=str(tmp_path / "sigmoid.json")))
    assert encoder.logit_bias is not None and float(encoder.logit_bias) == -9


def test_a_forward_hands_out_the_bias_and_a_checkpoint_keeps_it(tmp_path):
    cfg = tiny_config(tmp_path, **{"encoder.init_logit_bias": -10.0})
    model = MDFModel.build(cfg, ("normal",))
    model.set_trainable(cfg.align.parts)
    with torch.no_grad():
        model.encoder.logit_bias.fill_(-7.5)
    out = model(
        pixel_values=torch.rand(2, 3, 32, 32),
        caption_ids=model.processor.tokenize_captions(["a", "b"]),
        want=("contrastive",),
    )
    assert out.logit_bias.item() == -7.5
    out.logit_bias.backward()
    assert float(model.encoder.logit_bias.grad) == 1
    model.save_pretrained(tmp_path / "saved")
    assert float(MDFModel.from_pretrained(tmp_path / "saved").encoder.logit_bias) == -7.5


def test_numbers_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"encoder.init_logit_scale: 0.0 is outside"):
        check(tiny_config(tmp_path, **{"encoder.init_logit_scale": 0.0}))
    with pytest.raises(ConfigError, match=r"encoder.init_logit_bias"):
        check(tiny_config(tmp_path, **{"encoder.init_logit_bias": float("nan")}))


@pytest.mark.parametrize("kept", [math.log(100), 4.6052])  # in float32 both are above the cap
@pytest.mark.parametrize("wanted", [-1, 1])  # a loss that wants it lower, and one that wants it higher
def test_a_scale_at_its_cap_still_learns_and_never_goes_beyond(kept, wanted):
    encoder = FundusEncoder(TINY)
    torch.nn.init.constant_(encoder.clip.logit_scale, kept)
    assert encoder.logit_scale.item() == 100
    optimizer = torch.optim.AdamW([encoder.clip.logit_scale], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (-wanted * encoder.logit_scale).backward()
        assert encoder.clip.logit_scale.grad != 0
        optimizer.step()
        encoder.cap_logit_scale()
    assert encoder.logit_scale.item() == 100 if wanted > 0 else encoder.logit_scale.item() < 80
    assert encoder.clip.logit_scale.item() == pytest.approx(math.log(100)) or wanted < 0


def test_a_run_that_starts_at_the_cap_comes_down_from_it(tmp_path):
    """Nine photographs of one caption: the temperature has to fall."""
    from mdf.training.run import train

    cfg = tiny_config(tmp_path, **{
        "run.stages": ("align",), "align.steps": 2, "align.parts.encoder": PartConfig("full", lr=1e-2),
        "encoder.init_logit_scale": 100.0, "align.schedule": "constant",
    })  # fmt: skip
    assert train(cfg) == 0
    scale = MDFModel.from_pretrained(tmp_path / "runs" / cfg.run.name / "last").encoder.logit_scale
    assert scale.item() < 100
