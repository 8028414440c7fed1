"""An export answers as its checkpoint does and needs no base any more, or nothing is written."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from mdf.config import PartConfig, PartsConfig
from mdf.datasets.phantom import draw_manifest
from mdf.dialogue import Turn
from mdf.errors import UserError
from mdf.evaluation.evaluate import evaluate
from mdf.inference.export import Check, answer_logits, compare, export, questions, refuse_difference
from mdf.inference.model_card import Run, band, card, read_run
from mdf.models.fusion import MDFModel
from mdf.records import FundusRecord, to_jsonl
from mdf.tiles import TILES, cross_attention_mask
from mdf.training.run_folder import RunFolder, environment
from mdf.vocabulary import display
from tests.scripts import run as run_here
from tests.tiny import tiny_config
from tests.tiny_mllama import tiny_mllama_config

DIAGNOSES = ("normal", "diabetic_retinopathy", "amd", "glaucoma")


def open_up(model):
    """Gates, adapters and LoRA away from where they start, so that every part changes the answers."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("fusion.adapters.") and name.endswith((".o.weight", ".ffn.2.weight")):
                torch.nn.init.normal_(parameter, std=0.05)
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def run(world):
    """The folder of a run as training leaves it, evaluated."""
    cfg = tiny_config(world, **{"fusion.depths": (1, 3), "data.count": 48})
    manifest = draw_manifest(world / "phantoms", count=48, size=96, seed=0, val=0.25, test=0.5)
    folder = RunFolder(cfg)
    model = open_up(MDFModel.build(cfg, DIAGNOSES))
    manifests = dict.fromkeys(cfg.run.stages, manifest)
    folder.create(
        environment(manifests, model.processor.preprocessing.hash(), precision="fp32", processes=1), manifests
    )
    folder.log({"stage": "fuse", "step": 4, "total": 4})
    folder.add_table("fuse", "stage fuse\n  part …")
    model.save_pretrained(folder.best)
    (folder.best / "thresholds.json").write_text('{"glaucoma": 0.4}')
    evaluate(
        model, manifest.split("test"), manifest, folder.path / "evaluation", tasks=["diagnosis", "masks"], resamples=50
    )
    return folder.path


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """What the script writes, a card included."""
    out = tmp_path_factory.mktemp("out") / "export"
    assert run_here("export.py", "--checkpoint", run, "--out", out, "--dtype", "fp32") == 0
    return out


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run / "best", tmp_path / "copy")


def refusal(checkpoint, out, **options):
    with pytest.raises(UserError) as caught:
        export(checkpoint, out, **options)
    assert not out.exists() and not list(out.parent.glob(f".{out.name}.*"))
    return str(caught.value)


