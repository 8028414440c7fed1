"""Llama 3.2 Vision as the language model: what the fused model promises, against transformers' own model."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Cache

from mdf.batches import FundusDataset, branches, collate
from mdf.config import PartConfig, PartsConfig
from mdf.datasets import load
from mdf.dialogue import Turn
from mdf.errors import UserError
from mdf.losses.text import shift, text_loss
from mdf.models.configuration import CACHE
from mdf.models.fusion import MDFModel
from mdf.models.language import bare, checkpoint_layers
from mdf.models.mllama import see_tiles
from mdf.tiles import TILES, cross_attention_mask
from tests.models.test_fusion import open_gates
from tests.tiny_mllama import TILE, tiny_llama3, tiny_mllama, tiny_mllama_config

DIAGNOSES = ("normal", "diabetic_retinopathy", "amd", "glaucoma")
TRAIN = PartsConfig(PartConfig("full"), PartConfig("full"), PartConfig("full"), PartConfig("lora"))
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
ROW = ("input_ids", "attention_mask", "pixel_values", "unet_pixels", "prompt_mask")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Four tiles a photograph."""
    folder = tmp_path_factory.mktemp("world")
    cfg = tiny_mllama_config(folder, **{"language.image_size": 2 * TILE})
    return cfg, load(cfg.data, cfg.run.seed)


def build(world, **changes):
    cfg, manifest = world
    model = MDFModel.build(replace(cfg, **changes), DIAGNOSES)
    dialogue = replace(cfg.dialogue, apart=0.0)
    data = FundusDataset(manifest.split("train")[:3], manifest, model.processor, dialogue, masks=cfg.unet.masks)
    return model, collate([data[i] for i in range(3)], model.processor)


@pytest.fixture(scope="module")
def opened(world):
    """A model whose adapters act, in eval mode, and a batch; tests leave both as they are."""
    model, batch = build(world)
    open_gates(model)
    return model.eval(), batch


def run(model, batch, **kwargs):
    return model(**{n: getattr(batch, n) for n in ROW}, **{**batch.backbone, **kwargs})


def stock(model):
    return bare(model.language)


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 255, (80, 90, 3), dtype=np.uint8) for _ in range(count)]


def asked(model, *texts):
    return [[model.system_turn(), Turn("user", text)] for text in texts]


# -- exactly the pretrained model -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "attention"), [(torch.float32, "sdpa"), (torch.bfloat16, "eager")])
def test_at_step_0_the_model_is_exactly_the_stock_one(world, dtype, attention):
    cfg, batch = world[0], build(world)[1]
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


def test_adapters_stand_behind_the_cross_attention_layers_and_each_runs_once(world):
    model, batch = build(world)
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
def test_what_does_not_go_with_the_language_model_is_refused(tmp_path_factory, world, changes, said):
    from tests.tiny import put

    cfg = world[0]
    for key, value in changes.items():
        cfg = put(cfg, key, value)
    with pytest.raises(UserError, match=said):
        MDFModel.build(cfg, DIAGNOSES)


def test_fewer_adapters_are_spread_evenly(world):
    cfg, _ = world
    from mdf.models.connector import adapter_layers

    two = replace(cfg.fusion, adapters=2, depths=(1, 3))
    real = (3, 8, 13, 18, 23, 28, 33, 38)
    assert adapter_layers(two, 9, (1, 3, 5, 7)) == (4, 8)
    assert adapter_layers(replace(two, adapters=8, depths=(1, 2, 3, 4)), 40, real) == tuple(k + 1 for k in real)
    assert adapter_layers(replace(two, adapters=4), 40, real) == (9, 19, 29, 39)


