"""Llama 3.2 Vision as the language model: what the fused model promises, against transformers' own model."""

from dataclasses import replace

import pytest
import torch

from mdf.batches import branches
from mdf.config import PartConfig, PartsConfig
from mdf.dialogue import Turn
from mdf.errors import UserError
from mdf.losses.text import shift, text_loss
from mdf.models.fusion import MDFModel
from mdf.models.language import checkpoint_layers
from mdf.tiles import cross_attention_mask
from tests.models.fused import assert_same_gradients, gradients_of_two_forwards, open_gates, run, without_gradient
from tests.models.vision import DIAGNOSES, build, pictures, stock

TRAIN = PartsConfig(PartConfig("full"), PartConfig("full"), PartConfig("full"), PartConfig("lora"))
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.mark.parametrize(("dtype", "attention"), [(torch.float32, "sdpa"), (torch.bfloat16, "eager")])
def test_at_step_0_the_model_is_exactly_the_stock_one(vision, dtype, attention):
    cfg, batch = vision[0], build(vision)[1]
    model = MDFModel.build(replace(cfg, language=replace(cfg.language, attention=attention)), DIAGNOSES, dtype=dtype)
    model.eval()
    tiles = dict(batch.backbone)
    with torch.no_grad():
        fused = run(model, batch).logits
        for hook in model.hooks:
            hook.remove()
        plain = stock(model)(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=tiles.pop("tiles"),
            **tiles,
        ).logits
    assert fused.dtype == plain.dtype == dtype
    assert torch.equal(fused, plain)


def test_adapters_stand_behind_the_cross_attention_layers_and_each_runs_once(vision):
    model, batch = build(vision)
    cross = stock(model).config.text_config.cross_attention_layers
    assert model.fusion.layers == tuple(k + 1 for k in cross) == (2, 4, 6, 8)
    assert model.fusion.prefix is None, "it sees for itself"
    calls = [0] * len(cross)
    for i, adapter in enumerate(model.fusion.adapters):
        adapter.register_forward_hook(lambda *_, i=i: calls.__setitem__(i, calls[i] + 1))
    with torch.no_grad():
        run(model, batch)
    assert calls == [1] * len(cross)
    scales = [float(a.scale) for a in model.fusion.adapters]
    assert scales == sorted(scales) and scales[0] > 0 and scales[0] != 1.0, "in units of the pretrained hidden states"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fusion.adapters": 5}, "has 4 layers for them"),
        ({"fusion.layers": (2, 3, 4, 6)}, r"\[3\] are cross-attention layers.*\[2, 4, 6, 8\]"),
        ({"fusion.adapters": 2}, "2 adapters cannot read 4 depths"),
        ({"language.image_size": 0}, "image_size.*28 for one tile"),
        ({"dialogue.max_length": 4096}, "4096 tokens.*2048 at most"),
        ({"language.lora_targets": ("q_proj", "gate")}, "lora_targets: gate match no layer"),
    ],
)
def test_what_does_not_go_with_the_language_model_is_refused(tmp_path_factory, vision, changes, said):
    from tests.tiny import put

    cfg = vision[0]
    for key, value in changes.items():
        cfg = put(cfg, key, value)
    with pytest.raises(UserError, match=said):
        MDFModel.build(cfg, DIAGNOSES)


def test_fewer_adapters_are_spread_evenly(vision):
    cfg, _ = vision
    from mdf.models.connector import adapter_layers

    two = replace(cfg.fusion, adapters=2, depths=(1, 3))
    real = (3, 8, 13, 18, 23, 28, 33, 38)
    assert adapter_layers(two, 9, (1, 3, 5, 7)) == (4, 8)
    assert adapter_layers(replace(two, adapters=8, depths=(1, 2, 3, 4)), 40, real) == tuple(k + 1 for k in real)
    assert adapter_layers(replace(two, adapters=4), 40, real) == (9, 19, 29, 39)


def names_of(model, *parts):
    return {n for n, _ in model.named_parameters() if n.startswith(parts)}


