"""A language model in 4 or 8 bits: what is quantised and what is not, that LoRA over it trains, and its checkpoints."""

import importlib.util
import json
import shutil
import warnings

import pytest
import torch
from torch import nn

from mdf.batches import FundusDataset, collate
from mdf.config import LanguageConfig, PartConfig, PartsConfig
from mdf.datasets import load
from mdf.dialogue import Turn
from mdf.errors import UserError
from mdf.losses.text import shift, text_loss
from mdf.models.checkpoint import fingerprint, own_tensors
from mdf.models.fusion import MDFModel
from mdf.models.language import bare, load_language
from mdf.models.quantization import count, layers, options, settle
from tests.tiny import tiny_config, tiny_language

pytest.importorskip("bitsandbytes", reason="bitsandbytes has no wheel for this system")

DIAGNOSES = ("normal", "diabetic_retinopathy", "amd", "glaucoma")
FEW = ("nf4", "int8")
LINEAR = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
TRAIN = PartsConfig(fusion=PartConfig("full"), language=PartConfig("lora"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def batches(world):
    """batches(model) -> a batch of four photographs with conversations."""
    cfg = tiny_config(world)
    manifest = load(cfg.data, cfg.run.seed)

    def make(model):
        data = FundusDataset(
            manifest.split("train")[:4],
            manifest,
            model.processor,
            cfg.dialogue,
            masks=cfg.unet.masks,
            want_caption=True,
        )
        return collate([data[i] for i in range(4)], model.processor)

    return make


def build(world, quantize, dtype=torch.float32, **settings):
    return MDFModel.build(tiny_config(world, **{"language.quantize": quantize, **settings}), DIAGNOSES, dtype=dtype)


def run(model, batch, **kwargs):
    names = ("input_ids", "attention_mask", "pixel_values", "unet_pixels", "prompt_mask")
    return model(**{n: getattr(batch, n) for n in names}, **kwargs)


def loss_of(model, batch):
    keep, labels = shift(batch.labels)
    return text_loss(run(model, batch, keep=keep).logits, labels)


def learn(model):
    """LoRA and adapters away from where they start."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or (name.startswith("fusion.adapters.") and name.endswith((".o.weight", "2.weight"))):
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def decoder(depth, prefix="model", crossed=()):
    """Names of the linear layers of a decoder; those of `crossed` read images."""
    return {
        f"{prefix}.layers.{k}.{name.replace('self_attn', 'cross_attn') if k in crossed else name}"
        for k in range(depth)
        for name in LINEAR
    }


class TestWhatIsQuantised:
    @pytest.mark.parametrize("quantize", FEW)
    def test_the_decoder_of_a_text_model_and_nothing_else(self, world, quantize):
        cfg = LanguageConfig(model=str(tiny_language(world / "language")), quantize=quantize)
        model, _ = load_language(cfg, torch.bfloat16)
        assert set(layers(model)) == decoder(4)
        kept = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
        assert {n for n in kept if "norm" not in n} == {"model.embed_tokens.weight"}  # the tied output head with it
        assert {p.dtype for p in kept.values()} == {torch.bfloat16} and type(model.lm_head) is nn.Linear
        inside = [p.element_size() * p.numel() for p in model.parameters() if not p.is_floating_point()]
        assert sum(map(count, model.parameters())) == sum(
            p.numel() for p in load_language(base_of(world))[0].parameters()
        )
        assert sum(inside) == (64 * 64 * 2 + 2 * 32 * 64 + 3 * 64 * 128) * 4 * {"nf4": 0.5, "int8": 1}[quantize]

    @pytest.mark.parametrize("quantize", FEW)
    def test_the_decoder_of_llama_vision_without_its_tower_projector_and_head(self, tiny_mllama, quantize):
        from transformers import MllamaForConditionalGeneration

        given = options(quantize, tiny_mllama, torch.bfloat16)
        model = settle(MllamaForConditionalGeneration.from_pretrained(tiny_mllama, dtype=torch.bfloat16, **given))
        assert set(layers(model)) == decoder(4, "model.language_model", crossed=(1, 3))
        plain = {n for n, m in model.named_modules() if type(m) is nn.Linear}
        assert {"lm_head", "model.multi_modal_projector"} < plain
        assert all("vision_model" in n for n in plain - {"lm_head", "model.multi_modal_projector"})

    def test_a_tower_that_slipped_through_is_an_error(self, tiny_mllama):
        from transformers import MllamaForConditionalGeneration

        given = options("nf4", tiny_mllama, torch.bfloat16)
        given["quantization_config"].llm_int8_skip_modules = ["lm_head", "vision_model"]  # as one would write it
        model = MllamaForConditionalGeneration.from_pretrained(tiny_mllama, dtype=torch.bfloat16, **given)
        with pytest.raises(RuntimeError, match="that should not be"):
            settle(model)


@pytest.fixture(scope="module")
def tiny_mllama(world):
    """A random Llama Vision of four layers, two of which read images, written as its authors name the tensors."""
    from transformers import MllamaConfig, MllamaForConditionalGeneration

    text = {
        "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "cross_attention_layers": [1, 3], "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1,
        "attention_heads": 2, "image_size": 28, "patch_size": 14, "vision_output_dim": 96,
        "intermediate_layers_indices": [0, 1], "max_num_tiles": 2, "supported_aspect_ratios": [[1, 1], [1, 2]],
    }  # fmt: skip
    torch.manual_seed(0)
    config = MllamaConfig(vision_config=vision, text_config=text, image_token_index=63)
    MllamaForConditionalGeneration(config).save_pretrained(world / "mllama")
    return world / "mllama"


class TestLoRA:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("quantize", FEW)
    def test_at_step_0_the_model_is_exactly_the_quantised_one(self, world, batches, quantize, dtype):
        model = build(world, quantize, dtype).eval()
        alone, _ = load_language(tiny_config(world, **{"language.quantize": quantize}).language, dtype)
        batch = batches(model)
        with torch.no_grad():
            ours = run(model, batch).logits
            _, prefix, _, _ = model.see(batch.pixel_values, batch.unet_pixels)
            embeds = model.embed(batch.input_ids, prefix)
            plain = alone(inputs_embeds=embeds, attention_mask=batch.attention_mask).logits
        assert ours.dtype == plain.dtype == dtype and torch.equal(ours, plain)

    @pytest.mark.parametrize("quantize", FEW)
    def test_lora_trains_in_float32_and_every_tensor_of_it_gets_a_gradient(self, world, batches, quantize):
        model = learn(build(world, quantize, torch.bfloat16))
        model.set_trainable(TRAIN, ("text",))
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        assert sum("lora_" in n for n in trained) == 2 * 7 * 4
        assert {p.dtype for p in trained.values()} == {torch.float32}
        with torch.autocast("cpu", torch.bfloat16):
            loss_of(model.train(), batches(model)).backward()
        assert [n for n, p in trained.items() if p.grad is None or ("lora_" in n and not p.grad.any())] == []
        assert all(p.grad is None for n, p in model.named_parameters() if n not in trained)

    def test_what_is_differentiated_is_what_is_computed(self, world, batches):
        """The directional derivative of the loss beside its difference; weights of 4 bits are constants in both."""
        model = learn(build(world, "nf4")).train()
        model.set_trainable(TRAIN, ("text",))
        batch = batches(model)
        lora = [p for n, p in model.named_parameters() if "lora_B" in n]
        loss_of(model, batch).backward()
        torch.manual_seed(2)
        ways = [torch.randn_like(p) for p in lora]
        slope, step = sum(float((p.grad * way).sum()) for p, way in zip(lora, ways, strict=True)), 1e-3
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, way in zip(lora, ways, strict=True):
                    p.add_(sign * step * way)
                ends.append(float(loss_of(model, batch)))
                for p, way in zip(lora, ways, strict=True):
                    p.sub_(sign * step * way)
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=0.02)

    def test_gradients_are_the_same_before_and_after_an_evaluation(self, world, batches):
        """bitsandbytes would repack the weights in it, on processors with AVX512-BF16."""
        model = learn(build(world, "nf4", torch.bfloat16))
        model.set_trainable(TRAIN, ("text",))
        batch, found = batches(model), []
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                loss_of(model.train(), batch).backward()
            found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})
            model.zero_grad()
            with torch.no_grad():
                run(model.eval(), batch)
        assert all(torch.equal(gradient, found[1][n]) for n, gradient in found[0].items())

    def test_gradients_are_the_same_with_checkpointing(self, world, batches):
        found = []
        for checkpointing in (False, True):
            model = learn(build(world, "nf4", **{"language.gradient_checkpointing": checkpointing})).train()
            model.set_trainable(TRAIN, ("text",))
            loss_of(model, batches(model)).backward()
            found.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
        assert all(torch.allclose(gradient, found[1][n], atol=1e-6) for n, gradient in found[0].items())

    @pytest.mark.parametrize("autocast", [False, True])
    def test_text_is_generated_with_and_without_autocast(self, world, batches, autocast):
        """One boundary between the types: adapters take hidden states to their own, and give them back."""
        model = learn(build(world, "nf4", torch.bfloat16)).eval()
        batch = batches(model)
        inputs = {n: getattr(batch, n)[:1] for n in ("pixel_values", "unet_pixels")}
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            ids = model.generate(batch.input_ids[:1, :40], max_new_tokens=3, do_sample=False, **inputs)
        assert ids.shape[0] == 1


@pytest.fixture(scope="module")
def model(world):
    return learn(build(world, "nf4")).eval()


@pytest.fixture(scope="module")
def saved(model, world):
    model.save_pretrained(world / "saved")
    return world / "saved"


class TestCheckpoint:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("quantize", FEW)
    def test_the_fingerprint_is_that_of_the_base_however_it_is_loaded(self, world, quantize, dtype):
        cfg = tiny_config(world).language
        whole, _ = load_language(cfg)
        few = build(world, quantize, dtype)
        assert fingerprint(few.language) == fingerprint(whole)

    def test_so_is_that_of_llama_vision(self, tiny_mllama):
        from transformers import MllamaForConditionalGeneration

        given = options("nf4", tiny_mllama, torch.bfloat16)
        few = MllamaForConditionalGeneration.from_pretrained(tiny_mllama, dtype=torch.bfloat16, **given)
        assert fingerprint(few) == fingerprint(MllamaForConditionalGeneration.from_pretrained(tiny_mllama))

    @pytest.mark.parametrize("quantize", FEW)
    def test_what_is_read_is_what_was_written(self, world, batches, tmp_path, quantize):
        model = learn(build(world, quantize)).eval()
        model.save_pretrained(tmp_path / "saved")
        base = json.loads((tmp_path / "saved" / "bases.json").read_text())["language"]
        assert base["quantize"] == quantize and base["fingerprint"] == fingerprint(load_language(base_of(world))[0])
        read = MDFModel.from_pretrained(tmp_path / "saved")
        wanted, got = model.state_dict(), read.state_dict()
        assert wanted.keys() == got.keys() and all(torch.equal(wanted[n], got[n]) for n in wanted)
        batch = batches(model)
        with torch.no_grad():
            assert torch.equal(run(model, batch).logits, run(read, batch).logits)
        talk, options_ = [[model.system_turn(), Turn("user", "What is the diagnosis?")]], [["Normal.", "Glaucoma."]]
        seen = read.processor(str(next((world / "phantoms").rglob("*.png"))))
        assert model.score(seen, talk, options_) == read.score(seen, talk, options_)

    def test_nothing_of_the_base_is_in_it(self, model):
        assert {name.split(".")[0] for name in own_tensors(model)} == {"encoder", "unet", "fusion"}

    def test_another_number_of_bits_is_loaded_only_when_asked_and_said(self, model, saved, batches):
        with pytest.warns(UserWarning, match=r"trained with language\.quantize nf4 and is loaded with none, as asked"):
            whole = MDFModel.from_pretrained(saved, quantize="none")
        assert not layers(whole.language) and whole.config.mdf["language"]["quantize"] == "none"
        batch = batches(model)
        with torch.no_grad():
            near, far = run(model, batch).logits, run(whole, batch).logits
        assert not torch.equal(near, far) and (near - far).abs().mean() < 0.25 * far.std()
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert len(layers(MDFModel.from_pretrained(saved, quantize="nf4").language)) == 28
        with pytest.raises(UserError, match="must be one of none, nf4, int8"):
            MDFModel.from_pretrained(saved, quantize="fp4")

    def test_a_configuration_that_was_edited_to_another_number_of_bits_is_refused(self, saved, tmp_path):
        folder = shutil.copytree(saved, tmp_path / "copy")
        config = json.loads((folder / "config.json").read_text())
        config["mdf"]["language"]["quantize"] = "none"
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=r"config\.json says language\.quantize none.*trained under nf4"):
            MDFModel.from_pretrained(folder)

    def test_another_base_is_refused(self, saved, world, tmp_path):
        from safetensors.torch import load_file, save_file

        folder, other = shutil.copytree(saved, tmp_path / "copy"), shutil.copytree(world / "language", tmp_path / "lm")
        weights = load_file(other / "model.safetensors")
        weights["model.layers.2.mlp.up_proj.weight"] += 0.01  # of a layer that is quantised
        save_file(weights, other / "model.safetensors", {"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        config["mdf"]["language"]["model"] = str(other)
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match="is not the one this checkpoint was trained on"):
            MDFModel.from_pretrained(folder)

    def test_a_language_model_trained_in_full_has_no_base_to_quantise(self, world, tmp_path):
        model = MDFModel.build(tiny_config(world, **{"fuse.parts.language.mode": "full"}), DIAGNOSES)
        model.set_trainable(PartsConfig(language=PartConfig("full")))
        model.save_pretrained(tmp_path / "full")
        with pytest.raises(UserError, match="trained in full"):
            MDFModel.from_pretrained(tmp_path / "full", quantize="nf4")

    def test_lora_that_does_not_reach_the_layers_is_refused(self, saved, monkeypatch):
        """A layer that reads back what was loaded but answers as the base: B is zero where it was learnt."""
        import peft

        fill = peft.set_peft_model_state_dict

        def and_lose_one(model, lora, **kwargs):
            fill(model, {n: t * 0 if "layers.1.mlp.up_proj.lora_B" in n else t for n, t in lora.items()}, **kwargs)

        monkeypatch.setattr(peft, "set_peft_model_state_dict", and_lose_one)
        with pytest.raises(UserError, match="LoRA"):
            MDFModel.from_pretrained(saved)

    def test_weights_that_are_quantised_in_the_files_are_refused(self, world, tmp_path):
        folder = shutil.copytree(tiny_language(world / "language"), tmp_path / "few")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"load_in_4bit": True}}))
        for quantize in ("none", "nf4"):
            with pytest.raises(UserError, match=r"quantised already.*name the original model"):
                load_language(LanguageConfig(model=str(folder), quantize=quantize))

    def test_without_bitsandbytes_nothing_is_loaded(self, saved, monkeypatch):
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "bitsandbytes" else find(n, *a))
        with pytest.raises(UserError, match=r"language\.quantize: nf4 needs bitsandbytes.*pip install bitsandbytes"):
            MDFModel.from_pretrained(saved)


def base_of(world):
    return tiny_config(world).language


def test_the_bundled_chat_model_answers_alike_in_4_bits():
    """SmolLM2, the only one here that has learnt something: quantised it predicts what it did before."""
    text = "The optic disc is the place where the optic nerve leaves the"
    logits = []
    for quantize in ("none", "nf4"):
        model, tokenizer = load_language(LanguageConfig(quantize=quantize), torch.bfloat16)
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            logits.append(bare(model)(input_ids=ids).logits[0].float())
    assert set(layers(model)) == decoder(30)
    agree = torch.nn.functional.cosine_similarity(*logits, dim=-1)
    assert agree.median() > 0.95, agree
    assert tokenizer.decode(logits[1][-1].argmax()).strip() == "eye"