# -- pixels, tiles and the mask ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_tiles_and_mask_are_those_of_the_stock_processor(world, side):
    """Odd aspect ratios too, though ours are squares: 1, 2, 3 and 4 tiles; and padding on either side."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(world[0].language.model)
    processor.tokenizer.pad_token = "<|finetune_right_pad_id|>"
    rng = np.random.default_rng(0)
    sizes = [(28, 28), (56, 56), (28, 50), (20, 61), (90, 30), (30, 100), (33, 47), (7, 5)]
    images = [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]
    texts = [f"a{'b c ' * i}<|image|>What{' is this' * (9 - i)}?" for i in range(len(sizes))]
    wanted = processor(images=[[i] for i in images], text=texts, padding=True, padding_side=side, return_tensors="pt")
    from mdf.tiles import cut_tiles

    made = cut_tiles(processor.image_processor, [torch.from_numpy(i).permute(2, 0, 1) for i in images])
    assert torch.equal(made["tiles"], wanted["pixel_values"])
    for name in TILES[1:]:
        assert torch.equal(made[name], wanted[name])
    assert set(made["aspect_ratio_mask"].sum(-1).flatten().tolist()) == {1, 2, 3, 4}
    image = processor.image_token_id
    mask = cross_attention_mask(wanted["input_ids"], image, made["aspect_ratio_mask"])
    assert torch.equal(mask, wanted["cross_attention_mask"])


@pytest.mark.parametrize(("side", "tiles"), [(TILE, 1), (2 * TILE, 4)])
def test_the_photograph_is_shown_to_the_tower_as_to_the_unet(world, side, tiles):
    """Cut to its field, square, and augmented alike."""
    cfg, _ = world
    model, _ = build(world, language=replace(cfg.language, image_size=side))
    inputs = model.processor(pictures(2))
    assert inputs["tiles"].shape == (2, 1, 4, 3, TILE, TILE)
    assert inputs["aspect_ratio_mask"].sum(-1).tolist() == [[tiles]] * 2
    assert not inputs["tiles"][:, :, tiles:].any()
    blank = inputs.blank()
    assert set(blank) == set(inputs) and not blank["tiles"].any()


def test_without_its_mask_no_photograph_is_read(opened):
    """transformers would read it causally and cut it to the length of the text, in silence."""
    model, batch = opened
    tiles = {name: batch.backbone[name] for name in TILES}
    for wrong in (None, batch.backbone["cross_attention_mask"][:, 1:]):
        with pytest.raises(ValueError, match="cross_attention_mask"):
            model(**{n: getattr(batch, n) for n in ROW}, **tiles, cross_attention_mask=wrong)
    with torch.no_grad():
        out = run(model, batch, use_cache=True)
        with pytest.raises(ValueError, match="cross_attention_mask is missing"):
            model(batch.input_ids[:, :1], memory_kv=model.fusion.memory_kv(out.memory), cache=getattr(out, CACHE))


def test_the_order_of_image_keys_tells_nothing(opened):
    """One half of the silent causal mask: with it, keys in another order would be others."""
    model, batch = opened
    with torch.no_grad():
        states = see_tiles(stock(model), batch.backbone)["cross_attention_states"]
        count, width = states.shape[1], states.shape[2]
        assert count > 4 and width == 64
        tile, place = torch.tensor([2, 0, 3, 1]), torch.randperm(count // 4)
        moved = states.view(3, 4, -1, width)[:, tile][:, :, place].flatten(1, 2)
        mask = batch.backbone["cross_attention_mask"]
        before = run(model, batch, **dict.fromkeys(TILES), cross_attention_states=states)
        after = run(
            model, batch, **dict.fromkeys(TILES), cross_attention_states=moved, cross_attention_mask=mask[..., tile]
        )
    torch.testing.assert_close(before.logits, after.logits, rtol=1e-4, atol=1e-4)


def test_every_image_key_has_a_gradient_from_every_token_behind_the_photograph(opened):
    """The other half: a short text would see as many keys as it has tokens, and the first token one."""
    model, batch = opened
    with torch.no_grad():
        states = see_tiles(stock(model), batch.backbone)["cross_attention_states"]
    image = int((batch.input_ids[0] == model.processor.image_token_id).nonzero()[0])
    length = image + 6
    assert states.shape[1] > length, "there are more keys than tokens"
    row = {n: getattr(batch, n)[:1] for n in ("pixel_values", "unet_pixels")}
    given = states[:1].clone().requires_grad_()
    out = model(
        batch.input_ids[:1, :length],
        batch.attention_mask[:1, :length],
        **row,
        cross_attention_states=given,
        cross_attention_mask=batch.backbone["cross_attention_mask"][:1, :length],
    )
    for t in range(image, length):
        (grad,) = torch.autograd.grad(out.logits[0, t].square().sum(), given, retain_graph=True)
        assert (grad[0].abs().sum(-1) > 0).all(), t


def test_padded_tiles_are_not_read(world):
    """By the tokens behind the photograph; the words before it read all keys alike in transformers' own model."""
    cfg, _ = world
    model, batch = build(world, language=replace(cfg.language, image_size=TILE))
    model.eval()
    with torch.no_grad():
        states = see_tiles(stock(model), batch.backbone)["cross_attention_states"]
        image = int((batch.input_ids[0] == model.processor.image_token_id).nonzero()[0])
        given = {n: getattr(batch, n) for n in ("pixel_values", "unet_pixels")}
        given |= {n: getattr(batch, n)[:, image:] for n in ("input_ids", "attention_mask")}
        given["cross_attention_mask"] = batch.backbone["cross_attention_mask"][:, image:]
        real = states.shape[1] // 4

        def logits(tiles):
            changed = states.clone()
            changed[:, tiles] = torch.randn_like(changed[:, tiles])
            return model(**given, cross_attention_states=changed).logits

        before = model(**given, cross_attention_states=states).logits
        assert torch.equal(logits(slice(real, None)), before)
        assert not torch.equal(logits(slice(0, real)), before)


