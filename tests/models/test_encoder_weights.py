"""Pretrained weights reach the towers that they are for, whole, or nothing is loaded."""

import json

import pytest
import timm
import torch

from mdf.config import EncoderConfig
from mdf.errors import UserError
from mdf.models import weights
from mdf.models.fundus_encoder import FundusEncoder, statistics
from mdf.models.towers import ARCHITECTURES
from tests.tiny_text import tiny_bert


def test_a_timm_checkpoint_fills_the_trunk_and_its_positions_follow_the_size(tmp_path):
    model = timm.create_model("test_vit", img_size=96).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "vit.pt")
    cfg = EncoderConfig(model="fundus-vit-tiny", image="test_vit", weights=str(tmp_path / "vit.pt"), size=96)
    encoder = FundusEncoder(cfg).eval()
    pixels = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        expected = encoder.clip.visual.head(model.forward_head(model.forward_features(pixels), pre_logits=True))
        torch.testing.assert_close(encoder.features(pixels)[0], expected, rtol=1e-3, atol=1e-4)
    assert statistics(cfg) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # timm's for this model
    state = model.state_dict()
    state["blocks.9.norm1.weight"] = state.pop("blocks.1.norm1.weight")
    torch.save(state, tmp_path / "vit.pt")
    with pytest.raises(UserError, match=r"missing: blocks\.1\.norm1\.weight.*extra: blocks\.9\.norm1\.weight"):
        FundusEncoder(cfg)


def test_a_clip_checkpoint_fills_both_towers_or_the_one_that_is_left(tmp_path):
    whole = FundusEncoder(EncoderConfig(model="fundus-vit-tiny"))
    state = {f"module.{k}": v for k, v in whole.clip.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "clip.pt")
    path = str(tmp_path / "clip.pt")
    again = FundusEncoder(EncoderConfig(model="fundus-vit-tiny", weights=path))
    assert all(torch.equal(again.clip.state_dict()[k], v) for k, v in whole.clip.state_dict().items())
    larger = FundusEncoder(EncoderConfig(model="fundus-vit-tiny", weights=path, size=64, context_length=100))
    assert larger.grid == (8, 8) and larger.context_length == 100
    bert = tiny_bert(tmp_path / "bert")
    other = FundusEncoder(EncoderConfig(model="fundus-vit-tiny", weights=path, text=str(bert)))
    assert torch.equal(other.clip.visual.conv1.weight, whole.clip.visual.conv1.weight)
    values = json.loads((ARCHITECTURES / "fundus-vit-tiny.json").read_text())
    (tmp_path / "own.json").write_text(json.dumps(values | {"custom_text": True}))
    own = FundusEncoder(EncoderConfig(model=str(tmp_path / "own.json"), weights=path))  # text tower under `text.`
    assert torch.equal(own.clip.text.ln_final.weight, whole.clip.ln_final.weight)
    state["module.visual.more"] = torch.zeros(1)
    torch.save(state, path)
    with pytest.raises(UserError, match=r"nothing loaded: 1 extra: visual\.more"):
        FundusEncoder(EncoderConfig(model="fundus-vit-tiny", weights=path))


def test_weights_of_the_tower_that_is_replaced_are_refused():
    with pytest.raises(UserError, match=r"openai fills the image tower of ViT-B-32.* which encoder\.image replaces"):
        FundusEncoder(EncoderConfig(model="ViT-B-32", image="test_vit", size=32, weights="openai"))


def test_timms_own_weights_without_the_hub_are_one_error(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"timm's own of test_vit could not be fetched"):
        FundusEncoder(EncoderConfig(model="fundus-vit-tiny", image="test_vit", weights="timm"))


def test_minilm_tells_what_belongs_together():
    """The bundled text encoder, with the projection left out, as it was trained: a sentence and its paraphrase."""
    try:
        weights.fetch(["minilm-l6-v2"])
    except UserError as error:
        pytest.skip(str(error).splitlines()[0])
    encoder = FundusEncoder(EncoderConfig(model="fundus-vit-tiny", text="minilm-l6-v2")).eval()
    encoder.clip.text.proj = torch.nn.Identity()
    from mdf.models.towers import captions_of

    captions = captions_of(encoder.architecture)(
        ["High pressure inside the eye", "Raised intraocular pressure", "The weather was fine in the mountains"]
    )
    with torch.no_grad():
        a, b, c = encoder.encode_text(captions)
    assert a @ b > 0.6 > 0.3 > a @ c
