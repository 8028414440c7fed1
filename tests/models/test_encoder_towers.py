"""Any image tower hands out one embedding and a map of its patches; what was built is said."""

import json

import pytest
import torch
from torch import nn

from mdf.config import EncoderConfig, check
from mdf.errors import ConfigError, UserError
from mdf.models.encoder_weights import check_activation
from mdf.models.fundus_encoder import FundusEncoder, as_map
from mdf.models.normalization import is_batchnorm
from mdf.models.towers import ARCHITECTURES, resolve
from tests.tiny import tiny_config
from tests.tiny_text import tiny_bert

TIMM = {"test_vit": (4, 4), "test_efficientnet": (2, 2), "test_resnet": (2, 2), "test_convnext": (2, 2)}


def towers_of(**settings) -> EncoderConfig:
    return EncoderConfig(model="fundus-vit-tiny", **settings)


@pytest.mark.parametrize("name", TIMM)
def test_a_timm_tower_replaces_the_image_tower(name):
    encoder = FundusEncoder(towers_of(image=name, size=64)).eval()
    assert encoder.grid == TIMM[name] and encoder.embed_dim == 32 and encoder.size == 64
    pixels = torch.rand(2, 3, 64, 64)
    embeds, tokens = encoder(pixels)
    assert embeds.shape == (2, 32) and tokens.shape == (2, encoder.width, *encoder.grid)
    assert torch.allclose(embeds, nn.functional.normalize(encoder.clip.encode_image(pixels), dim=-1), atol=1e-6)
    assert encoder.encode_text(torch.zeros(2, 77, dtype=torch.long)).shape == (2, 32)


def test_its_own_size_is_the_default_and_the_preprocessing_knows_it():
    assert resolve(towers_of(image="test_vit"))["vision_cfg"]["image_size"] == 160
    assert FundusEncoder(towers_of(image="test_vit")).grid == (10, 10)


def test_prefix_tokens_are_no_patches_and_rectangles_stay_upright():
    encoder = FundusEncoder(towers_of(image="test_vit3", size=64)).eval()  # class token and registers, average pooling
    assert encoder.clip.visual.trunk.num_prefix_tokens > 0 and encoder.grid == (4, 4)
    tokens = torch.arange(8.0).reshape(1, 8, 1)  # 2 rows of 4, row after row
    assert as_map(tokens, 32, 64)[0, 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert as_map(tokens, 64, 32).shape == (1, 1, 4, 2)
    with pytest.raises(AssertionError, match="no grid"):
        as_map(tokens, 32, 32)


def test_a_tower_that_keeps_channels_last_has_its_map_turned(tmp_path):
    import timm
    from timm.models.swin_transformer import SwinTransformer

    encoder = FundusEncoder(towers_of(image="test_vit", size=64))
    swin = SwinTransformer(img_size=64, embed_dim=16, depths=(1, 1), num_heads=(2, 2), window_size=4, num_classes=0)
    assert "swin_tiny_patch4_window7_224" in timm.list_models()
    encoder.clip.visual.trunk = swin
    encoder.clip.visual.head = nn.Identity()
    assert encoder.features(torch.rand(1, 3, 64, 64))[1].shape == (1, 32, 8, 8)


def test_a_trunk_that_widens_behind_its_blocks_gets_a_projection_that_fits():
    encoder = FundusEncoder(towers_of(image="mobilenetv3_small_050", size=32))
    assert encoder.embed_dim == 32 and encoder.width == encoder.clip.visual.trunk.num_features


def test_batch_norm_is_replaced_where_its_tower_is_random_and_nowhere_else(tmp_path):
    bert = tiny_bert(tmp_path / "bert")

    def norms(encoder: FundusEncoder) -> bool:
        return any(is_batchnorm(m) for m in encoder.clip.visual.modules())

    assert not norms(FundusEncoder(towers_of(image="test_resnet", size=64, text=str(bert))))
    import timm

    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "resnet.pt")
    pretrained = FundusEncoder(towers_of(image="test_resnet", size=64, weights=str(tmp_path / "resnet.pt"))).train()
    assert norms(pretrained)
    assert not any(m.training for m in pretrained.modules() if is_batchnorm(m))