# -- training ---------------------------------------------------------------------------------------------------------


def names_of(model, *parts):
    return {n for n, _ in model.named_parameters() if n.startswith(parts)}


@pytest.mark.parametrize("targets", [PROJECTIONS, ("self_attn.q_proj", "cross_attn.v_proj")])
def test_the_trainable_names_are_exactly_those_of_each_mode(world, targets):
    cfg, _ = world
    model, _ = build(world, language=replace(cfg.language, lora_targets=targets))

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
def test_gradients_are_equal_with_and_without_checkpointing_with_two_forwards_in_flight(world, mode):
    parts = replace(TRAIN, language=PartConfig(mode))

    def gradients(checkpointing):
        model, batch = build(world)
        open_gates(model)
        model.set_trainable(parts)
        model.train()
        passes = []
        if checkpointing:
            checkpoint_layers(model.language)
            checkpoint_layers(model.language)  # a second time changes nothing
        layer = stock(model).model.vision_model.transformer.layers[0]
        layer.input_layernorm.register_forward_hook(lambda *_: passes.append(1))
        first = run(model, batch).logits.float().pow(2).mean()
        batch.backbone["tiles"] = batch.backbone["tiles"].flip(0)
        batch.pixel_values, batch.unet_pixels = batch.pixel_values.flip(0), batch.unet_pixels.flip(0)
        second = run(model, batch).logits.float().pow(2).mean()
        first.backward()
        second.backward()
        # a tower that trains is computed again in backward, a frozen one has no backward
        assert len(passes) == (4 if checkpointing and mode == "full" else 2)
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    assert any("vision_model" in n for n in plain) == (mode == "full")
    for name, grad in plain.items():
        torch.testing.assert_close(checkpointed[name], grad, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_every_trainable_tensor_gets_a_gradient_once_the_gates_are_open(world):
    model, batch = build(world)
    open_gates(model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.set_trainable(replace(TRAIN, encoder=PartConfig("frozen")), ("text",))
    model.train()
    keep, targets = shift(batch.labels)
    text_loss(run(model, batch, keep=keep).logits, targets).backward()
    dead = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().any())]
    assert [n for n in dead if not n.startswith("unet.")] == []


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


