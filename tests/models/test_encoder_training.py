"""What trains of the encoder, and what stays: locked layers, LoRA, checkpointed towers."""

import copy

import pytest
import torch

from mdf.config import EncoderConfig
from mdf.errors import UserError
from mdf.models import depth
from mdf.models.fundus_encoder import FundusEncoder
from mdf.models.fusion import MDFModel
from mdf.models.towers import captions_of
from tests.tiny import tiny_config
from tests.tiny_text import tiny_bert

TEXTS = ["Glaucoma.", "hard exudates near the macula"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> str:
    return str(tiny_bert(tmp_path_factory.mktemp("text") / "bert"))


def build(tower: str, bert: str, **settings) -> FundusEncoder:
    """An encoder with open_clip's ViT and text tower (`open_clip`), or a timm tower with a BERT."""
    torch.manual_seed(0)
    if tower == "open_clip":
        return FundusEncoder(EncoderConfig(model="fundus-vit-tiny", **settings))
    return FundusEncoder(EncoderConfig(model="fundus-vit-tiny", image=tower, size=64, text=bert, **settings))


def embeds(encoder: FundusEncoder) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    pixels, captions = torch.rand(2, 3, encoder.size, encoder.size), captions_of(encoder.architecture)(TEXTS)
    return encoder(pixels)[0], encoder.encode_text(captions)


def one_step(encoder: FundusEncoder) -> dict[str, torch.Tensor]:
    """Train what may train for a step; returns the gradients."""
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name not in encoder.fixed)
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.5)
    image, text = embeds(encoder.train())
    (encoder.logit_scale * (image * text.roll(1, 0)).sum()).backward()
    gradients = {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}
    optimizer.step()
    return gradients


def saved_activations(encoder: FundusEncoder) -> int:
    """Bytes that a forward in training keeps for the backward pass."""
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        embeds(encoder.train())
    return sum(kept.values())


@pytest.mark.parametrize("tower", ["open_clip", "test_vit", "test_efficientnet", "test_resnet"])
def test_layers_are_numbered_from_the_stem_to_the_projection(tower, bert):
    layers = depth.layers(build(tower, bert))
    blocks = {"open_clip": 2, "test_vit": 6, "test_efficientnet": 5, "test_resnet": 4}[tower]
    assert sorted(set(layers["image"].values())) == list(range(blocks + 2))
    first = {
        "open_clip": ("class_embedding", "positional_embedding", "conv1.weight", "ln_pre.weight"),
        "test_vit": ("trunk.cls_token", "trunk.pos_embed", "trunk.patch_embed.proj.weight"),
        "test_efficientnet": ("trunk.conv_stem.weight", "trunk.bn1.0.weight"),
        "test_resnet": ("trunk.conv1.0.weight", "trunk.bn1.weight"),
    }[tower]
    assert [layers["image"].get(f"clip.visual.{name}") for name in first] == [0] * len(first)
    last = "clip.visual.proj" if tower == "open_clip" else "clip.visual.head.proj.weight"
    assert layers["image"][last] == blocks + 1
    text = layers["text"]
    if tower == "open_clip":
        assert [text[f"clip.{n}"] for n in ("token_embedding.weight", "positional_embedding")] == [0, 0]
        assert [text[f"clip.{n}"] for n in ("ln_final.weight", "text_projection")] == [2, 2]
    else:
        assert text["clip.text.transformer.embeddings.LayerNorm.weight"] == 0
        assert text["clip.text.transformer.encoder.layer.1.output.dense.weight"] == 2
        assert text["clip.text.proj.weight"] == 3


def test_open_clips_resnet_is_counted_in_stages():
    with torch.device("meta"):
        encoder = torch.nn.Module()
        import open_clip

        encoder.clip = open_clip.CLIP(**open_clip.get_model_config("RN50"))
    image = depth.layers(encoder)["image"]
    assert image["clip.visual.bn3.weight"] == 0 and image["clip.visual.layer4.2.conv3.weight"] == 4
    assert image["clip.visual.attnpool.q_proj.weight"] == 5


@pytest.mark.parametrize("tower", ["open_clip", "test_vit", "test_efficientnet", "test_resnet"])
def test_locked_layers_get_no_gradient_and_never_move(tower, bert):
    encoder = build(tower, bert, image_locked=2, text_locked=1)
    layers = {n: at for t in depth.layers(encoder).values() for n, at in t.items()}
    image = {n for n, at in layers.items() if n.startswith(depth.IMAGE) and at < 2}
    text = {n for n, at in layers.items() if not n.startswith(depth.IMAGE) and at < 1}
    assert encoder.fixed == image | text and image and text
    before = copy.deepcopy(encoder.state_dict())
    gradients = one_step(encoder)
    assert gradients.keys() == dict(encoder.named_parameters()).keys() - encoder.fixed
    after = encoder.state_dict()
    assert all(torch.equal(after[n], before[n]) for n in encoder.fixed)
    assert sum(not torch.equal(after[n], before[n]) for n in gradients) > 0.8 * len(gradients)


