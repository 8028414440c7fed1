"""Zero-shot, probe, few shots and retrieval through the real script, on a tiny checkpoint and a bare encoder."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mdf.captions import tell_cut
from mdf.errors import UserError
from mdf.evaluation.fellow import beside_fellow, fellows
from mdf.evaluation.photographs import embed, embed_records, embed_texts, load_inputs
from mdf.files import write_text
from mdf.models.embedder import Embedder
from mdf.models.fundus_encoder import FundusEncoder
from mdf.records import FundusRecord, read_manifest, to_jsonl
from tests.scripts import run
from tests.tiny_checkpoint import DIAGNOSES

RECORDS = [FundusRecord(id=str(i), image=f"{i}.png", source="odir5k") for i in range(6)]
ENCODER = ("--encoder", "fundus-vit-tiny", "--features", "pooled")


def results(out) -> tuple[dict, list[dict]]:
    """metrics.json and predictions.jsonl."""
    lines = (out / "predictions.jsonl").read_text().splitlines()
    return json.loads((out / "metrics.json").read_text()), [json.loads(line) for line in lines]


def test_the_encoder_alone_embeds_as_the_whole_model_does(checkpoint):
    encoder = Embedder.from_pretrained(checkpoint.run / "best")
    records = checkpoint.manifest.records[:3]
    whole = checkpoint.model.embed_image(load_inputs(checkpoint.model, records, checkpoint.manifest)[0]).numpy()
    # the U-Net's input is smaller, the encoder's is the same
    assert np.array_equal(embed_records(encoder, records, checkpoint.manifest, batch_size=3), whole)
    texts = ["a fundus photograph showing drusen", "normal fundus", "normal fundus"]
    # one text fewer in the batch: sums in another order
    assert np.allclose(embed_texts(encoder, texts), checkpoint.model.embed_text(texts).numpy(), atol=1e-6)


def test_features_are_unit_vectors_and_those_of_patches_are_their_means_and_maxima(checkpoint):
    encoder = Embedder.from_pretrained(checkpoint.run / "best")
    records = checkpoint.manifest.records[:4]
    pooled = embed_records(encoder, records, checkpoint.manifest, features="pooled", batch_size=3)
    patches = encoder.encoder(load_inputs(encoder, records, checkpoint.manifest)[0]["pixel_values"])[1]
    mean = patches.detach().flatten(2).mean(dim=2).numpy()
    assert np.allclose(pooled, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)
    both = embed_records(encoder, records, checkpoint.manifest, features="patches", batch_size=3)
    assert both.shape[1] == 2 * mean.shape[1]
    turned = load_inputs(encoder, records, checkpoint.manifest)[0]
    turned["pixel_values"] = turned["pixel_values"].flip(-1)
    assert np.allclose(both, embed(encoder, turned, "patches"), atol=1e-5)  # left and right look alike
    highest = patches.detach().amax(dim=(2, 3)).numpy()
    mirrored = encoder.encoder(turned["pixel_values"])[1].detach().amax(dim=(2, 3)).numpy()
    unit = (highest + mirrored) / np.linalg.norm(highest + mirrored, axis=1, keepdims=True)
    assert np.allclose(both[:, mean.shape[1] :] * 2**0.5, unit, atol=1e-5)
    for kind in (pooled, both, embed_records(encoder, records, checkpoint.manifest)):
        assert np.allclose(np.linalg.norm(kind, axis=1), 1, atol=1e-5)  # float32


@pytest.mark.parametrize("features", ["embedding", "pooled", "patches"])
def test_features_that_are_not_numbers_are_an_error(checkpoint, features):
    encoder = Embedder.from_pretrained(checkpoint.run / "best")
    records = checkpoint.manifest.records[:2]
    with torch.no_grad():
        for tensor in encoder.encoder.parameters():
            tensor.mul_(float("nan"))
    with pytest.raises(UserError, match="the features of 2 of 2 photographs of a batch are not numbers"):
        embed_records(encoder, records, checkpoint.manifest, features=features)


def test_all_uses_of_a_checkpoint_in_one_pass(checkpoint, tmp_path, capsys):
    args = ("--checkpoint", checkpoint.run, "--data", checkpoint.data, "--split", "test")
    assert run("evaluate.py", *args, "--tasks", "zero_shot,probe,few_shot,retrieval", "--out", tmp_path) == 0
    metrics, lines = results(tmp_path)
    assert {"zero_shot", "probe", "few_shot", "retrieval"} <= metrics.keys() and "classification" not in metrics
    for variant in ("names", "described"):
        part = metrics["zero_shot"][variant]
        assert 0 <= part["balanced_accuracy"] <= 1 and len(part["balanced_accuracy_ci"]) == 2
    assert metrics["zero_shot"]["chance"] == 0.25
    assert metrics["zero_shot"]["texts"]["amd"][0] == "a fundus photograph showing age-related macular degeneration"
    splits = {s: len(checkpoint.manifest.split(s)) for s in ("train", "val")}
    assert {s: metrics["probe"][s] for s in splits} == splits
    assert set(metrics["few_shot"]) >= {"shots_1", "shots_4", "shots_16"} and metrics["few_shot"]["seeds"] == 5
    assert "training photographs instead of 16" in capsys.readouterr().out  # there are not as many
    for task in ("zero_shot", "probe"):
        assert sum(lines[0][task].values()) == pytest.approx(1, abs=1e-12)  # nothing is rounded away
    assert set(lines[0]["labels"]) <= set(lines[0]["probe"])


def test_zero_shot_is_also_run_as_a_release_does_it(checkpoint, tmp_path, capsys):
    args = ("--checkpoint", checkpoint.run, "--data", checkpoint.data, "--tasks", "zero_shot", "--out", tmp_path)
    (tmp_path / "own.yaml").write_text("glaucoma: [a large cup]\n")
    assert run("evaluate.py", *args, "--prompts-of", "mmfundusclip") == 0
    found = results(tmp_path)[0]["zero_shot"]["released"]
    assert found["protocol"] == "mmfundusclip" and found["texts"]["normal"] == ["normal"]
    assert found["corrected"]["of"] == ["sigmoid"] and 0 <= found["difference"]["ties"] <= 1
    assert "zero_shot.released.difference.other_answers" in capsys.readouterr().out
    assert run("evaluate.py", *args, "--prompts-of", "flair", "--definitions", tmp_path / "own.yaml") == 0
    found = results(tmp_path)[0]["zero_shot"]["released"]
    assert found["texts"]["glaucoma"][0] == "A fundus photograph of a large cup" and "corrected" not in found
    assert run("evaluate.py", *args, "--definitions", tmp_path / "own.yaml") == 2
    assert "--definitions goes with the task zero_shot" in capsys.readouterr().err
    assert run("evaluate.py", *args, "--prompts-of", "ret-clip") == 2
    assert run("evaluate.py", *args, "--prompts-of", "flare") == 2


def test_captions_that_are_cut_to_the_same_words_are_one_text_and_are_counted(checkpoint, tmp_path, capfd):
    """Without a diagnosis the report is the caption; it may be longer than what the text tower reads."""
    tell_cut.cache_clear()
    start = "The disc is pink. "
    texts = [start + "Drusen " * 90, start + "Scars " * 90, start, "A scar."]
    records = checkpoint.manifest.records[:4]
    lines = [{"id": r.id, "image": r.image, "texts": {"en": t}} for r, t in zip(records, texts, strict=True)]
    lines.append({"id": "untold", "image": records[0].image, "texts": {"zh": "正常"}})  # a text that is no report
    data = tmp_path / "reports.jsonl"
    write_text(data, "".join(json.dumps(r) + "\n" for r in lines))
    args = ("--checkpoint", checkpoint.run, "--data", data, "--data-root", checkpoint.manifest.root, "--split", "all")
    assert run("evaluate.py", *args, "--tasks", "retrieval", "--out", tmp_path) == 0
    found = results(tmp_path)[0]["retrieval"]
    assert found["captions"] == 2 and found["captions_cut"] == 2
    said = capfd.readouterr().err
    assert said.count("is longer than what the text tower reads") == 1 and "Scars" not in said


def test_classes_that_the_checkpoint_was_never_trained_on(checkpoint, tmp_path):
    lines = [json.loads(line) for line in to_jsonl(checkpoint.manifest.records).splitlines()]
    lines = [r | {"diagnosis": ["pathologic_myopia"]} if r["diagnosis"] == ["glaucoma"] else r for r in lines]
    data = tmp_path / "myopia.jsonl"
    write_text(data, "".join(json.dumps(r) + "\n" for r in lines))
    args = ("--checkpoint", checkpoint.run, "--data", data, "--data-root", checkpoint.manifest.root, "--split", "all")
    assert run("evaluate.py", *args, "--tasks", "zero_shot", "--out", tmp_path) == 0
    found = results(tmp_path)[0]["zero_shot"]
    assert found["classes"] == 5 and found["unseen"] == ["pathologic_myopia"]
    assert found["names"]["unseen_balanced_accuracy"] == found["names"]["recall"]["pathologic_myopia"]
    asked = ("--tasks", "zero_shot", "--classes", "healthy,pathologic_myopia", "--out", tmp_path)
    assert run("evaluate.py", *args, *asked) == 0
    assert set(results(tmp_path)[0]["zero_shot"]["texts"]) == {"normal", "pathologic_myopia"}


def test_the_other_eye_is_the_same_patients_and_another_side():
    eyes = [replace(r, patient=f"p{i // 2}", eye=("right", "left")[i % 2]) for i, r in enumerate(RECORDS)]
    own = np.arange(12, dtype=float).reshape(6, 2)
    assert fellows(eyes) == [[1], [0], [3], [2], [5], [4]]
    found = beside_fellow(own, eyes)
    assert np.array_equal(found[:, :2], own) and np.array_equal(found[[0, 1, 2, 3, 4, 5], 2:], own[[1, 0, 3, 2, 5, 4]])
    assert fellows([replace(r, patient=None) for r in eyes]) == [[]] * 6
    assert fellows([replace(r, eye="left") for r in eyes]) == fellows([replace(r, eye=None) for r in eyes]) == [[]] * 6
    assert np.array_equal(beside_fellow(own, [replace(r, eye=None) for r in eyes])[:, 2:], own)
    several = [replace(r, patient="p") for r in eyes]
    assert fellows(several)[0] == [1, 3, 5] and np.array_equal(
        beside_fellow(own, several)[0, 2:], own[1::2].mean(axis=0)
    )
    other_source = [replace(several[0], source="elsewhere"), *several[1:]]
    assert fellows(other_source)[0] == []


def test_the_other_eye_is_read_on_the_side_that_learns_too(checkpoint, tmp_path, capsys):
    records = checkpoint.manifest.records
    groups: dict = {}
    for r in records:
        groups.setdefault(r.split, []).append(r)
    lines = [
        json.loads(to_jsonl([replace(r, patient=f"{s}{i // 2}", eye=("right", "left")[i % 2])]))
        for s, some in groups.items()
        for i, r in enumerate(some)
    ]
    data = tmp_path / "pairs.jsonl"
    write_text(data, "".join(json.dumps(r) + "\n" for r in lines))
    args = (*ENCODER, "--data", data, "--data-root", checkpoint.manifest.root, "--tasks", "probe")
    args += ("--classes", ",".join(DIAGNOSES))  # of whichever photographs are drawn
    assert run("evaluate.py", *args, "--out", tmp_path / "one") == 0
    assert run("evaluate.py", *args, "--fellow-eye", "--out", tmp_path / "two") == 0
    assert run("evaluate.py", *args, "--fellow-eye", "--folds", 2, "--out", tmp_path / "folds") == 0
    one, two, folds = (results(tmp_path / name) for name in ("one", "two", "folds"))
    # a photograph that is drawn without its other eye is read beside it all the same
    assert run("evaluate.py", *args, "--fellow-eye", "--limit", 3, "--out", tmp_path / "few") == 0
    few, every = results(tmp_path / "few"), {x["id"]: x["probe"] for x in two[1]}
    assert few[0]["probe"]["with_fellow_eye"] == len(few[1]) == 3
    for line in few[1]:
        assert line["probe"] == pytest.approx(every[line["id"]], abs=1e-5)
    assert "with_fellow_eye" not in one[0]["probe"]
    assert two[0]["probe"]["with_fellow_eye"] == len(two[1]) // 2 * 2 and folds[0]["probe"]["with_fellow_eye"] > 0
    assert [x["probe"] for x in one[1]] != [x["probe"] for x in two[1]]
    capsys.readouterr()
    assert (
        run("evaluate.py", *ENCODER, "--data", data, "--tasks", "zero_shot", "--fellow-eye", "--out", tmp_path / "no")
        == 2
    )
    assert "--fellow-eye is for the task probe" in capsys.readouterr().err


def test_an_encoder_that_was_not_trained_is_probed_in_folds_and_compared(checkpoint, tmp_path, capsys):
    data = ("--data", checkpoint.data, "--tasks", "probe", "--folds", 3)
    assert run("evaluate.py", *ENCODER, *data, "--out", tmp_path / "bare") == 0
    assert run("evaluate.py", "--checkpoint", checkpoint.run, *data, "--out", tmp_path / "ours") == 0
    metrics, lines = results(tmp_path / "bare")
    assert metrics["n"] == len(lines) == len(checkpoint.manifest.records)  # every photograph, once
    assert metrics["probe"]["folds"] == 3 and len(metrics["probe"]["strengths"]) == 3
    assert metrics["probe"]["features"] == "pooled" and metrics["probe"]["balanced_accuracy_sd"] >= 0
    assert metrics["checkpoint"] == "fundus-vit-tiny random"
    capsys.readouterr()
    assert run("evaluate.py", "paired", tmp_path / "bare", "--with", tmp_path / "ours") == 0
    shown = {x.split()[0]: x.split()[1] for x in capsys.readouterr().out.splitlines()}
    ours = results(tmp_path / "ours")[0]["probe"]["balanced_accuracy"]
    difference = ours - metrics["probe"]["balanced_accuracy"]
    assert float(shown["difference.balanced_accuracy"]) == pytest.approx(difference, abs=6e-4)  # three decimals


def test_folds_in_several_folders_are_joined_and_strangers_refused(checkpoint, tmp_path, capsys):
    turned = [
        replace(r, split={"test": "val", "val": "test"}.get(r.split, r.split)) for r in checkpoint.manifest.records
    ]
    write_text(tmp_path / "turned.jsonl", to_jsonl(turned))
    root = ("--data-root", checkpoint.manifest.root, "--tasks", "probe")
    for data, split in ((checkpoint.data, "test"), (tmp_path / "turned.jsonl", "val")):
        assert run("evaluate.py", *ENCODER, "--data", data, *root, "--out", tmp_path / split) == 0
    both = (tmp_path / "test", tmp_path / "val")
    capsys.readouterr()
    assert run("evaluate.py", "paired", *both, "--with", *both) == 0
    shown = {x.split()[0]: x.split()[1] for x in capsys.readouterr().out.splitlines()}
    assert int(shown["difference.n"]) == sum(len(checkpoint.manifest.split(s)) for s in ("test", "val"))
    for wrong, said in (
        ((both[0], "--with", both[1]), "same photographs"),
        ((both[0], both[0], "--with", *both), "another folder"),
        ((*both, "--with", *both, "--task", "zero_shot"), "no answers of the task zero_shot"),
        ((tmp_path, "--with", *both), "cannot be read"),
    ):
        assert run("evaluate.py", "paired", *wrong) == 2
        assert said in capsys.readouterr().err


def test_what_a_probe_needs_is_asked_for_before_the_evaluation(checkpoint, tmp_path, capsys):
    records = [r for r in checkpoint.manifest.records if r.split == "test"]
    data = tmp_path / "test.jsonl"
    write_text(data, to_jsonl(records))
    args = ("--checkpoint", checkpoint.run, "--data", data, "--data-root", checkpoint.manifest.root)
    assert run("evaluate.py", *args, "--tasks", "probe", "--out", tmp_path / "out") == 2
    assert "train split has no photograph" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert read_manifest(data, checkpoint.manifest.root).split("train") == []


def test_a_patient_that_is_learnt_from_is_not_judged(checkpoint, tmp_path, capsys):
    records = checkpoint.manifest.records
    train = next(r for r in records if r.split == "train")
    torn = next(r for r in records if r.split == "test")
    write_text(
        tmp_path / "data.jsonl", to_jsonl([replace(r, patient=train.patient) if r is torn else r for r in records])
    )
    args = (*ENCODER, "--data", tmp_path / "data.jsonl", "--data-root", checkpoint.manifest.root)
    assert run("evaluate.py", *args, "--tasks", "probe", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert f"({torn.id} …)" in error and "keeps patients together" in error and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("folds", "said"), [(1000, "--folds: 1000 must be from 2 to"), (2, "--folds 2: fold ")])
def test_folds_that_cannot_be_are_refused_before_a_photograph_is_read(checkpoint, tmp_path, capsys, folds, said):
    records = [
        replace(r, patient=str(i), image=f"gone/{i}.png") for i, r in enumerate(checkpoint.manifest.records[:40])
    ]
    records = [replace(r, diagnosis=("glaucoma",) if i else ("normal",)) for i, r in enumerate(records)]
    write_text(tmp_path / "data.jsonl", to_jsonl(records))
    args = (*ENCODER, "--data", tmp_path / "data.jsonl", "--data-root", tmp_path, "--folds", folds)
    assert run("evaluate.py", *args, "--tasks", "probe", "--out", tmp_path / "out") == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("split", ["val", "all"])
def test_a_probe_is_not_judged_where_its_regularisation_was_chosen(checkpoint, tmp_path, capsys, split):
    records = [r for r in checkpoint.manifest.records if r.split == "val"] if split == "all" else None
    write_text(tmp_path / "data.jsonl", to_jsonl(records or checkpoint.manifest.records))
    args = (*ENCODER, "--data", tmp_path / "data.jsonl", "--data-root", checkpoint.manifest.root, "--split", split)
    assert run("evaluate.py", *args, "--tasks", "probe", "--out", tmp_path / "out") == 2
    assert "a probe chooses its regularisation on val" in capsys.readouterr().err and not (tmp_path / "out").exists()
    if split == "val":  # few shots learn from the train split alone
        assert run("evaluate.py", *args, "--tasks", "few_shot", "--out", tmp_path / "out") == 0


@pytest.mark.parametrize(("features", "passes"), [("embedding", 1), ("pooled", 1), ("patches", 2)])
def test_a_batch_goes_through_the_encoder_once_and_once_more_for_its_mirror_image(
    checkpoint, tmp_path, monkeypatch, features, passes
):
    seen = []
    forward = FundusEncoder.forward
    monkeypatch.setattr(FundusEncoder, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    args = ("--encoder", "fundus-vit-tiny", "--data", checkpoint.data, "--tasks", "probe", "--folds", 2)
    assert run("evaluate.py", *args, "--features", features, "--out", tmp_path) == 0
    assert sum(seen) == passes * len(checkpoint.manifest.records)


@pytest.mark.parametrize("task", ["diagnosis", "masks"])
def test_an_encoder_answers_no_questions(checkpoint, tmp_path, capsys, task):
    assert run("evaluate.py", *ENCODER, "--data", checkpoint.data, "--tasks", task, "--out", tmp_path) == 2
    assert "no language model" in capsys.readouterr().err