class TestExport:
    def test_it_answers_as_the_checkpoint_does(self, run, exported):
        a, b = MDFModel.from_pretrained(run / "best"), MDFModel.from_pretrained(exported)
        inputs, talks = questions(a)
        answers = a.generate_answers(inputs, talks, max_new_tokens=8)
        assert answers == b.generate_answers(inputs, talks, max_new_tokens=8)
        found = compare(answer_logits(a, inputs, talks, answers), answer_logits(b, inputs, talks, answers))
        assert found.agreement == 1 and found.difference < 1e-4 and found.tokens > 50

    def test_it_needs_no_base_and_can_be_moved(self, world, exported, tmp_path):
        moved = shutil.copytree(exported, tmp_path / "moved")
        (world / "language").rename(world / "gone")
        try:
            model = MDFModel.from_pretrained(moved)
        finally:
            (world / "gone").rename(world / "language")
        assert not model.config.lora and model.processor.diagnoses == DIAGNOSES

    def test_the_auto_class_reads_it(self, exported):
        assert isinstance(AutoModel.from_pretrained(exported), MDFModel)

    def test_it_holds_the_checkpoint_and_no_lora(self, exported):
        keys = load_file(exported / "model.safetensors").keys()
        assert {k.split(".")[0] for k in keys} == {"encoder", "unet", "fusion"}
        assert not (exported / "adapter").exists()
        assert not any("lora" in k for k in load_file(exported / "language" / "model.safetensors"))
        assert json.loads((exported / "thresholds.json").read_text()) == {"glaucoma": 0.4}

    def test_plain_transformers_loads_the_language_model_from_several_files(self, run, tmp_path):
        export(run / "best", tmp_path / "out", dtype=torch.float32, shard="100KB")
        assert len(list((tmp_path / "out" / "language").glob("model-*.safetensors"))) > 1
        language = tmp_path / "out" / "language"
        tokenizer = AutoTokenizer.from_pretrained(language)
        talk = tokenizer.apply_chat_template([{"role": "user", "content": "drusen"}], tokenize=False)
        ids = tokenizer(talk, return_tensors="pt", add_special_tokens=False).input_ids
        plain = AutoModelForCausalLM.from_pretrained(language, trust_remote_code=False)
        tuned = MDFModel.from_pretrained(run / "best").language
        assert type(plain).__module__.startswith("transformers.")
        torch.testing.assert_close(plain(ids).logits, tuned(ids).logits, rtol=1e-4, atol=1e-5)

    def test_bf16_is_the_default_and_within_what_is_allowed(self, run, tmp_path):
        found = export(run / "best", tmp_path / "out")
        assert (
            load_file(tmp_path / "out" / "language" / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
        )
        assert 0 < found.difference < 0.25 and found.agreement >= 0.95

    def test_a_language_model_trained_in_full(self, world, tmp_path):
        model = MDFModel.build(tiny_config(world, **{"fuse.parts.language.mode": "full"}), DIAGNOSES)
        model.set_trainable(PartsConfig(language=PartConfig("full")))
        with torch.no_grad():
            for parameter in model.language.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / "full")
        assert export(tmp_path / "full", tmp_path / "out", dtype=torch.float32).difference == 0
        assert not any(k.startswith("language.") for k in load_file(tmp_path / "out" / "model.safetensors"))

    def test_the_baseline_without_adapters(self, world, tmp_path):
        open_up(MDFModel.build(tiny_config(world, **{"fusion.depths": ()}), DIAGNOSES)).save_pretrained(
            tmp_path / "base"
        )
        assert export(tmp_path / "base", tmp_path / "out", dtype=torch.float32).agreement == 1
        assert "lacks the prefix of the photograph:" in card_of(tmp_path / "out")

    @pytest.mark.parametrize("depths", [(1, 3), ()], ids=["fused", "baseline"])
    def test_llama_32_vision(self, world, tmp_path, depths):
        """Of the baseline plain transformers reads all that answers, photographs included."""
        model = open_up(MDFModel.build(tiny_mllama_config(world, **{"fusion.depths": depths}), DIAGNOSES))
        model.save_pretrained(tmp_path / "checkpoint")
        found = export(tmp_path / "checkpoint", tmp_path / "out", dtype=torch.float32)
        assert found.agreement == 1 and found.difference < 1e-3
        assert ("AutoModelForImageTextToText" in card_of(tmp_path / "out")) == (depths == ())
        again = MDFModel.from_pretrained(tmp_path / "out")
        plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "out" / "language", trust_remote_code=False)
        inputs, talks = questions(again)
        encoded = again.processor.encode([*talks[0], Turn("assistant", "Normal.")])
        ids, row = torch.tensor([encoded.input_ids]), inputs.select([0])
        mask = cross_attention_mask(ids, again.processor.image_token_id, row["aspect_ratio_mask"])
        names = {"tiles": "pixel_values"}
        given = {names.get(k, k): v for k, v in row.items() if k in TILES}
        keep = torch.ones_like(ids, dtype=torch.bool)
        ours = again(ids, torch.ones_like(ids), keep=keep, cross_attention_mask=mask,
                     prompt_mask=keep, **{k: v for k, v in row.items() if k != "field"}).logits  # fmt: skip
        theirs = plain(ids, attention_mask=torch.ones_like(ids), cross_attention_mask=mask, **given).logits[0]
        assert torch.allclose(ours, theirs, atol=1e-4) == (depths == ())

    def test_training_goes_on_from_it(self, exported, tmp_path):
        again = MDFModel.from_pretrained(exported)
        again.save_pretrained(tmp_path / "later")
        base = json.loads((tmp_path / "later" / "bases.json").read_text())["language"]
        assert base["name"] == str(exported / "language")
        MDFModel.from_pretrained(tmp_path / "later")