def test_locked_layers_save_memory_and_do_not_drop_out(bert):
    plain = build("test_vit", bert)
    some, whole = build("test_vit", bert, image_locked=4), build("test_vit", bert, image_locked=-1, text_locked=-1)
    for encoder in (plain, some, whole):
        encoder.requires_grad_(True)
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(name not in encoder.fixed)
    most, less, least = (saved_activations(e) for e in (plain, some, whole))
    assert least < 0.1 * most and less < 0.75 * most
    assert not any(m.training for m in whole.clip.text.transformer.modules())
    captions = captions_of(plain.architecture)(TEXTS)
    for encoder, still in ((whole, True), (plain, False)):
        assert torch.equal(encoder.encode_text(captions), encoder.encode_text(captions)) is still
    assert {"clip.visual.head.proj.weight", "clip.text.proj.weight"} == {
        n for n, p in whole.named_parameters() if p.requires_grad and "logit" not in n
    }


def test_more_layers_than_there_are_cannot_be_locked(bert):
    with pytest.raises(UserError, match=r"image_locked: 4, but the image tower has a stem and 2 blocks; at most 3"):
        build("open_clip", bert, image_locked=4)


@pytest.mark.parametrize("tower", ["open_clip", "test_vit", "test_efficientnet", "test_resnet"])
def test_lora_starts_at_the_base_trains_alone_and_merges_to_the_bit(tower, bert):
    base = build(tower, bert).eval()
    encoder = build(tower, bert, image_lora=2, text_lora=2)
    named = dict(base.named_parameters())
    for name, parameter in encoder.named_parameters():
        if "lora_" not in name:  # LoRA drew random numbers after the towers were built
            parameter.data.copy_(named[name.replace(".parametrizations", "").replace(".original", "")].data)
    assert all(map(torch.equal, embeds(encoder.eval()), embeds(base)))
    before = copy.deepcopy(encoder.state_dict())
    gradients = one_step(encoder)
    lora = {n for n in before if "lora_" in n}
    projections = {n for n in gradients if encoder.is_projection(n)}
    assert gradients.keys() == lora | projections | {"clip.logit_scale"} and len(lora) >= 8
    after = encoder.state_dict()
    assert all(torch.equal(after[n], before[n]) for n in encoder.fixed)
    trained = embeds(encoder.eval())
    assert not torch.allclose(trained[0], embeds(base)[0], atol=1e-4)
    with torch.no_grad():
        trained = embeds(encoder)
        encoder.merge_lora()
        merged = embeds(encoder)
    assert all(map(torch.equal, trained, merged))
    assert encoder.state_dict().keys() == base.state_dict().keys()


def test_every_lora_of_an_attention_learns(bert):
    """Weights that are read past the layer's forward, as nn.MultiheadAttention does, learn too."""
    gradients = one_step(build("open_clip", bert, image_lora=2))
    ups = [n for n in gradients if n.endswith("lora_B")]
    assert sum("in_proj_weight" in n for n in ups) == 2 and sum("out_proj" in n for n in ups) == 2
    assert all(gradients[n].abs().sum() > 0 for n in ups)


def test_lora_of_locked_layers_stays_too_and_settings_are_taken_up_later(bert):
    encoder = build("test_vit", bert, image_lora=2)
    adapted = {n for n, _ in encoder.named_parameters() if "lora_" in n}
    assert adapted and not adapted & encoder.fixed
    encoder.settle(EncoderConfig(image_lora=2, image_locked=3, gradient_checkpointing=True))
    assert {n for n in adapted if ".blocks.0." in n or ".blocks.1." in n} == adapted & encoder.fixed
    assert encoder.clip.visual.trunk.grad_checkpointing
    encoder.settle(EncoderConfig(image_lora=2))
    assert not encoder.clip.visual.trunk.grad_checkpointing and not adapted & encoder.fixed


def test_lora_is_part_of_a_checkpoint(tmp_path, bert):
    cfg = tiny_config(tmp_path, **{"encoder.image_lora": 2, "encoder.text_lora": 2, "encoder.text": bert})
    model = MDFModel.build(cfg, ("normal",))
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_()
    expected = model.embed_text(TEXTS)
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(MDFModel.from_pretrained(tmp_path / "saved").embed_text(TEXTS), expected)


@pytest.mark.parametrize("tower", ["open_clip", "test_vit", "test_efficientnet"])
def test_checkpointed_towers_have_the_same_gradients_and_less_memory(tower, bert):
    plain, again = build(tower, bert), build(tower, bert, gradient_checkpointing=True)
    again.load_state_dict(plain.state_dict())
    assert saved_activations(again) < 0.75 * saved_activations(plain)
    expected, found = one_step(plain), one_step(again)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert torch.allclose(gradient, found[name], rtol=1e-4, atol=1e-6), name


def test_open_clips_resnet_is_checkpointed_too(tmp_path):
    import json

    small = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "image_size": 64}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    (tmp_path / "rn.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": small, "text_cfg": text}))
    torch.manual_seed(0)
    plain = FundusEncoder(EncoderConfig(model=str(tmp_path / "rn.json")))
    again = FundusEncoder(EncoderConfig(model=str(tmp_path / "rn.json"), gradient_checkpointing=True, image_lora=0))
    again.load_state_dict(plain.state_dict())
    assert saved_activations(again) < saved_activations(plain)
    expected, found = one_step(plain), one_step(again)
    assert all(torch.allclose(g, found[n], rtol=1e-4, atol=1e-6) for n, g in expected.items())
    locked = FundusEncoder(EncoderConfig(model=str(tmp_path / "rn.json"), image_locked=3, text_lora=1))
    assert {n.split(".")[2] for n in locked.fixed if ".layer" in n} == {"layer1", "layer2"}
