"""The other routes from the U-Net's skips into the language model: on channels, as tokens, and with a prompt's gain."""

from dataclasses import replace

import pytest
import torch

from mdf.batches import FundusDataset, collate
from mdf.config import Config, PartConfig, PartsConfig
from mdf.datasets import load
from mdf.dialogue import Turn
from mdf.errors import UserError
from mdf.losses.text import shift, text_loss
from mdf.models.film import Film
from mdf.models.fusion import MDFModel
from mdf.training.flops import costs
from mdf.training.planner import empty_model, plan
from mdf.training.stages import Task
from tests.tiny import tiny_config

DIAGNOSES = ("normal", "diabetic_retinopathy", "amd", "glaucoma")
KINDS = {
    "concat": {},
    "tokens": {"fusion.token_side": 2},
    "film": {"fusion.film.condition": "prompt", "dialogue.apart": 0.0},
}
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("routes")


def config(home, kind, **changes) -> Config:
    return tiny_config(home, **{"fusion.kind": kind, **KINDS.get(kind, {}), **changes})


def build(home, kind, **changes):
    """A model of that kind and a batch of four phantoms."""
    cfg = config(home, kind, **changes)
    model, manifest = MDFModel.build(cfg, DIAGNOSES), load(cfg.data, cfg.run.seed)
    data = FundusDataset(manifest.split("train")[:4], manifest, model.processor, cfg.dialogue, masks=cfg.unet.masks)
    return model, collate([data[i] for i in range(4)], model.processor)


