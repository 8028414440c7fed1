"""Attention maps and attributions: what they sum to, that they are the model's own, and that nothing is left behind."""

import numpy as np
import pytest
import torch

from mdf.dialogue import Turn
from mdf.models.answer_rows import answer_rows
from mdf.models.attention import attention_maps
from mdf.models.attribution import features, patch_attribution, pixel_attribution
from mdf.models.configuration import CACHE
from mdf.models.degraded import blurred, mixed, tiled
from tests.tiny_checkpoint import checkpoint  # noqa: F401

QUESTIONS = ("Are there haemorrhages?", "What is the diagnosis?", "In which quadrant are the drusen?")
ANSWERS = ("No.", "Diabetic retinopathy. Normal.", "Superotemporal.")


@pytest.fixture(scope="module")
def model(checkpoint):  # noqa: F811
    return checkpoint.model


@pytest.fixture(scope="module")
def inputs(checkpoint):  # noqa: F811
    records = checkpoint.manifest.records[:3]
    return checkpoint.model.processor([checkpoint.manifest.path(r.image) for r in records])


@pytest.fixture(scope="module")
def asked(model):
    return [[model.system_turn(), Turn("user", question)] for question in QUESTIONS]


def test_attention_of_a_word_sums_to_one_with_nothing(model, inputs, asked):
    for maps, answer in zip(attention_maps(model, inputs, asked, ANSWERS), ANSWERS, strict=True):
        assert " ".join(maps.words) == answer and len(maps.maps) == len(maps.words)
        assert maps.depths == (1, 3, 1, 3) and len(maps.layers) == 4
        total = maps.maps.sum((2, 3)) + maps.nothing
        assert total.numpy() == pytest.approx(np.ones(total.shape), abs=1e-5)
        assert (maps.nothing > 0).all() and (maps.question.sum((1, 2)) < 1).all()


def test_a_batch_is_its_photographs_one_by_one(model, inputs, asked):
    together = attention_maps(model, inputs, asked, ANSWERS)
    seen = attention_maps(model, model.look(inputs), asked, ANSWERS)
    for row, (maps, looked) in enumerate(zip(together, seen, strict=True)):
        alone = attention_maps(model, inputs, [asked[row]], [ANSWERS[row]], rows=[row])[0]
        for other in (alone, looked):
            assert torch.allclose(maps.maps, other.maps, atol=1e-6)
            assert torch.allclose(maps.question, other.question, atol=1e-6)


def test_maps_are_what_the_adapters_read_with_while_they_generate(model, inputs, asked):
    """Word by word with a cache, as in generation: the same weights."""
    rows = answer_rows(model, asked[:1], ANSWERS[:1])
    ids, start = rows.words["input_ids"], int(rows.reads[0].nonzero()[0, 0])
    seen = model.look(inputs.select([0]))
    given = {"prefix": seen["prefix"], "memory_kv": seen["memory_kv"], "use_cache": True}
    found, cache = [], None
    with torch.no_grad():
        for at in range(start, ids.shape[1]):
            part = ids[:, :start] if cache is None and at == start else ids[:, at : at + 1]
            if cache is None and start:
                cache = getattr(model(input_ids=part, attention_mask=torch.ones_like(part), **given), CACHE)
                part = ids[:, at : at + 1]
            out = model(
                input_ids=part, attention_mask=torch.ones(1, at + 1, dtype=torch.int64), cache=cache,
                grounded=torch.ones_like(part, dtype=torch.bool), **given,
            )  # fmt: skip
            found.append(out.attention[0])
    maps = attention_maps(model, inputs, asked[:1], ANSWERS[:1])[0]
    tokens = [found[i] for i in range(sum(maps.tokens))]
    whole = torch.stack(tokens).mean(0).unflatten(-1, (4, 4))
    assert torch.allclose(maps.answer, whole, atol=1e-5)


def test_single_layers_and_sentences(model, inputs, asked):
    every = attention_maps(model, inputs, asked, ANSWERS)[1]
    some = attention_maps(model, inputs, asked, ANSWERS, adapters=[1, 3])[1]
    assert torch.equal(some.maps, every.maps[:, [1, 3]]) and some.depths == (3, 3)
    assert every.words == ("Diabetic", "retinopathy.", "Normal.") and every.sentences() == [range(2), range(2, 3)]
    weights = torch.tensor(every.tokens[:2], dtype=torch.float32)
    mean = (every.maps[:2] * weights[:, None, None, None]).sum(0) / weights.sum()
    assert torch.allclose(every.of(every.sentences()[0])[0], mean)