class TestRefused:
    def test_a_quantised_language_model(self, copy, tmp_path):
        values = json.loads((copy / "config.json").read_text())
        values["mdf"]["language"]["quantize"] = "nf4"
        (copy / "config.json").write_text(json.dumps(values))
        text = refusal(copy, tmp_path / "out")
        assert "trained in nf4" in text and "language.quantize=none" in text

    def test_lora_that_learnt_nothing(self, world, tmp_path):
        MDFModel.build(tiny_config(world), DIAGNOSES).save_pretrained(tmp_path / "new")
        assert "would be the base model" in refusal(tmp_path / "new", tmp_path / "out")

    def test_lora_keys_without_a_place(self, copy, tmp_path):
        path = copy / "adapter" / "adapter_model.safetensors"
        whole = load_file(path)
        first = sorted(whole)[0]
        save_file({k.replace("layers.0.", "layers.9."): v for k, v in whole.items()}, path)
        assert f"missing: {first}" in refusal(copy, tmp_path / "out")

    def test_an_adapter_that_is_left_over(self, copy, tmp_path):
        values = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**values, "lora": False}))
        assert "one of them is left over" in refusal(copy, tmp_path / "out")

    def test_another_base(self, copy, world, tmp_path):
        other = shutil.copytree(world / "language", tmp_path / "other")
        weights = load_file(other / "model.safetensors")
        weights["model.norm.weight"] = weights["model.norm.weight"] + 1
        save_file(weights, other / "model.safetensors", {"format": "pt"})
        values = json.loads((copy / "config.json").read_text())
        values["mdf"]["language"]["model"] = str(other)
        (copy / "config.json").write_text(json.dumps(values))
        assert "is not the one this checkpoint was trained on" in refusal(copy, tmp_path / "out")

    def test_a_language_model_in_the_export_that_was_exchanged(self, exported, tmp_path):
        changed = shutil.copytree(exported, tmp_path / "changed")
        path = changed / "language" / "model.safetensors"
        weights = load_file(path)
        save_file({**weights, "model.norm.weight": weights["model.norm.weight"] + 1}, path, {"format": "pt"})
        with pytest.raises(UserError, match="is not the one this checkpoint was trained on"):
            MDFModel.from_pretrained(changed)

    def test_answers_that_differ(self):
        logits = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
        refuse_difference(compare([logits], [logits + 0.01]), torch.float32)
        for other in (logits.flip(-1), logits + torch.nan):
            with pytest.raises(UserError, match="nothing was written; try --dtype fp32"):
                refuse_difference(compare([logits], [other]), torch.bfloat16)

    def test_a_folder_that_is_there(self, run, exported, copy, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("years of work")
        for options, words in (({}, "exists already"), ({"overwrite": True}, "is no export")):
            with pytest.raises(UserError, match=words):
                export(run / "best", tmp_path / "mine", **options)
        assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
        for out in (copy, copy / "inside", copy.parent):
            with pytest.raises(UserError, match="lies in the checkpoint or holds it"):
                export(copy, out)
        earlier = shutil.copytree(exported, tmp_path / "earlier")
        (earlier / "old.txt").touch()
        export(run / "best", earlier, dtype=torch.float32, overwrite=True)
        assert not (earlier / "old.txt").exists() and not (earlier / "README.md").exists()

    def test_the_script_says_one_thing(self, capsys, run, exported, tmp_path):
        def said(*words):
            assert run_here("export.py", *words) == 2
            text = capsys.readouterr().err
            assert text.count("error:") == 1
            return text

        assert "--overwrite" in said("--checkpoint", run, "--out", exported)
        assert "neither a checkpoint" in said("--checkpoint", tmp_path, "--out", tmp_path / "out")
        words = ("--checkpoint", run, "--out", tmp_path / "out")
        assert "nowhere.md cannot be read" in said(*words, "--card", "nowhere.md")
        assert "no config.yaml there" in said(*words, "--run", tmp_path)
        assert "give one of them" in said(*words, "--evaluation", run, "--no-evaluation")


def card_of(folder):
    """The card of an export of which no run is known."""
    from mdf.inference.export import Origin

    return card(MDFModel.from_pretrained(folder), Origin("base", None, None, 0, "float32"), Check(1, 1.0, 0.0), Run())


class TestCard:
    def test_it_tells_what_the_run_tells(self, exported, run):
        text = (exported / "README.md").read_text()
        assert "DRAFT" in text and "drafts for a clinician's review" in text
        assert "No patient is in more than one split." in text
        assert "| fuse | fusion full 0.001, language lora 0.001 | text 1 | 4 | 4 x 1 x 1 | adamw |" in text
        assert json.loads((run / "best" / "preprocessing.json").read_text())["hash"] in text
        measured = json.loads((run / "evaluation" / "metrics.json").read_text())["classification"]
        low, high = measured["accuracy_ci"]
        assert f"| classification.accuracy | {measured['accuracy']:.3f} [{low:.3f}, {high:.3f}] |" in text
        assert "| eye | left | " in text and "| sex | not recorded | " in text
        assert "LoRA of rank 4 merged" in text and "as controls): not measured" in text

    def test_it_names_no_path_and_no_patient(self, exported, run):
        lines = [json.loads(line) for line in (run / "data.jsonl").read_text().splitlines()]
        texts = [p.read_text() for p in exported.rglob("*") if p.suffix in (".md", ".json")]
        for secret in (str(run.parent.parent), str(Path.home()), *(line["id"] for line in lines)):
            assert not any(secret in text for text in texts), secret

    def test_what_is_not_known_is_not_measured(self, exported):
        text = card_of(exported)
        assert "All metrics: not measured." in text and "Accuracy in subgroups: not measured." in text
        assert "Data of the training: not recorded." in text and "Settings: not recorded." in text

    def test_small_groups_are_not_shown(self, run):
        known = read_run(run, run / "evaluation", run / "best")
        few = dict(list(known.predictions.items())[:3])
        found = Run(data=known.data, predictions=few)
        from mdf.inference.model_card import subgroups

        assert "fewer than 10 | not shown" in subgroups(found)

    def test_small_groups_are_not_counted(self):
        from mdf.inference.model_card import data

        rare = {11: ("glaucoma", "one"), 12: ("amd", "one"), 13: ("amd", "one")}
        kinds = [rare.get(i, ("normal", "clinic")) for i in range(14)]
        records = [
            FundusRecord(id=f"e{i}", image=f"{i}.png", split="train", diagnosis=(kind,), source=source, license="CC0")
            for i, (kind, source) in enumerate(kinds)
        ]
        text = data(Run(data={"data": (records, {})}))
        few = f"{display('amd')} (fewer than 10), {display('glaucoma')} (fewer than 10)"
        assert f"Diagnoses: {display('normal')} (11), {few}." in text and "Licences: CC0 (14)." in text
        assert "Sources: clinic (11), one (fewer than 10)." in text

    def test_a_separator_within_a_text_ends_no_line(self, tmp_path):
        records = [FundusRecord("1", "1.png", texts={"en": "normal\u2028fundus"})]
        (tmp_path / "data.jsonl").write_text(to_jsonl(records), encoding="utf-8")
        (tmp_path / "model.safetensors").touch()
        evaluation = tmp_path / "evaluation"
        evaluation.mkdir()
        (evaluation / "metrics.json").write_text("{}")
        line = {"id": "1", "generated": "normal\u0085fundus"}
        (evaluation / "predictions.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
        found = read_run(tmp_path, evaluation, tmp_path)
        assert found.predictions == {"1": line} and found.data["data"][0] == records

    def test_an_evaluation_of_an_earlier_checkpoint(self, copy, run, tmp_path):
        (copy / "model.safetensors").touch()
        with pytest.raises(UserError, match="measured another one"):
            read_run(run, run / "evaluation", copy)

    def test_bands_of_age(self):
        assert [band(a) for a in (0, 39.9, 40, 60, 90)] == [
            "0 to 39",
            "0 to 39",
            "40 to 59",
            "60 to 74",
            "75 and older",
        ]


@pytest.mark.slow
def test_a_language_model_that_speaks(tmp_path):
    """SmolLM2 with LoRA and open adapters: the export in bf16 says what the checkpoint says."""
    from mdf.config import load_config

    cfg = load_config("quickstart")
    open_up(MDFModel.build(cfg, DIAGNOSES)).save_pretrained(tmp_path / "checkpoint")
    found = export(tmp_path / "checkpoint", tmp_path / "out", dtype=torch.float32)
    assert found.agreement == 1 and found.difference < 1e-3
    found = export(tmp_path / "checkpoint", tmp_path / "bf16")
    assert found.agreement >= 0.95 and found.difference < 0.25
