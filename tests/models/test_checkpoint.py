"""A checkpoint is read back as it was written, or nothing of it is loaded and one message says why."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mdf.config import PartConfig, PartsConfig
from mdf.dialogue import Turn
from mdf.errors import UserError
from mdf.imaging.phantom import draw
from mdf.models.checkpoint import own_tensors
from mdf.models.fusion import MDFConfig, MDFModel
from tests.scripts import start
from tests.tiny import tiny_config, tiny_language

DIAGNOSES = ("normal", "diabetic_retinopathy", "amd", "glaucoma")
QUESTION = "What is the diagnosis?"


def disturb(model):
    """Every trainable tensor away from where it starts, gates and LoRA included: nothing may be right by luck."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 if name.endswith("gate") else 0.02 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.startswith("unet.") and buffer.is_floating_point():
                buffer.add_(0.01)  # a BatchNorm's statistics
    return model.eval()


def all_full(language="lora"):
    return PartsConfig(PartConfig("full"), PartConfig("full"), PartConfig("full"), PartConfig(language))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def photograph(world):
    Image.fromarray(draw(3, 96).image).save(world / "eye.png")
    return world / "eye.png"


@pytest.fixture(scope="module")
def model(world):
    made = MDFModel.build(tiny_config(world), DIAGNOSES)
    made.set_trainable(all_full())
    return disturb(made)


@pytest.fixture(scope="module")
def saved(model, world):
    model.save_pretrained(world / "saved")
    return world / "saved"


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def refusal(folder):
    with pytest.raises(UserError) as caught:
        MDFModel.from_pretrained(folder)
    return str(caught.value)


def change(path, **tensors):
    """Tensors of a safetensors file replaced, added, or (None) removed."""
    save_file({n: t for n, t in {**load_file(path), **tensors}.items() if t is not None}, path)


def assert_equal_models(a, b, photograph):
    wanted, got = a.state_dict(), b.state_dict()
    assert wanted.keys() == got.keys()
    different = [n for n in wanted if wanted[n].dtype != got[n].dtype or not torch.equal(wanted[n], got[n])]
    assert different == []
    x, y = a.processor(photograph), b.processor(photograph)
    assert torch.equal(a.embed_image(x), b.embed_image(y)) and torch.equal(a.segment(x), b.segment(y))
    assert torch.equal(a.embed_text(["drusen"]), b.embed_text(["drusen"]))
    assert a.ask(photograph, QUESTION, max_new_tokens=8) == b.ask(photograph, QUESTION, max_new_tokens=8)
    talk, options = [[a.system_turn(), Turn("user", QUESTION)]], [["Normal.", "Glaucoma."]]
    assert a.score(x, talk, options) == b.score(y, talk, options)