# -- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beams", [1, 3])
def test_batched_generation_equals_single_and_depends_on_the_photograph(opened, beams):
    model, _ = opened
    x = model.processor(pictures(2))
    talks = asked(model, "What is the diagnosis?", "Are there hard exudates in this photograph, and where are they?")
    given = {"max_new_tokens": 12, "num_beams": beams}
    together = model.generate_answers(x, talks, **given)
    assert together == [model.generate_answers(x.select([i]), [talks[i]], **given)[0] for i in range(2)]
    assert together == model.generate_answers(model.look(x), talks, **given)
    assert together != model.generate_answers(x.blank(), talks, **given)


def test_generation_with_and_without_a_cache_is_the_same_and_that_of_training(opened):
    model, batch = opened
    length = int((~batch.prompt_mask[0]).nonzero()[0])
    row = {n: getattr(batch, n)[:1] for n in ("pixel_values", "unet_pixels")}
    row |= {n: getattr(batch, n)[:1, :length] for n in ("input_ids", "attention_mask", "prompt_mask")}
    row |= {n: batch.backbone[n][:1] for n in TILES}
    tokens = [model.generate(**row, max_new_tokens=8, do_sample=False, use_cache=cache) for cache in (True, False)]
    assert torch.equal(*tokens)
    with torch.no_grad():  # what a training forward gives the whole of it
        ids = tokens[0]
        mask = cross_attention_mask(ids, model.processor.image_token_id, row["aspect_ratio_mask"])
        given = {n: row[n] for n in (*TILES, "pixel_values", "unet_pixels")}
        logits = model(ids, torch.ones_like(ids), cross_attention_mask=mask, **given).logits
    logits = logits[0, length - 1 : -1]
    assert logits.argmax(-1).tolist() == ids[0, length:].tolist()


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_is_that_of_the_stock_model_at_step_0(world, beams):
    model, batch = build(world)
    model.eval()
    length = int((~batch.prompt_mask[0]).nonzero()[0])
    ids, mask = batch.input_ids[:1, :length], batch.attention_mask[:1, :length]
    tiles = {n: batch.backbone[n][:1] for n in TILES}
    pixels = {n: getattr(batch, n)[:1] for n in ("pixel_values", "unet_pixels")}
    given = {
        "max_new_tokens": 10,
        "do_sample": False,
        "num_beams": beams,
        "eos_token_id": model.processor.tokenizer.eos_token_id,
    }
    ours = model.generate(ids, attention_mask=mask, **pixels, **tiles, **given, suppress_tokens=None)
    cross = batch.backbone["cross_attention_mask"][:1, :length]
    for hook in model.hooks:
        hook.remove()
    theirs = stock(model).generate(
        input_ids=ids,
        attention_mask=mask,
        pixel_values=tiles.pop("tiles"),
        **tiles,
        cross_attention_mask=cross,
        **given,
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("condition", ["image", "image+prompt"])
def test_candidates_scored_from_a_repeated_cache_equal_candidates_scored_alone(world, opened, condition, monkeypatch):
    """And nothing is cropped: that would cut the image keys of the cross-attention layers to the length of the text."""
    cfg, model = world[0], opened[0]
    if condition == "image+prompt":
        film = replace(cfg.fusion.film, condition=condition)
        model = build(world, fusion=replace(cfg.fusion, film=film))[0].eval()
        open_gates(model)
    monkeypatch.setattr(Cache, "crop", None)
    x = model.processor(pictures(3))
    talks = asked(model, "What is the diagnosis?", "Are there any drusen that you see?", "What do you see?")
    options = [["Normal.", "Glaucoma, and some more words."], ["Yes.", "No.", "In which quadrant?"], ["A disc."]]
    rows = [2, 0, 2]
    scores = model.score(x, talks, options, rows=rows)
    talks.append([Turn("system", "Another system prompt."), Turn("user", "What do you see?")])
    other = model.score(x, talks, [*options, ["A disc.", "Yes."]], rows=[*rows, 1])
    assert other[:3] == [pytest.approx(s, abs=1e-3) for s in scores]
    image = model.processor.image_token_id
    for i, row in enumerate(rows):
        for option, value in zip(options[i], scores[i], strict=True):
            whole = model.processor.encode([*talks[i], Turn("assistant", option)])
            ids, labels = torch.tensor([whole.input_ids]), torch.tensor([whole.labels])
            keep, targets = shift(labels)
            one = {k: v for k, v in x.select([row]).items() if k != "field"}
            one |= {"cross_attention_mask": cross_attention_mask(ids, image, one["aspect_ratio_mask"])}
            with torch.no_grad():
                prompt = torch.tensor([whole.prompt_mask])
                out = model(ids, torch.ones_like(ids), prompt_mask=prompt, keep=keep, **one)
            assert value == pytest.approx(-float(text_loss(out.logits, targets)), abs=1e-3)


def test_a_photograph_is_seen_once_for_all_questions_about_it(opened):
    model, _ = opened
    talks = asked(model, "What is the diagnosis?", "Are there drusen?")
    seen = model.look(model.processor(pictures(2)))
    passes = []
    hooks = [
        m.register_forward_hook(lambda *_: passes.append(1)) for m in (model.encoder, stock(model).model.vision_model)
    ]
    model.generate_answers(seen, talks, max_new_tokens=4)
    model.score(seen, talks, [["Yes.", "No."]] * 2)
    for hook in hooks:
        hook.remove()
    assert not passes


def test_greedy_answers_go_without_a_word_on_the_models_sampling_settings(opened, caplog):
    model, _ = opened
    assert model.generation_config.temperature == 0.6
    logger = logging.getLogger("transformers")
    monkey = logger.propagate
    logger.propagate = True
    try:
        model.generate_answers(model.processor(pictures(1)), asked(model, "What?"), max_new_tokens=2)
    finally:
        logger.propagate = monkey
    assert caplog.text == ""


def test_a_text_model_of_llama_3_gets_the_prefix_and_answers_in_batches_as_alone(world, tmp_path):
    cfg, manifest = world
    language = replace(cfg.language, model=str(tiny_llama3(tmp_path / "llama3")), image_size=0)
    model, batch = build((replace(cfg, language=language), manifest))
    model.eval()
    assert model.processor.image_token == "<|reserved_special_token_0|>" and not batch.backbone
    assert (batch.input_ids == model.processor.tokenizer.bos_token_id).sum(1).tolist() == [1, 1, 1]
    with torch.no_grad():
        fused = run(model, batch).logits
        for hook in model.hooks:
            hook.remove()
        prefix = model.see(batch.pixel_values, batch.unet_pixels)[1]
        plain = stock(model)(inputs_embeds=model.embed(batch.input_ids, prefix), attention_mask=batch.attention_mask)
    assert torch.equal(fused, plain.logits)
    model, _ = build((replace(cfg, language=language), manifest))
    open_gates(model)
    x, talks = model.processor(pictures(2)), asked(model, "What is the diagnosis?", "Are there any hard exudates here?")
    together = model.generate_answers(x, talks, max_new_tokens=8)
    assert together == [model.generate_answers(x.select([i]), [talks[i]], max_new_tokens=8)[0] for i in range(2)]


# -- what is refused --------------------------------------------------------------------------------------------------


def test_rows_with_and_without_a_photograph_are_refused_and_text_alone_is_read_by_the_baseline(world):
    cfg, _ = world
    model, batch = build(world, fusion=replace(cfg.fusion, depths=()))
    model.eval()
    ids = batch.input_ids.clone()
    ids[1][ids[1] == model.processor.image_token_id] = 7
    with pytest.raises(ValueError, match=r"\[1, 0, 1\] image tokens.*one batch"):
        model(ids, batch.attention_mask, batch.pixel_values, batch.unet_pixels, **batch.backbone)
    with pytest.raises(ValueError, match="no photograph for the language model's tower"):
        model(batch.input_ids, batch.attention_mask)
    words = torch.tensor([[11, 12, 13, 14]])
    with torch.no_grad():
        assert torch.equal(model(words).logits, stock(model)(input_ids=words).logits)


def test_the_image_token_is_beyond_the_output_head_and_never_a_label(opened):
    model, batch = opened
    image = model.processor.image_token_id
    assert image == stock(model).lm_head.out_features == stock(model).config.image_token_index
    assert not (batch.labels == image).any()
    assert (batch.input_ids == image).sum(1).tolist() == [1, 1, 1]
    assert len({image, model.processor.pad_id, model.processor.tokenizer.eos_token_id}) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.add_tokens(["<new>"] * 1 + [f"<new{i}>" for i in range(9)]), "never resized"),
        (lambda t: None, r"<\|image\|> is token None"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(world, tmp_path, change, said):
    import shutil

    from transformers import AutoTokenizer

    cfg, _ = world
    folder = tmp_path / "mllama"
    shutil.copytree(cfg.language.model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if change(tokenizer) is None:
        tokenizer = AutoTokenizer.from_pretrained(tiny_llama3(tmp_path / "text"))
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=said):
        MDFModel.build(replace(cfg, language=replace(cfg.language, model=str(folder))), DIAGNOSES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop(next(n for n in s if "projector.bias" in n)), "1 missing .*multi_modal_projector.bias"),
        (lambda s: s.update({"model.other.weight": torch.zeros(2)}), "1 not part of the model"),
    ],
)
def test_weights_that_do_not_fit_their_configuration_are_refused(world, tmp_path, change, said):
    import shutil

    from safetensors.torch import load_file, save_file

    cfg, _ = world
    folder = tmp_path / "mllama"
    shutil.copytree(cfg.language.model, folder)
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=said):
        MDFModel.build(replace(cfg, language=replace(cfg.language, model=str(folder))), DIAGNOSES)