def test_what_was_built_is_said(tmp_path):
    values = json.loads((ARCHITECTURES / "fundus-vit-tiny.json").read_text())
    (tmp_path / "quick.json").write_text(json.dumps(values | {"quick_gelu": True}))
    image, text, shown = FundusEncoder(EncoderConfig(model=str(tmp_path / "quick.json"))).describe()
    assert image == (
        "image tower VisionTransformer: QuickGELU, 32 px, 4 x 4 patches of width 32, pooling class token, embedding 32"
    )
    assert text == "text tower Transformer: QuickGELU, up to 77 tokens, pooling end token"
    assert shown == "photographs normalised with mean 0.481, 0.458, 0.408, standard deviation 0.269, 0.261, 0.276"
    image, text, _ = FundusEncoder(
        towers_of(image="test_efficientnet", size=64, text=str(tiny_bert(tmp_path)))
    ).describe()
    assert "test_efficientnet: SiLU, 64 px" in image and "pooling avg" in image
    assert text == "text tower bert: GELUActivation, up to 48 tokens, pooling mean of the tokens"
    other = EncoderConfig(weights="efficientnet-lite0-imagenet", mean=(0, 0, 0), std=(1, 1, 1))
    assert FundusEncoder(other, load=False).describe()[-1].endswith(": NOT those that its weights were trained with")


def test_weights_meet_the_activation_that_they_were_trained_with():
    """All of open_clip's tags: what does not fit is refused and the architecture that fits is named."""
    import open_clip

    known, refused, advised = open_clip.list_models(), 0, 0
    for model in known:
        for tag in open_clip.list_pretrained_tags_by_model(model):
            quick = open_clip.get_model_config(model).get("quick_gelu", False)
            if open_clip.get_pretrained_cfg(model, tag).get("quick_gelu", False) == quick:
                check_activation(model, tag)
                continue
            with pytest.raises(UserError) as raised:
                check_activation(model, tag)
            advice = str(raised.value).partition("encoder.model=")[2]
            if advice:
                check_activation(advice, tag)
            advised += advice in known
            refused += 1
    assert refused > 20 and advised >= refused - 2
    with pytest.raises(UserError, match=r"openai was trained with QuickGELU.* set encoder\.model=ViT-B-32-quickgelu"):
        FundusEncoder(EncoderConfig(model="ViT-B-32", weights="openai"))
    with pytest.raises(UserError, match=r"laion2b_s34b_b79k was trained with GELU.* set encoder\.model=ViT-B-32$"):
        check_activation("ViT-B-32-quickgelu", "laion2b_s34b_b79k")


def test_settings_that_lead_nowhere_are_refused(tmp_path):
    for settings, message in (
        ({"image": "test_vitt"}, r"timm knows no model 'test_vitt'; nearest: .*test_vit"),
        ({"image": "vit_tiny_patch16_224.nothing"}, "Tags: .*augreg"),
        ({"image": "test_vit", "size": 72}, r"encoder\.size: 72 px do not go through the image tower test_vit"),
        ({"image": "test_vit", "weights": "openai"}, "no open_clip tag of fundus-vit-tiny"),
    ):
        with pytest.raises(UserError, match=message):
            FundusEncoder(towers_of(**settings))
    with pytest.raises(ConfigError, match=r"encoder\.weights: timm's own weights are for encoder\.image"):
        check(tiny_config(tmp_path, **{"encoder.weights": "timm"}))
    with pytest.raises(ConfigError, match=r"encoder\.image_lora: its tower is locked whole"):
        check(tiny_config(tmp_path, **{"encoder.image_lora": 2, "encoder.image_locked": -1}))