def open_up(model):
    """Move everything that starts at 0 away from it, so that every part has a say."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def run(model, batch, **kwargs):
    names = ("input_ids", "attention_mask", "pixel_values", "unet_pixels", "prompt_mask")
    return model(**{n: getattr(batch, n) for n in names}, **kwargs)


def photographs(model, count=2):
    torch.manual_seed(2)
    return model.processor([model.processor.decode((torch.rand(80, 80, 3) * 255).byte().numpy()) for _ in range(count)])


def asked(model, *texts):
    return [[model.system_turn(), Turn("user", text)] for text in texts]


@pytest.mark.parametrize("kind", ["concat", "film"])
def test_on_channels_the_model_starts_as_exactly_the_baseline(home, kind):
    changes = {"dialogue.apart": 0.0, "fusion.film.condition": KINDS[kind].get("fusion.film.condition", "image")}
    baseline, batch = build(home, "cross_attention", **{**changes, "fusion.depths": ()})
    fused, _ = build(home, kind)
    with torch.no_grad():
        before, after = run(baseline.eval(), batch).logits, run(fused.eval(), batch).logits
        assert torch.equal(before, after)
        assert not torch.allclose(before, run(open_up(fused), batch).logits)


def test_tokens_of_each_depth_stand_behind_those_of_the_encoder(home):
    baseline, _ = build(home, "cross_attention", **{"fusion.depths": ()})
    model, batch = build(home, "tokens")
    assert baseline.processor.image_tokens == 4
    assert model.processor.image_tokens == 4 + 4 * 2 * 2
    assert (batch.input_ids == model.processor.image_token_id).sum(1).tolist() == [20] * 4
    with torch.no_grad():
        prefix = model.eval().see(batch.pixel_values, batch.unet_pixels)[1]
        plain = baseline.eval().see(batch.pixel_values, batch.unet_pixels)[1]
    assert torch.equal(prefix[:, :4], plain)
    size = prefix.square().mean(-1).sqrt()  # each is as large as a word embedding
    torch.testing.assert_close(size[:, 4:], size[:, :1].expand(-1, 16), rtol=1e-3, atol=1e-4)


@kinds
def test_every_part_gets_a_gradient(home, kind):
    model, batch = build(home, kind)
    open_up(model)
    parts = PartsConfig(PartConfig("full"), PartConfig("full"), PartConfig("full"), PartConfig("lora"))
    model.set_trainable(parts, ("text", "mask"))
    model.train()
    keep, targets = shift(batch.labels)
    out = run(model, batch, keep=keep, want=("text", "masks"))
    (text_loss(out.logits, targets) + out.mask_logits.square().mean()).backward()
    dead = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().any())]
    # with a prompt's gain nothing of the text depends on the encoder's global embedding, only on its tokens
    assert [n for n in dead if not (kind == "film" and n.startswith("encoder."))] == []
    assert any("encoder." in n and p.grad is not None and p.grad.any() for n, p in model.named_parameters())


@kinds
def test_a_batch_says_what_each_photograph_alone_says(home, kind):
    model, _ = build(home, kind)
    open_up(model)
    x = photographs(model)
    turns = asked(model, "What is the diagnosis?", "Are there hard exudates in this photograph, and where?")
    options = [["Normal.", "Glaucoma."], ["Yes.", "No."]]
    scores, answers = model.score(x, turns, options), model.generate_answers(x, turns, max_new_tokens=8)
    for i in range(2):
        assert model.score(x.select([i]), [turns[i]], [options[i]])[0] == pytest.approx(scores[i], abs=1e-4)
        assert model.generate_answers(x.select([i]), [turns[i]], max_new_tokens=8)[0] == answers[i]
    assert model.score(x.blank(), turns, options)[0] != pytest.approx(scores[0], abs=1e-4)
    seen = model.look(x)
    assert ("prefix" in seen) == (kind != "film") and "memory_kv" not in seen
    assert model.score(seen, turns, options) == [pytest.approx(s, abs=1e-4) for s in scores]


@kinds
@pytest.mark.parametrize("beams", [1, 2])
def test_the_photograph_is_read_once_however_long_the_answer_is(home, kind, beams):
    model, _ = build(home, kind)
    count = {"encoder": 0, "unet": 0, "prefix": 0}

    def counted(name):
        return lambda *_: count.update({name: count[name] + 1})

    model.encoder.register_forward_hook(counted("encoder"))
    model.unet.net.encoder.register_forward_hook(counted("unet"))
    model.fusion.prefix.register_forward_hook(counted("prefix"))
    model.generate_answers(photographs(model, 1), asked(model, "Drusen?"), max_new_tokens=6, num_beams=beams)
    assert count == {"encoder": 1, "unet": 1, "prefix": 1}


def test_a_prompt_scales_the_skips_between_nothing_and_twice_and_starts_as_no_change():
    film, skip = Film(8, 16, bounded=True), torch.randn(2, 8, 4, 4)
    assert torch.equal(film(skip, torch.randn(2, 16)), film.norm(skip))
    torch.nn.init.normal_(film.mlp[3].weight, std=50.0)
    gain = film(skip, torch.randn(2, 16)) / film.norm(skip)
    assert gain.min() >= -1e-5 and gain.max() <= 2 + 1e-5 and gain.std() > 0.5


@pytest.mark.parametrize("kind", ["cross_attention", "concat", "tokens", "film"])
def test_what_the_prompt_conditions_follows_the_prompt_alone(home, kind):
    model, batch = build(home, kind, **{"fusion.film.condition": "prompt", "dialogue.apart": 0.0})
    assert model.fusion.uses_prompt and model.fusion.condition.image is None
    open_up(model)
    with torch.no_grad():
        rows = model.see(batch.pixel_values, batch.unet_pixels, torch.randn(4, 64))
        others = model.see(batch.pixel_values, batch.unet_pixels, torch.randn(4, 64))
    read = 2 if kind == "cross_attention" else 1
    assert not torch.allclose(rows[read], others[read])


@kinds
def test_a_checkpoint_says_the_same(home, kind, tmp_path):
    model, batch = build(home, kind)
    open_up(model)
    model.save_pretrained(tmp_path / "saved")
    again = MDFModel.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(run(model, batch).logits, run(again, batch).logits)
    assert again.config.mdf["fusion"]["kind"] == kind


def test_an_export_goes_through_mdf_and_says_so(home, tmp_path):
    from mdf.inference.export import export
    from mdf.inference.model_card import architecture, loading

    model, batch = build(home, "tokens")
    open_up(model).save_pretrained(tmp_path / "saved")
    export(
        tmp_path / "saved",
        tmp_path / "exported",
        dtype=torch.float32,
        card=lambda *given: architecture(*given) + loading(given[0]),
        say=lambda text: None,
    )
    again = MDFModel.from_pretrained(tmp_path / "exported")
    with torch.no_grad():
        torch.testing.assert_close(run(again, batch).logits, run(model, batch).logits, rtol=1e-3, atol=1e-3)
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "as image tokens of their own" in card and "FiLM and prefix (tokens)" in card
    assert "It lacks the prefix of the photograph: it sees no photograph" in card


@kinds
def test_no_gates_and_no_adapters_but_a_line_in_the_table(home, kind):
    from mdf.training.meters import gates
    from mdf.training.optimizer import trainable_table

    cfg = config(home, kind)
    model = MDFModel.build(cfg, DIAGNOSES)
    model.set_trainable(cfg.fuse.parts, ("text",))
    assert gates(model.fusion) == {} and model.fusion.layers == ()
    table = trainable_table(model, cfg, "fuse")
    assert "gates" not in table and f"{kind}: " in table and "depth 4 (stride 16): " in table


@kinds
def test_the_plan_and_the_cost_of_a_step_count_the_route(home, kind):
    cfg, bare = config(home, kind), config(home, "cross_attention", **{"fusion.depths": ()})
    figures = {}
    for name, c in (("fused", cfg), ("baseline", bare)):
        empty = empty_model(c, torch.float32)
        empty.set_trainable(c.fuse.parts, ("text",))
        figures[name] = plan(c, empty, "fuse", "fp32")
    assert figures["fused"].weights["fusion"] > figures["baseline"].weights["fusion"]
    assert figures["fused"].activations["fusion"] > figures["baseline"].activations["fusion"]
    model, batch = build(home, kind)
    model.set_trainable(cfg.fuse.parts, ("text",))
    found = costs(model, Task(cfg, "fuse"), batch)
    plain, other = build(home, "cross_attention", **{"fusion.depths": ()})
    plain.set_trainable(bare.fuse.parts, ("text",))
    assert found.image > costs(plain, Task(bare, "fuse"), other).image


@kinds
def test_features_of_frozen_towers_can_be_kept(home, kind):
    from mdf.training.stages import remember

    model, batch = build(home, kind)
    cfg = config(home, kind)
    stage = replace(cfg.fuse, augment=False, features_gb=1.0)
    task, plain = Task(replace(cfg, fuse=stage), "fuse"), Task(cfg, "fuse")
    open_up(model)
    model.set_trainable(cfg.fuse.parts, ("text",))
    remember(task, model, torch.device("cpu"), 4, lambda text: None)
    with torch.no_grad():
        wanted = plain(model, batch)[0]["text"][0]
        for _ in range(2):
            torch.testing.assert_close(task(model, batch)[0]["text"][0], wanted, rtol=1e-5, atol=1e-5)
    assert task.look is not None


def test_a_photograph_that_does_not_fall_on_the_image_tokens_is_refused(home):
    with pytest.raises(UserError, match=r"unet\.size: 96 is not divisible by 16 \* 4"):
        MDFModel.build(config(home, "concat", **{"unet.size": 96, "language.prefix_side": 4}), DIAGNOSES)


@pytest.mark.parametrize(
    ("gate", "zero", "exact"), [(0.5, True, True), (0.0, False, True), (0.5, False, False)], ids=str
)
def test_adapters_start_closed_by_their_output_by_their_gates_or_not_at_all(home, gate, zero, exact):
    changes = {"fusion.gate_init": gate, "fusion.zero_output": zero}
    model, batch = build(home, "cross_attention", **changes)
    baseline, _ = build(home, "cross_attention", **{"fusion.depths": ()})
    with torch.no_grad():
        same = torch.equal(run(model.eval(), batch).logits, run(baseline.eval(), batch).logits)
    assert same is exact
    assert all(a.attn_gate.item() == a.ffn_gate.item() == gate for a in model.fusion.adapters)


def test_the_deepest_skip_can_be_read_first(home):
    model, _ = build(home, "cross_attention", **{"fusion.depths": (4, 3, 2, 1)})
    lines = [line for line in model.fusion.describe() if line.startswith("adapter")]
    assert [line[-1] for line in lines] == ["4", "3", "2", "1"]