class TestRoundTrip:
    def test_equal_tensors_and_equal_answers(self, model, saved, photograph):
        read = MDFModel.from_pretrained(saved)
        assert_equal_models(model, read, photograph)
        assert not read.training and read.config.masks == ["vessel", "disc"] and read.processor.diagnoses == DIAGNOSES

    def test_the_folder_holds_what_the_design_names(self, saved):
        names = {str(p.relative_to(saved)) for p in saved.rglob("*") if p.is_file()}
        assert names >= {
            "model.safetensors", "config.json", "bases.json", "preprocessing.json", "adapter/adapter_model.safetensors",
            "adapter/adapter_config.json", "tokenizer/tokenizer.json", "prompts/system.txt",
        }  # fmt: skip
        base = json.loads((saved / "bases.json").read_text())["language"]
        assert base.keys() == {"name", "revision", "quantize", "fingerprint"} and len(base["fingerprint"]) == 16

    def test_the_frozen_language_model_is_left_out(self, model, saved):
        keys = load_file(saved / "model.safetensors").keys()
        assert {k.split(".")[0] for k in keys} == {"encoder", "unet", "fusion"}
        own = sum(t.numel() * t.element_size() for t in own_tensors(model).values())
        assert own <= (saved / "model.safetensors").stat().st_size < own + 200_000  # its header
        lora = load_file(saved / "adapter" / "adapter_model.safetensors")
        assert len(lora) == 2 * 7 * 4 and all("lora_" in k for k in lora)

    def test_a_checkpoint_read_and_written_again_is_the_same(self, saved, tmp_path):
        MDFModel.from_pretrained(saved).save_pretrained(tmp_path / "again")
        for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
            first, second = load_file(saved / name), load_file(tmp_path / "again" / name)
            assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
        for name in ("preprocessing.json", "bases.json"):
            assert (saved / name).read_text() == (tmp_path / "again" / name).read_text()

    def test_the_folder_can_be_moved(self, model, copy, photograph, tmp_path):
        moved = copy.rename(tmp_path / "elsewhere")
        assert MDFModel.from_pretrained(moved).ask(photograph, QUESTION, max_new_tokens=8) == model.ask(
            photograph, QUESTION, max_new_tokens=8
        )

    def test_a_baseline(self, world, photograph, tmp_path):
        model = MDFModel.build(
            tiny_config(world, **{"fusion.depths": (), "run.stages": ("segment", "align")}), DIAGNOSES
        )
        assert not model.config.lora
        model.set_trainable(all_full("frozen"))
        disturb(model).save_pretrained(tmp_path / "baseline")
        assert not (tmp_path / "baseline" / "adapter").exists()
        read = MDFModel.from_pretrained(tmp_path / "baseline")
        assert len(read.fusion.adapters) == 0
        assert_equal_models(model, read, photograph)

    def test_a_language_model_trained_in_full(self, world, photograph, tmp_path):
        model = MDFModel.build(tiny_config(world, **{"fuse.parts.language.mode": "full"}), DIAGNOSES)
        model.set_trainable(all_full("full"))
        disturb(model).save_pretrained(tmp_path / "full")
        keys = load_file(tmp_path / "full" / "model.safetensors").keys()
        assert "language.model.embed_tokens.weight" in keys and "language.lm_head.weight" not in keys  # tied: kept once
        assert json.loads((tmp_path / "full" / "bases.json").read_text())["language"].get("fingerprint") is None
        read = MDFModel.from_pretrained(tmp_path / "full")
        assert_equal_models(model, read, photograph)
        # another stage that only trains the fusion still keeps the language model's own weights
        read.set_trainable(PartsConfig(fusion=PartConfig("full")))
        read.save_pretrained(tmp_path / "later")
        assert_equal_models(model, MDFModel.from_pretrained(tmp_path / "later"), photograph)

    def test_a_language_model_trained_in_full_after_its_lora(self, saved, photograph, tmp_path):
        model = MDFModel.from_pretrained(saved)
        model.set_trainable(PartsConfig(language=PartConfig("full")))
        disturb(model).save_pretrained(tmp_path / "both")
        assert_equal_models(model, MDFModel.from_pretrained(tmp_path / "both"), photograph)

    def test_stale_masks_are_remembered(self, saved, tmp_path):
        model = MDFModel.from_pretrained(saved)
        assert not model.config.stale_masks
        model.set_trainable(all_full(), losses=("text",))
        model.save_pretrained(tmp_path / "stale")
        assert MDFModel.from_pretrained(tmp_path / "stale").config.stale_masks


