"""What the whole model promises, on a random model that is small enough to check every tensor."""

from dataclasses import replace

import pytest
import torch

from mdf.batches import FundusDataset, branches, collate
from mdf.config import PartConfig, PartsConfig
from mdf.datasets import load
from mdf.dialogue import Turn
from mdf.losses.text import shift, text_loss
from mdf.models.fusion import MDFModel
from mdf.models.language import bare, checkpoint_layers, decoder
from tests.models.fused import (
    asked,
    assert_same_gradients,
    gradients_of_two_forwards,
    open_gates,
    run,
    without_gradient,
)
from tests.tiny import tiny_config

TRAIN = PartsConfig(PartConfig("full"), PartConfig("full"), PartConfig("full"), PartConfig("lora"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    cfg = tiny_config(tmp_path_factory.mktemp("world"), **{"fusion.film.condition": "image+prompt"})
    manifest = load(cfg.data, cfg.run.seed)
    return cfg, manifest


def build(world):
    cfg, manifest = world
    model = MDFModel.build(cfg, ("normal", "diabetic_retinopathy", "amd", "glaucoma"))
    data = FundusDataset(
        manifest.split("train")[:4], manifest, model.processor, cfg.dialogue, masks=cfg.unet.masks, want_caption=True
    )
    return model, collate([data[i] for i in range(4)], model.processor)


def test_at_step_0_the_model_is_exactly_the_pretrained_language_model(world):
    model, batch = build(world)
    model.eval()
    with torch.no_grad():
        hooked = run(model, batch).logits
        for hook in model.hooks:
            hook.remove()
        _, prefix, _, _ = model.see(batch.pixel_values, batch.unet_pixels, torch.zeros(4, 64))
        embeds = model.embed(batch.input_ids, prefix)
        plain = bare(model.language)(inputs_embeds=embeds, attention_mask=batch.attention_mask).logits
    assert hooked.dtype == plain.dtype
    assert torch.equal(hooked, plain)


def test_open_gates_change_the_answer_and_the_output_keeps_its_dtype(world):
    model, batch = build(world)
    model.eval()
    with torch.no_grad():
        before = run(model, batch).logits
        open_gates(model)
        after = run(model, batch).logits
    assert not torch.allclose(before, after)
    model.language.to(torch.bfloat16)
    with torch.no_grad():
        assert run(model, batch).logits.dtype == torch.bfloat16


def test_no_later_token_reaches_an_earlier_logit_over_two_turns(world):
    model, batch = build(world)
    model.eval()
    open_gates(model)
    two_turns = max(range(4), key=lambda i: int((batch.labels[i] == 2).sum()))
    assert (batch.labels[two_turns] == 2).sum() == 2, "the conversation must hold two answers"
    with torch.no_grad():
        before = run(model, batch).logits[two_turns]
        first_answer = int((~batch.prompt_mask[two_turns]).nonzero()[0])
        for position in range(first_answer, int(batch.attention_mask[two_turns].sum())):
            changed = batch.input_ids.clone()
            changed[two_turns, position] = 7 if changed[two_turns, position] != 7 else 8
            kept, batch.input_ids = batch.input_ids, changed
            after = run(model, batch).logits[two_turns]
            batch.input_ids = kept
            assert torch.equal(before[:position], after[:position])
            assert not torch.equal(before[position], after[position])


def test_the_prompt_conditions_film(world):
    model, batch = build(world)
    model.eval()
    open_gates(model)
    with torch.no_grad():
        before = run(model, batch).memory
        batch.input_ids[:, 4] = 9  # inside the system prompt
        assert not torch.equal(before, run(model, batch).memory)


def test_gradients_are_equal_with_and_without_checkpointing_with_two_forwards_in_flight(world):
    def gradients(checkpointing):
        model, batch = build(world)
        open_gates(model)
        model.set_trainable(TRAIN)
        model.train()
        if checkpointing:
            checkpoint_layers(model.language)
        return gradients_of_two_forwards(model, batch)

    assert_same_gradients(gradients(True), gradients(False))


def test_a_frozen_language_model_is_recomputed_too(world):
    """Gradients go through all of it to adapters and prefix: kept activations are what checkpointing is to save."""

    def gradients(checkpointing):
        model, batch = build(world)
        open_gates(model)
        model.set_trainable(replace(TRAIN, language=PartConfig("frozen")))
        if checkpointing:
            checkpoint_layers(model.language)
        model.train()
        inside = [m for layer in decoder(model.language).layers for m in layer.modules() if m is not layer]
        assert not any(m.training for m in inside)  # its dropout stays off
        passes, adapted = [], []
        decoder(model.language).layers[-1].input_layernorm.register_forward_hook(lambda *_: passes.append(1))
        model.fusion.adapters[-1].register_forward_pre_hook(lambda *_: adapted.append(1))
        found = gradients_of_two_forwards(model, batch)
        assert len(passes) == len(adapted) == (4 if checkpointing else 2)
        return found

    assert_same_gradients(gradients(True), gradients(False))


def test_every_trainable_tensor_gets_a_gradient_once_the_gates_are_open(world):
    model, batch = build(world)
    open_gates(model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # starts at 0, which hides lora_A
    model.set_trainable(TRAIN)
    model.train()
    keep, targets = shift(batch.labels)
    out = run(model, batch, keep=keep, caption_ids=batch.caption_ids, want=("text", "contrastive", "masks"))
    loss = text_loss(out.logits, targets) + out.mask_logits.square().mean()
    loss = loss + (out.logit_scale * out.image_embeds @ out.text_embeds.T).diag().sum()
    loss.backward()
    assert without_gradient(model) == []


def test_the_gradient_of_a_batch_is_the_sum_over_its_rows_with_open_gates(world):
    """What accumulation rests on: each loss is a sum, divided by what the whole step counts.

    The U-Net is left out: in float64 its gradients agree to 1e-14, in float32 a rounding error can carry a ReLU6 of a
    large black surround over its kink.
    """
    from mdf.batches import collate as join
    from mdf.training.stages import Task

    cfg, manifest = world
    model, batch = build(world)
    open_gates(model)
    task = Task(cfg, "fuse")
    model.set_trainable(cfg.fuse.parts, ("text",))
    model.train()
    totals = task.counts(batch)
    data = FundusDataset(manifest.split("train")[:4], manifest, model.processor, cfg.dialogue, masks=cfg.unet.masks)
    rows = [join([data[i]], model.processor) for i in range(4)]

    def gradients(batches):
        model.zero_grad()
        for part in batches:
            task.total(task(model, part)[0], totals, 1).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    whole, summed = gradients([join([data[i] for i in range(4)], model.processor)]), gradients(rows)
    assert whole.keys() == summed.keys()
    assert any("adapters" in name and grad.abs().sum() > 0 for name, grad in whole.items())
    for name, grad in whole.items():
        assert (grad - summed[name]).norm() <= 1e-5 * grad.norm() + 1e-9, name


def test_frozen_parts_stay_in_eval_mode(world):
    model, _ = build(world)
    model.set_trainable(PartsConfig(fusion=PartConfig("full")))
    model.train()
    assert model.fusion.training
    assert not any(m.training for part in (model.encoder, model.unet, model.language) for m in part.modules())


def test_batchnorm_never_uses_the_batch(world):
    model, batch = build(world)
    model.set_trainable(TRAIN)
    model.train()
    together = model.unet(batch.unet_pixels)
    alone = torch.cat([model.unet(batch.unet_pixels[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_the_trainable_names_are_exactly_those_of_the_part(world, mode):
    model, _ = build(world)
    for part in ("encoder", "unet", "fusion"):
        model.set_trainable(PartsConfig(**{part: PartConfig(mode)}))
        trains = {n for n, p in model.named_parameters() if p.requires_grad}
        assert trains == (
            {n for n, _ in model.named_parameters() if n.startswith(part + ".")} if mode == "full" else set()
        )
    model.set_trainable(PartsConfig(language=PartConfig("lora")))
    trains = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trains and all(n.startswith("language.") and "lora_" in n for n in trains)


def test_without_a_mask_loss_the_unet_decoder_stays_and_the_checkpoint_says_so(world):
    model, _ = build(world)
    model.set_trainable(TRAIN, losses=("text",))
    assert not any(p.requires_grad for p in model.unet.net.decoder.parameters())
    assert model.config.stale_masks
    model.set_trainable(TRAIN, losses=("text", "mask"))
    assert not model.config.stale_masks


@pytest.mark.parametrize("beams", [1, 3])
def test_batched_generation_equals_single(world, beams):
    model, _ = build(world)
    model.eval()
    open_gates(model)
    x = model.processor([model.processor.decode((torch.rand(80, 80, 3) * 255).byte().numpy()) for _ in range(2)])
    talks = asked(
        model, "What is the diagnosis?", "Are there hard exudates in this photograph, and where do you see them?"
    )
    together = model.generate_answers(x, talks, max_new_tokens=12, num_beams=beams)
    alone = [model.generate_answers(x.select([i]), [talks[i]], max_new_tokens=12, num_beams=beams)[0] for i in range(2)]
    assert together == alone


def test_generation_with_and_without_a_cache_is_the_same(world):
    model, batch = build(world)
    model.eval()
    open_gates(model)
    row = {n: getattr(batch, n)[:1] for n in ("pixel_values", "unet_pixels")}
    length = int((~batch.prompt_mask[0]).nonzero()[0])
    row |= {n: getattr(batch, n)[:1, :length] for n in ("input_ids", "attention_mask", "prompt_mask")}
    tokens = [model.generate(**row, max_new_tokens=8, do_sample=False, use_cache=cache) for cache in (True, False)]
    assert torch.equal(*tokens)


def reads_the_photograph_only(model):
    """FiLM's condition without the prompt: one memory serves all questions about a photograph."""
    model.fusion.uses_prompt = False
    model.fusion.condition.prompt = None


@pytest.mark.parametrize("condition", ["image", "image+prompt"])
def test_candidates_scored_from_a_repeated_prefix_equal_candidates_scored_alone(world, condition):
    model, _ = build(world)
    if condition == "image":
        reads_the_photograph_only(model)
    model.eval()
    open_gates(model)
    x = model.processor([model.processor.decode((torch.rand(80, 80, 3) * 255).byte().numpy()) for _ in range(3)])
    talks = asked(model, "What is the diagnosis?", "Are there any drusen that you see?", "What do you see?")
    options = [["Normal.", "Glaucoma, and some more words."], ["Yes.", "No.", "In which quadrant?"], ["A disc."]]
    rows = [2, 0, 2]
    scores = model.score(x, talks, options, rows=rows)
    assert model.score(model.look(x), talks, options, rows=rows) == [pytest.approx(s, abs=1e-4) for s in scores]
    for i, row in enumerate(rows):
        for option, value in zip(options[i], scores[i], strict=True):
            whole = model.processor.encode([*talks[i], Turn("assistant", option)])
            ids, labels = torch.tensor([whole.input_ids]), torch.tensor([whole.labels])
            keep, targets = shift(labels)
            with torch.no_grad():
                out = model(
                    ids, torch.ones_like(ids), x["pixel_values"][row : row + 1], x["unet_pixels"][row : row + 1],
                    torch.tensor([whole.prompt_mask]), keep=keep,
                )  # fmt: skip
            assert value == pytest.approx(-float(text_loss(out.logits, targets)), abs=1e-3)


def two_photographs(world):
    """A model whose photographs alone are read, its gates open, and two photographs of noise."""
    model, _ = build(world)
    reads_the_photograph_only(model)
    model.eval()
    open_gates(model)
    return model, model.processor(
        [model.processor.decode((torch.rand(80, 80, 3) * 255).byte().numpy()) for _ in range(2)]
    )


def test_conversations_that_differ_before_the_photograph_are_scored_as_alone(world):
    model, x = two_photographs(world)
    talks = [*asked(model, "What is the diagnosis?"), [Turn("system", "Be brief."), Turn("user", "Drusen?")]]
    options = [["Normal.", "Glaucoma."], ["Yes.", "No."]]
    alone = [model.score(x.select([i]), [talks[i]], [options[i]])[0] for i in range(2)]
    assert model.score(x, talks, options) == [pytest.approx(s, abs=1e-4) for s in alone]
    assert model.score(x.blank(), talks, options)[1] != alone[1]


def test_a_photograph_is_seen_once_for_all_questions_about_it(world):
    model, x = two_photographs(world)
    talks = asked(model, "What is the diagnosis?", "Are there drusen?")
    seen = model.look(x)
    assert model.generate_answers(seen, talks, max_new_tokens=8) == model.generate_answers(x, talks, max_new_tokens=8)
    assert set(seen.blank()) == set(x), "a blank photograph keeps nothing of what was seen"
    passes = []
    model.encoder.register_forward_hook(lambda *_: passes.append(1))
    model.generate_answers(seen, talks, max_new_tokens=8)
    model.score(seen, talks, [["Yes.", "No."]] * 2)
    assert not passes


def test_a_hook_that_does_not_run_is_an_error(world):
    model, batch = build(world)
    model.hooks[model.fusion.layers[0]].remove()
    with pytest.raises(RuntimeError, match="hooks are not in place"):
        run(model, batch)


def test_the_baseline_has_no_adapters_and_answers(world):
    cfg, _ = world
    from dataclasses import replace

    base = MDFModel.build(replace(cfg, fusion=replace(cfg.fusion, depths=())), ("normal",)).eval()
    assert len(base.fusion.adapters) == 0
    image = (torch.rand(80, 80, 3) * 255).byte().numpy()
    assert isinstance(base.ask(image, "What is the diagnosis?", max_new_tokens=3), str)


def test_question_text_that_holds_the_placeholder_is_refused(world):
    model, _ = build(world)
    with pytest.raises(ValueError, match="stands for the photograph"):
        model.ask((torch.rand(80, 80, 3) * 255).byte().numpy(), "what is <filename>?")


def test_questions_that_stand_apart_are_answered_as_if_each_were_the_only_one(world):
    manifest = world[1]
    model, _ = build(world)
    reads_the_photograph_only(model)
    model.eval()
    open_gates(model)
    record = next(r for r in manifest.records if r.findings)
    talk = [model.system_turn()]
    for text, answer in (("Are there drusen?", "No."), ("What is the diagnosis?", "Glaucoma."), ("Left?", "Yes.")):
        talk += [Turn("user", text), Turn("assistant", answer)]
    apart = model.processor.encode_apart(talk)
    pixels = {k: v for k, v in model.processor(manifest.path(record.image)).items() if k != "field"}
    ids, branch = torch.tensor([apart.input_ids]), torch.tensor([apart.branch])
    sees, positions = branches(branch, torch.ones_like(ids))
    with torch.no_grad():
        together = model(input_ids=ids, attention_mask=sees, position_ids=positions, **pixels).logits[0]
        for number in (1, 2, 3):
            alone = model.processor.encode([talk[0], *talk[2 * number - 1 : 2 * number + 1]])
            mine = torch.tensor([n in (0, number) for n in apart.branch])
            assert ids[0, mine].tolist() == alone.input_ids
            assert torch.tensor(apart.labels)[mine].tolist() == alone.labels
            one = torch.tensor([alone.input_ids])
            single = model(input_ids=one, attention_mask=torch.ones_like(one), **pixels).logits[0]
            torch.testing.assert_close(together[mine], single, rtol=1e-4, atol=1e-5)
