"""What stands between cosine similarities and logits: a learnt multiplier and, for the sigmoid loss, a learnt bias."""

import json
from dataclasses import replace

import pytest
import torch

from mdf.config import EncoderConfig, check
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
