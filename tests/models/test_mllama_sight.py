"""Llama 3.2 Vision's own sight: tiles and their mask, and that every key of a photograph is read."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mdf.models.configuration import CACHE
from mdf.models.mllama import see_tiles
from mdf.tiles import TILES, cross_attention_mask
from tests.models.fused import ROW, run
from tests.models.vision import build, pictures, stock
from tests.tiny_mllama import TILE


@pytest.mark.parametrize("side", ["left", "right"])
def test_tiles_and_mask_are_those_of_the_stock_processor(vision, side):
    """Odd aspect ratios too, though ours are squares: 1, 2, 3 and 4 tiles; and padding on either side."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(vision[0].language.model)
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
def test_the_photograph_is_shown_to_the_tower_as_to_the_unet(vision, side, tiles):
    """Cut to its field, square, and augmented alike."""
    cfg, _ = vision
    model, _ = build(vision, language=replace(cfg.language, image_size=side))
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


def test_padded_tiles_are_not_read(vision):
    """By the tokens behind the photograph; the words before it read all keys alike in transformers' own model."""
    cfg, _ = vision
    model, batch = build(vision, language=replace(cfg.language, image_size=TILE))
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