# -- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_checkpoint_comes_back_as_it_was_and_only_on_its_own_base(world, tmp_path, mode):
    cfg, _ = world
    cfg = replace(cfg, fuse=replace(cfg.fuse, parts=replace(cfg.fuse.parts, language=PartConfig(mode, 1e-3))))
    model, batch = MDFModel.build(cfg, DIAGNOSES), build(world)[1]
    open_gates(model)
    model.set_trainable(cfg.fuse.parts)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or (mode == "full" and "vision_model.layernorm" in name) or "lm_head" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1 * parameter.requires_grad)
    model.eval().save_pretrained(tmp_path / "checkpoint")
    again = MDFModel.from_pretrained(tmp_path / "checkpoint")
    with torch.no_grad():
        assert torch.equal(run(model, batch).logits, run(again, batch).logits)
    x, talks = pictures(1), asked(model, "What is the diagnosis?")
    tiles = [m.processor(x)["tiles"] for m in (model, again)]
    assert torch.equal(*tiles)
    assert again.generate_answers(again.processor(x), talks) == model.generate_answers(model.processor(x), talks)
    if mode == "lora":
        other = tiny_mllama(tmp_path / "other", seed=1)
        text = (tmp_path / "checkpoint" / "config.json").read_text()
        (tmp_path / "checkpoint" / "config.json").write_text(text.replace(cfg.language.model, str(other)))
        with pytest.raises(UserError, match="not the one this checkpoint was trained on"):
            MDFModel.from_pretrained(tmp_path / "checkpoint")


def test_a_checkpoint_whose_special_tokens_were_changed_is_refused(opened, tmp_path):
    import json

    model, _ = opened
    model.save_pretrained(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "tokenizer" / "tokenizer_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "eos_token": "<|eom_id|>"}))
    with pytest.raises(UserError, match=r"eos was \['<\|eot_id\|>', \d+\], is \['<\|eom_id\|>', \d+\]"):
        MDFModel.from_pretrained(tmp_path / "checkpoint")
