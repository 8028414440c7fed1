"""Llama 3.2 Vision's files: what does not fit is refused, and a checkpoint comes back as it was."""

import json
from dataclasses import replace

import pytest
import torch

from mdf.config import PartConfig
from mdf.errors import UserError
from mdf.models.fusion import MDFModel
from tests.models.fused import asked, open_gates, run
from tests.models.vision import DIAGNOSES, build, pictures, stock
from tests.tiny_mllama import tiny_llama3, tiny_mllama


def test_rows_with_and_without_a_photograph_are_refused_and_text_alone_is_read_by_the_baseline(vision):
    cfg, _ = vision
    model, batch = build(vision, fusion=replace(cfg.fusion, depths=()))
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
def test_a_tokenizer_of_another_model_is_refused(vision, tmp_path, change, said):
    import shutil

    from transformers import AutoTokenizer

    cfg, _ = vision
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
def test_weights_that_do_not_fit_their_configuration_are_refused(vision, tmp_path, change, said):
    import shutil

    from safetensors.torch import load_file, save_file

    cfg, _ = vision
    folder = tmp_path / "mllama"
    shutil.copytree(cfg.language.model, folder)
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=said):
        MDFModel.build(replace(cfg, language=replace(cfg.language, model=str(folder))), DIAGNOSES)


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_checkpoint_comes_back_as_it_was_and_only_on_its_own_base(vision, tmp_path, mode):
    cfg, _ = vision
    cfg = replace(cfg, fuse=replace(cfg.fuse, parts=replace(cfg.fuse.parts, language=PartConfig(mode, 1e-3))))
    model, batch = MDFModel.build(cfg, DIAGNOSES), build(vision)[1]
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
    model, _ = opened
    model.save_pretrained(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "tokenizer" / "tokenizer_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "eos_token": "<|eom_id|>"}))
    with pytest.raises(UserError, match=r"eos was \['<\|eot_id\|>', \d+\], is \['<\|eom_id\|>', \d+\]"):
        MDFModel.from_pretrained(tmp_path / "checkpoint")


def test_a_checkpoint_whose_image_processor_was_changed_is_refused(opened, tmp_path):
    model, _ = opened
    model.save_pretrained(tmp_path / "checkpoint")
    MDFModel.from_pretrained(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "image_processor" / "preprocessor_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "image_mean": [0.5, 0.5, 0.5]}))
    with pytest.raises(UserError, match="image_processor is not what the checkpoint was trained with"):
        MDFModel.from_pretrained(tmp_path / "checkpoint")
    kept = tmp_path / "checkpoint" / "preprocessing.json"  # as it was written before
    kept.write_text(json.dumps({k: v for k, v in json.loads(kept.read_text()).items() if k != "image_processor"}))
    MDFModel.from_pretrained(tmp_path / "checkpoint")
