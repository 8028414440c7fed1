"""What is the same for all tokens of an answer is computed once an answer."""

import pytest
import torch

from mdf.models.fusion import MDFModel
from tests.tiny import tiny_config


@pytest.mark.parametrize("beams", [1, 2])
def test_photograph_and_memory_are_read_once_however_long_the_answer_is(tmp_path, beams):
    model = MDFModel.build(tiny_config(tmp_path), ("normal", "amd")).eval()
    count = {"encoder": 0, "unet": 0, "prefix": 0, "keys and values": 0, "adapters": 0}

    def counted(name):
        def hook(*_):
            count[name] += 1

        return hook

    model.encoder.register_forward_hook(counted("encoder"))
    model.unet.net.encoder.register_forward_hook(counted("unet"))
    model.fusion.prefix.register_forward_hook(counted("prefix"))
    model.fusion.adapters[0].k.register_forward_hook(counted("keys and values"))
    model.fusion.adapters[0].register_forward_hook(counted("adapters"))
    ids = torch.tensor([[1, *[model.processor.image_token_id] * model.processor.image_tokens, 9, 10, 11]])
    side = model.processor.preprocessing.encoder_size
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=torch.randn(1, 3, side, side),
        unet_pixels=torch.randn(1, 3, 64, 64),
        min_new_tokens=6,
        max_new_tokens=6,
        num_beams=beams,
        do_sample=False,
    )
    assert out.shape[1] == ids.shape[1] + 6
    assert count == {"encoder": 1, "unet": 1, "prefix": 1, "keys and values": 1, "adapters": 6}


def test_a_static_cache_gives_the_same_answer(tmp_path):
    model = MDFModel.build(tiny_config(tmp_path), ("normal",)).eval()
    for name, parameter in model.named_parameters():
        if name.startswith("fusion.adapters.") and name.endswith((".o.weight", ".ffn.2.weight")):
            torch.nn.init.normal_(parameter, std=0.5)
    ids = torch.tensor([[1, *[model.processor.image_token_id] * model.processor.image_tokens, 9, 10, 11]])
    side = model.processor.preprocessing.encoder_size
    given = {"attention_mask": torch.ones_like(ids), "min_new_tokens": 8, "max_new_tokens": 8, "do_sample": False,
             "pixel_values": torch.randn(1, 3, side, side), "unet_pixels": torch.randn(1, 3, 64, 64)}  # fmt: skip
    assert torch.equal(model.generate(ids, **given), model.generate(ids, **given, cache_implementation="static"))


def test_attention_that_is_not_named_is_the_fastest_one_of_the_device():
    from mdf.config import LanguageConfig
    from mdf.models.language import attention

    gpu = torch.cuda.is_available()
    assert attention(LanguageConfig(), torch.bfloat16) == ("sdpa" if gpu else "eager")
    assert attention(LanguageConfig(), torch.float32) == "sdpa"
    assert attention(LanguageConfig(attention="sdpa"), torch.bfloat16) == "sdpa"


def test_adapters_in_bf16_beside_a_language_model_in_bf16_say_the_same_but_for_rounding(tmp_path):
    model = MDFModel.build(tiny_config(tmp_path), ("normal", "amd"), dtype=torch.bfloat16).eval()
    for name, parameter in model.named_parameters():
        if name.startswith("fusion.adapters.") and name.endswith((".o.weight", ".ffn.2.weight")):
            torch.nn.init.normal_(parameter, std=0.1)  # they start at 0, so that nothing is read
    ids, memory = torch.arange(4, 20)[None], torch.randn(1, 4, 16, 64)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    @torch.no_grad()
    def said(memory):
        return model(**given, memory_kv=model.fusion.memory_kv(memory)).logits.float()

    whole, other = said(memory), said(-memory)
    model.fusion.lighten(torch.bfloat16)
    light = said(memory)
    assert model.fusion.memory_kv(memory).dtype == torch.bfloat16
    assert model.fusion.adapters[0].attn_gate.dtype == model.fusion.adapters[0].attn_norm.weight.dtype == torch.float32
    assert (light - whole).abs().max() < 0.1 * (whole - other).abs().max()