class TestRefused:
    def test_a_missing_and_an_extra_tensor_are_listed_together(self, copy):
        gate = "fusion.adapters.0.attn_gate"
        change(copy / "model.safetensors", **{gate: None, "fusion.adapters.9.attn_gate": torch.zeros(1)})
        text = refusal(copy)
        assert "nothing was loaded" in text and f"1 missing: {gate}" in text
        assert "1 not part of the model: fusion.adapters.9.attn_gate" in text

    def test_many_missing_tensors_are_counted(self, copy):
        names = [n for n in load_file(copy / "model.safetensors") if n.startswith("encoder.")]
        change(copy / "model.safetensors", **dict.fromkeys(names))
        text = refusal(copy)
        assert f"{len(names)} missing: encoder." in text and "…" in text and len(text) < 1500

    def test_a_wrong_shape(self, copy):
        change(copy / "model.safetensors", **{"fusion.adapters.1.ffn_gate": torch.zeros(3)})
        text = refusal(copy)
        assert "nothing was loaded" in text and "fusion.adapters.1.ffn_gate (3,) for (1,)" in text

    @pytest.mark.parametrize("share", [0.5, 0.0])
    def test_a_file_cut_short(self, copy, share):
        path = copy / "model.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        text = refusal(copy)
        assert "model.safetensors is damaged" in text and "take the checkpoint again" in text

    def test_the_adapters_file_is_missing(self, copy):
        (copy / "adapter" / "adapter_model.safetensors").unlink()
        text = refusal(copy)
        assert "adapter_model.safetensors is missing" in text and "nothing was loaded" in text

    def test_the_adapters_file_is_cut_short(self, copy):
        path = copy / "adapter" / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
        assert "adapter_model.safetensors is damaged" in refusal(copy)

    def test_a_lora_tensor_is_missing_or_too_many_or_of_another_shape(self, copy):
        path = copy / "adapter" / "adapter_model.safetensors"
        whole = load_file(path)
        first = sorted(whole)[0]
        change(
            path, **{first: None, "base_model.model.model.layers.77.self_attn.q_proj.lora_A.weight": torch.zeros(4, 64)}
        )
        text = refusal(copy)
        assert f"1 missing: {first}" in text and "1 not part of the model" in text and "layers.77" in text
        save_file({**whole, first: torch.zeros(2, 2)}, path)
        text = refusal(copy)
        assert first in text and "wrong shape" in text

    def test_another_language_model_of_the_same_shape(self, copy, world, tmp_path):
        other = shutil.copytree(world / "language", tmp_path / "other")
        weights = load_file(other / "model.safetensors")
        change(other / "model.safetensors", **{"model.norm.weight": weights["model.norm.weight"] + 1})
        save_file(load_file(other / "model.safetensors"), other / "model.safetensors", {"format": "pt"})
        text = refusal(self.pointed_at(copy, other))
        assert "is not the one this checkpoint was trained on" in text and "nothing was loaded" in text

    def test_another_language_model_of_another_shape(self, copy, tmp_path):
        text = refusal(self.pointed_at(copy, tiny_language(tmp_path / "other", layers=3, hidden=32)))
        assert "is not the one this checkpoint was trained on" in text

    def test_the_language_model_has_gone(self, copy, tmp_path):
        assert "language.model" in refusal(self.pointed_at(copy, tmp_path / "gone"))

    @staticmethod
    def pointed_at(folder, language):
        config = json.loads((folder / "config.json").read_text())
        config["mdf"]["language"]["model"] = str(language)
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessing.json", "bases.json"])
    def test_a_missing_file_is_named(self, copy, name):
        (copy / name).unlink()
        assert f"{name} is missing" in refusal(copy)

    @pytest.mark.parametrize("name", ["config.json", "bases.json"])
    @pytest.mark.parametrize("content", ["", '{"mdf": {"encoder"', "{}", "[]", '"text"'])
    def test_a_damaged_description_is_one_clear_error(self, copy, name, content):
        (copy / name).write_text(content)
        assert name in refusal(copy)

    def test_a_folder_that_is_not_there_and_a_run_instead_of_its_checkpoint(self, copy, tmp_path):
        assert "no such directory" in refusal(tmp_path / "nowhere")
        (tmp_path / "run").mkdir()
        copy.rename(tmp_path / "run" / "best")
        assert "did you mean its best/?" in refusal(tmp_path / "run")


def test_the_auto_classes_know_a_checkpoint(model, saved, photograph):
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(saved)
    assert isinstance(config, MDFConfig) and config.mdf == json.loads((saved / "config.json").read_text())["mdf"]
    read = AutoModel.from_pretrained(saved)
    assert isinstance(read, MDFModel)
    assert_equal_models(model, read, photograph)


def test_import_mdf_models_alone_registers(saved):
    import subprocess
    import sys

    from tests.scripts import environment

    code = (
        "import sys, mdf.models; from transformers import AutoConfig; "
        "print(AutoConfig.from_pretrained(sys.argv[1]).model_type)"
    )
    done = subprocess.run([sys.executable, "-c", code, saved], capture_output=True, text=True, env=environment())
    assert done.stdout.strip() == "mdf", done.stderr


def test_chat_with_a_broken_checkpoint_says_one_thing(copy, photograph):
    change(copy / "model.safetensors", **{"fusion.adapters.0.attn_gate": None})
    done = start("chat.py", "--checkpoint", copy, "--image", photograph, "--ask", QUESTION, "--force")
    assert done.returncode == 2 and done.stdout == ""
    assert "Traceback" not in done.stderr and done.stderr.count("error:") == 1
    assert "1 missing: fusion.adapters.0.attn_gate" in done.stderr