@pytest.mark.parametrize("targets", [PROJECTIONS, ("self_attn.q_proj", "cross_attn.v_proj")])
def test_the_trainable_names_are_exactly_those_of_each_mode(vision, targets):
    cfg, _ = vision
    model, _ = build(vision, language=replace(cfg.language, lora_targets=targets))

    def trains(**parts):
        model.set_trainable(PartsConfig(**{name: PartConfig(mode) for name, mode in parts.items()}))
        return {n for n, p in model.named_parameters() if p.requires_grad}

    assert trains() == set()
    for part in ("encoder", "unet", "fusion"):
        assert trains(**{part: "full"}) == names_of(model, f"{part}.")
    layers = "language.base_model.model.model.language_model.layers"
    wanted = set()
    for k in range(9):
        block = "cross_attn" if k in (1, 3, 5, 7) else "self_attn"
        held = [t for t in targets if "." not in t] + [t.split(".")[1] for t in targets if t.startswith(f"{block}.")]
        wanted |= {f"{layers}.{k}.{block}.{t}.lora_{ab}.default.weight" for t in held for ab in "AB"}
    assert trains(language="lora") == wanted
    whole = names_of(model, "language.")
    assert trains(language="full") == whole, "its own tower and projector among them"
    for kept in ("vision_model.", "multi_modal_projector.", "lm_head.", "embed_tokens."):
        assert any(kept in n for n in whole) and not any(kept in n for n in wanted)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_gradients_are_equal_with_and_without_checkpointing_with_two_forwards_in_flight(vision, mode):
    parts = replace(TRAIN, language=PartConfig(mode))

    def gradients(checkpointing):
        model, batch = build(vision)
        open_gates(model)
        model.set_trainable(parts)
        model.train()
        passes = []
        if checkpointing:
            checkpoint_layers(model.language)
            checkpoint_layers(model.language)  # a second time changes nothing
        layer = stock(model).model.vision_model.transformer.layers[0]
        layer.input_layernorm.register_forward_hook(lambda *_: passes.append(1))
        found = gradients_of_two_forwards(model, batch)
        # a tower that trains is computed again in backward, a frozen one has no backward
        assert len(passes) == (4 if checkpointing and mode == "full" else 2)
        return found

    plain = gradients(False)
    assert any("vision_model" in n for n in plain) == (mode == "full")
    assert_same_gradients(gradients(True), plain)


def test_every_trainable_tensor_gets_a_gradient_once_the_gates_are_open(vision):
    model, batch = build(vision)
    open_gates(model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.set_trainable(replace(TRAIN, encoder=PartConfig("frozen")), ("text",))
    model.train()
    keep, targets = shift(batch.labels)
    text_loss(run(model, batch, keep=keep).logits, targets).backward()
    assert [n for n in without_gradient(model) if not n.startswith("unet.")] == []


def test_questions_that_stand_apart_are_answered_as_if_each_were_the_only_one(opened):
    model, _ = opened
    talk = [model.system_turn()]
    for text, answer in (("Are there drusen?", "No."), ("What is the diagnosis?", "Glaucoma."), ("Left?", "Yes.")):
        talk += [Turn("user", text), Turn("assistant", answer)]
    apart = model.processor.encode_apart(talk)
    assert apart.branch.count(0) == apart.shared > 20, "system prompt and photograph stand once"
    inputs = model.processor(pictures(1))
    given = {k: v for k, v in inputs.items() if k != "field"}
    image = model.processor.image_token_id
    ids, branch = torch.tensor([apart.input_ids]), torch.tensor([apart.branch])
    sees, positions = branches(branch, torch.ones_like(ids))
    with torch.no_grad():
        mask = cross_attention_mask(ids, image, inputs["aspect_ratio_mask"])
        together = model(ids, sees, position_ids=positions, cross_attention_mask=mask, **given).logits[0]
        for number in (1, 2, 3):
            alone = model.processor.encode([talk[0], *talk[2 * number - 1 : 2 * number + 1]])
            mine = torch.tensor([n in (0, number) for n in apart.branch])
            one = torch.tensor([alone.input_ids])
            assert one[0].tolist() == ids[0, mine].tolist()
            mask = cross_attention_mask(one, image, inputs["aspect_ratio_mask"])
            single = model(one, torch.ones_like(one), cross_attention_mask=mask, **given).logits[0]
            torch.testing.assert_close(together[mine], single, rtol=1e-4, atol=1e-4)