def test_what_cannot_be_explained_is_refused(model, inputs, asked, tmp_path):
    from mdf.models.fusion import MDFModel
    from tests.tiny import tiny_config

    with pytest.raises(ValueError, match="has no words"):
        attention_maps(model, inputs, asked[:1], [""], rows=[0])
    plain = MDFModel.build(tiny_config(tmp_path, **{"fusion.depths": ()}), ("normal",), load_bases=False)
    with pytest.raises(ValueError, match="no adapters"):
        attention_maps(plain, inputs, asked[:1], ["No."], rows=[0])


CANDIDATES = (("No.", "Yes."), ("Normal.", "Glaucoma.", "Diabetic retinopathy."), ("Superotemporal.",))


def test_the_log_odds_are_those_of_the_scored_answers(model, inputs, asked):
    scores = model.score(inputs, asked, [list(c) for c in CANDIDATES])
    wanted = [s[0] - np.logaddexp.reduce(s[1:]) if len(s) > 1 else s[0] for s in scores]
    found = patch_attribution(model, inputs, asked, CANDIDATES)
    assert found.odds.tolist() == pytest.approx(wanted, abs=1e-3)
    assert found.memory.shape == (3, 2, 4, 4) and found.encoder.shape[0] == 3


def test_an_attributed_batch_is_its_photographs_one_by_one(model, inputs, asked):
    with torch.inference_mode():  # as evaluation runs
        together = patch_attribution(model, inputs, asked, CANDIDATES)
    alone = patch_attribution(model, inputs, asked[1:2], CANDIDATES[1:2], rows=[1])
    assert torch.allclose(together.memory[1:2], alone.memory, atol=1e-5)
    assert torch.allclose(together.encoder[1:2], alone.encoder, atol=1e-5)


def test_a_patch_that_becomes_nothing_costs_what_its_attribution_says(model, inputs, asked):
    """To first order: a memory vector made smaller by a thousandth."""
    from mdf.models.attribution import candidate_rows, log_odds

    found = patch_attribution(model, inputs, asked[:1], CANDIDATES[:1], rows=[0])
    with torch.no_grad():
        _, prefix, memory, _ = model.see(inputs["pixel_values"][:1], inputs["unet_pixels"][:1])
        rows, row_of = candidate_rows(model, asked[:1], CANDIDATES[:1])
        layer, patch = divmod(int(found.memory[0].abs().flatten().argmax()), 16)
        less = memory.double().clone()
        less[0, layer, patch] *= 0.99
        change = log_odds(model, rows, row_of, prefix, memory, {}) - log_odds(
            model, rows, row_of, prefix, less.float(), {}
        )
    assert float(change) / 0.01 == pytest.approx(float(found.memory[0, layer].flatten()[patch]), rel=0.05)


def test_pixels_add_up_to_the_change_of_the_log_odds(model, inputs, asked):
    found = pixel_attribution(model, inputs, asked[:2], CANDIDATES[:2], rows=[0, 1], steps=64)
    total = found.unet.sum((1, 2)) + found.encoder.sum((1, 2))
    assert total.tolist() == pytest.approx(found.change.tolist(), rel=0.1, abs=0.02)
    assert found.unet.abs().sum() > 0 and found.encoder.abs().sum() > 0


@pytest.mark.parametrize("kind", ["tokens", "concat"])
def test_patches_that_reach_the_image_tokens_are_attributed_by_pixel(kind, inputs, tmp_path):
    """Without adapters there is no map of the memory; odds and pixels are there all the same."""
    from mdf.models.fusion import MDFModel
    from tests.tiny import tiny_config

    model = MDFModel.build(tiny_config(tmp_path, **{"fusion.kind": kind}), ("normal",), load_bases=False).eval()
    turns = [[model.system_turn(), Turn("user", QUESTIONS[0])]]
    found = patch_attribution(model, inputs, turns, CANDIDATES[:1], rows=[0])
    yes, no = model.score(inputs.select([0]), turns, [["No.", "Yes."]])[0]
    assert found.memory is None and found.encoder is not None
    assert float(found.odds) == pytest.approx(yes - no, abs=1e-3)
    assert pixel_attribution(model, inputs, turns, CANDIDATES[:1], rows=[0], steps=1).encoder.abs().sum() > 0
    with pytest.raises(ValueError, match="no adapters"):
        attention_maps(model, inputs, turns, ["No."], rows=[0])


def test_features_with_gradient_are_the_models_own(model, inputs):
    with torch.no_grad():
        ours, own = (
            f(inputs["pixel_values"], inputs["unet_pixels"]) for f in (lambda *a: features(model, *a), model.features)
        )
    assert torch.allclose(ours.read, own.read, atol=1e-6) and torch.equal(ours.tokens, own.tokens)


