"""Answers on Llama 3.2 Vision: alone and in batches, from caches of every kind, scored and written."""

import logging
from dataclasses import replace

import pytest
import torch
from transformers import Cache

from mdf.dialogue import Turn
from mdf.losses.text import shift, text_loss
from mdf.tiles import TILES, cross_attention_mask
from tests.models.fused import asked, open_gates, run
from tests.models.vision import build, pictures, stock
from tests.tiny_mllama import tiny_llama3


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


def test_generation_with_every_cache_and_without_is_the_same_and_that_of_training(opened):
    model, batch = opened
    length = int((~batch.prompt_mask[0]).nonzero()[0])
    row = {n: getattr(batch, n)[:1] for n in ("pixel_values", "unet_pixels")}
    row |= {n: getattr(batch, n)[:1, :length] for n in ("input_ids", "attention_mask", "prompt_mask")}
    row |= {n: batch.backbone[n][:1] for n in TILES}
    ways = ({}, {"use_cache": False}, {"cache_implementation": "static"})  # the last with room for a photograph's keys
    tokens = [model.generate(**row, **way, min_new_tokens=8, max_new_tokens=8, do_sample=False) for way in ways]
    assert torch.equal(tokens[0], tokens[1]) and torch.equal(tokens[0], tokens[2])
    with torch.no_grad():  # what a training forward gives the whole of it
        ids = tokens[0]
        mask = cross_attention_mask(ids, model.processor.image_token_id, row["aspect_ratio_mask"])
        given = {n: row[n] for n in (*TILES, "pixel_values", "unet_pixels")}
        logits = model(ids, torch.ones_like(ids), cross_attention_mask=mask, **given).logits
    logits = logits[0, length - 1 : -1]
    assert logits.argmax(-1).tolist() == ids[0, length:].tolist()


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_is_that_of_the_stock_model_at_step_0(vision, beams):
    model, batch = build(vision)
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
def test_candidates_scored_from_a_repeated_cache_equal_candidates_scored_alone(vision, opened, condition, monkeypatch):
    """And nothing is cropped: that would cut the image keys of the cross-attention layers to the length of the text."""
    cfg, model = vision[0], opened[0]
    if condition == "image+prompt":
        film = replace(cfg.fusion.film, condition=condition)
        model = build(vision, fusion=replace(cfg.fusion, film=film))[0].eval()
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


def test_a_text_model_of_llama_3_gets_the_prefix_and_answers_in_batches_as_alone(vision, tmp_path):
    cfg, manifest = vision
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