def test_nothing_is_left_behind(model, inputs, asked):
    before = {name: (p.grad, p.requires_grad) for name, p in model.named_parameters()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
    trained = next(model.fusion.parameters()).requires_grad_(True)  # even where a weight trains
    model.train()
    try:
        patch_attribution(model, inputs, asked[:1], CANDIDATES[:1], rows=[0])
        pixel_attribution(model, inputs, asked[:1], CANDIDATES[:1], rows=[0], steps=1)
        attention_maps(model, inputs, asked[:1], ANSWERS[:1], rows=[0])
        assert model.training and trained.grad is None
    finally:
        trained.requires_grad_(False)
        model.eval()
    assert {name: (p.grad, p.requires_grad) for name, p in model.named_parameters()} == before
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()]
    assert after == hooks and not any(x.requires_grad for x in inputs.values())


def test_a_blurred_photograph_keeps_its_light_and_loses_its_detail(inputs):
    soft = blurred(inputs)
    field = inputs["field"].expand(-1, 3, -1, -1)
    for name in ("unet_pixels", "pixel_values"):
        assert soft[name].shape == inputs[name].shape and soft[name].dtype == inputs[name].dtype
    was, now = inputs["unet_pixels"], soft["unet_pixels"]
    assert torch.equal(was[~field], now[~field])
    assert abs(float(was[field].mean() - now[field].mean())) < 0.1 * float(was[field].std())
    step = lambda x: float((x[..., 1:] - x[..., :-1])[field[..., 1:] & field[..., :-1]].abs().mean())  # noqa: E731
    assert step(now) < 0.25 * step(was)


def test_a_mixed_photograph_is_one_here_and_the_other_there(inputs):
    other = blurred(inputs)
    left = torch.zeros(3, 64, 64)
    left[:, :, :32] = 1
    half = mixed(inputs, other, left)
    for name in ("unet_pixels", "pixel_values"):
        side = inputs[name].shape[-1]
        a, b = side // 2 - 2, side // 2 + 2  # between them is the seam of a picture of another size
        assert torch.allclose(half[name][..., :a], other[name][..., :a]) and torch.allclose(
            half[name][..., b:], inputs[name][..., b:]
        )


def test_tiles_of_a_square_are_mixed_where_they_lie():
    share = torch.zeros(1, 8, 8)
    share[0, :4, 4:] = 1  # above on the right: the second of four tiles
    four = tiled(share, torch.ones(1, 4), torch.Size([1, 4, 3, 4, 4]))
    assert four.shape == (1, 4, 1, 4, 4) and four.mean((0, 2, 3, 4)).tolist() == [0, 1, 0, 0]
    one = tiled(share, torch.tensor([[1, 0, 0, 0]]), torch.Size([1, 4, 3, 8, 8]))
    assert torch.equal(one[0, 0, 0], share[0]) and one[0, 1:].sum() == 0


def test_a_language_model_with_a_tower_of_its_own(tmp_path):
    """The same maps and odds, no prefix to attribute anything to, and tiles without detail where pixels are taken."""
    from mdf.models.fusion import MDFModel
    from tests.models.fused import open_gates
    from tests.tiny_mllama import TILE, tiny_mllama_config

    model = MDFModel.build(tiny_mllama_config(tmp_path, **{"language.image_size": 2 * TILE}), ("normal",)).eval()
    open_gates(model)
    rng = np.random.default_rng(0)
    inputs = model.processor([rng.integers(60, 255, (80, 80, 3), dtype=np.uint8) for _ in range(2)])
    turns = [[model.system_turn(), Turn("user", question)] for question in QUESTIONS[:2]]
    maps = attention_maps(model, inputs, turns, ANSWERS[:2])
    alone = attention_maps(model, inputs, turns[1:], ANSWERS[1:2], rows=[1])[0]
    assert torch.allclose(maps[1].maps, alone.maps, atol=1e-5)
    scores = model.score(inputs, turns, [list(c) for c in CANDIDATES[:2]])
    wanted = [s[0] - np.logaddexp.reduce(s[1:]) for s in scores]
    found = patch_attribution(model, inputs, turns, CANDIDATES[:2])
    assert found.odds.tolist() == pytest.approx(wanted, abs=1e-3)
    assert found.encoder is None and found.memory.abs().sum() > 0
    assert pixel_attribution(model, inputs, turns, CANDIDATES[:2], steps=1).unet.abs().sum() > 0
    gone = mixed(inputs, blurred(inputs), torch.ones(2, *inputs["unet_pixels"].shape[-2:]))
    assert torch.allclose(gone["tiles"], blurred(inputs)["tiles"], atol=1e-5)
    assert (gone["tiles"] != inputs["tiles"]).any() and np.shape(model.score(gone, turns, [["Yes."]] * 2)) == (2, 1)
