"""The baselines: a CNN learns what can be seen, is trained once, goes on where it was stopped, and can be paired."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mdf.config import EncoderConfig
from mdf.datasets.phantom import draw_manifest
from mdf.errors import UserError
from mdf.evaluation.baseline import baseline
from mdf.evaluation.fine_tuned import CNN, FineTuning, Labelled, Photographs, Recipe, probabilities
from mdf.evaluation.paired import paired
from mdf.files import write_text
from mdf.imaging.decode import load_image
from mdf.models.embedder import Embedder
from mdf.records import read_manifest, to_jsonl
from tests.scripts import run

FEW = Recipe(epochs=3, batch_size=8, lr=2e-3, dropout=0.0)
PHANTOMS = {"count": 48, "size": 96, "seed": 0, "val": 0.2, "test": 0.2}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return draw_manifest(tmp_path_factory.mktemp("phantoms"), **PHANTOMS)


@pytest.fixture(scope="module")
def encoder() -> Embedder:
    """A random EfficientNet-Lite0 at 64 px, which learns a colour in seconds."""
    return Embedder.build(EncoderConfig(model="fundus-lite0", size=64))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MDF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def training(manifest, encoder, folder, recipe=FEW) -> FineTuning:
    """Left eyes and right ones, two classes that every phantom has one of."""
    parts = [Labelled(manifest.split(split), [(r.eye,) for r in manifest.split(split)]) for split in ("train", "val")]
    photographs = Photographs(encoder.processor.preprocessing, manifest)
    return FineTuning(encoder.encoder, photographs, *parts, ["left", "right"], recipe, folder / "last")


def test_a_cnn_is_shown_what_the_encoder_is_shown(manifest, encoder):
    photographs, record = Photographs(encoder.processor.preprocessing, manifest), manifest.records[0]
    image = load_image(manifest.path(record.image))
    wanted = encoder.processor.preprocessing.prepare(image).pixel_values
    for _ in range(2):  # prepared, then from memory
        assert torch.equal(photographs(record), wanted)
    assert len(photographs.kept) == 1
    assert not Photographs(encoder.processor.preprocessing, manifest, limit=0).kept


def test_stopped_and_started_again_it_is_the_cnn_that_was_never_stopped(manifest, encoder, tmp_path):
    recipe = Recipe(epochs=2, batch_size=8, lr=1e-3)
    whole = training(manifest, encoder, tmp_path / "whole", recipe)
    whole.fit()
    training(manifest, encoder, tmp_path / "halves", recipe).fit(until=1)
    again = training(manifest, encoder, tmp_path / "halves", recipe)
    assert len(again.history) == 1
    again.fit()
    assert again.history == whole.history and again.best["epoch"] == whole.best["epoch"]
    for name, tensor in again.cnn.tensors().items():
        assert torch.equal(tensor, whole.cnn.tensors()[name]), name


def test_rare_classes_weigh_as_much_as_frequent_ones_and_several_true_ones_share(manifest, encoder, tmp_path):
    made = training(manifest, encoder, tmp_path)
    truth = [("a",), ("a",), ("a",), ("b",), ("a", "b")]
    records = manifest.records[:5]
    made = FineTuning(
        encoder.encoder, made.photographs, Labelled(records, truth), made.val, ["a", "b", "c"], FEW, tmp_path / "last"
    )
    assert torch.allclose(made.targets.sum(dim=0), torch.tensor([2.5, 2.5, 0.0]))
    assert made.targets[4, 1] > made.targets[4, 0] > 0


def test_the_encoder_that_is_fine_tuned_stays_as_it_was(manifest, encoder, tmp_path):
    before = encoder.hash()
    made = training(manifest, encoder, tmp_path)
    made.fit(until=1)
    assert encoder.hash() == before
    first = next(iter(made.cnn.encoder.clip.visual.parameters()))
    assert not torch.equal(first, next(iter(encoder.encoder.clip.visual.parameters())))


def test_both_baselines_are_judged_once_and_can_be_paired(manifest, encoder, tmp_path, capsys):
    few = Recipe(epochs=1, batch_size=8)
    found = baseline(encoder, manifest, tmp_path / "first", recipe=few, name="random", resamples=50)
    assert found.keys() == {"probe", "cnn"}
    for kind in found:
        part = found[kind]["probe"]
        assert part["n"] == len(manifest.split("test")) and len(part["balanced_accuracy_ci"]) == 2
        assert found[kind]["data_sha256"] == manifest.sha256
        lines = [json.loads(x) for x in (tmp_path / "first" / kind / "predictions.jsonl").read_text().splitlines()]
        assert sum(lines[0]["probe"].values()) == pytest.approx(1, abs=1e-12)
    assert (tmp_path / "first" / "cnn" / "model.safetensors").is_file()
    capsys.readouterr()
    again = baseline(encoder, manifest, tmp_path / "second", recipe=few, name="random", resamples=50)
    out, err = capsys.readouterr()
    assert again == found and "in the cache" in out and "epoch" not in err
    assert paired([tmp_path / "first" / "cnn"], [tmp_path / "second" / "cnn"])["difference"]["macro_auroc"] == 0
    both = paired([tmp_path / "first" / "probe"], [tmp_path / "first" / "cnn"])
    assert both["second"]["balanced_accuracy"] == pytest.approx(found["cnn"]["probe"]["balanced_accuracy"])


def test_other_settings_are_trained_anew(manifest, encoder, tmp_path, cache):
    for lr in (1e-4, 2e-4):
        baseline(encoder, manifest, tmp_path / "out", recipe=Recipe(epochs=1, batch_size=8, lr=lr), resamples=20)
    assert len([p for p in (cache / "baselines").iterdir() if p.is_dir()]) == 2


def test_what_was_saved_gives_the_same_answers(manifest, encoder, tmp_path):
    from safetensors.torch import load_file

    baseline(encoder, manifest, tmp_path, recipe=Recipe(epochs=1, batch_size=8), resamples=20)
    lines = [json.loads(x) for x in (tmp_path / "cnn" / "predictions.jsonl").read_text().splitlines()]
    classes = list(lines[0]["probe"])
    cnn = CNN(encoder.encoder, len(classes), 0.0)
    cnn.load(load_file(tmp_path / "cnn" / "model.safetensors"))
    precision = json.loads((tmp_path / "cnn" / "metrics.json").read_text())["probe"]["precision"]
    photographs = Photographs(encoder.processor.preprocessing, manifest)
    table = probabilities(cnn, photographs, manifest.split("test"), precision)
    said = np.array([list(line["probe"].values()) for line in lines])
    assert np.allclose(said, table, rtol=1e-9, atol=0)  # nothing is rounded away


def test_a_cnn_tells_what_can_be_seen(manifest, encoder, tmp_path):
    """Half of the phantoms are blue, and called another diagnosis."""
    records = []
    for i, r in enumerate(manifest.records):
        image = load_image(manifest.path(r.image))
        Image.fromarray(np.ascontiguousarray(image[:, :, ::-1]) if i % 2 else image).save(tmp_path / f"{i}.png")
        records.append(replace(r, image=f"{i}.png", masks={}, diagnosis=("amd",) if i % 2 else ("normal",)))
    write_text(tmp_path / "m.jsonl", to_jsonl(records))
    recipe = Recipe(epochs=5, batch_size=8, lr=2e-3, dropout=0.0)
    found = baseline(encoder, read_manifest(tmp_path / "m.jsonl"), tmp_path / "out", recipe=recipe, resamples=20)
    assert found["cnn"]["classes"] == ["amd", "normal"]
    assert found["cnn"]["probe"]["balanced_accuracy"] >= 0.9
    losses = [line["loss"] for line in json.loads((tmp_path / "out" / "cnn" / "history.json").read_text())["epochs"]]
    assert len(losses) == 5 and losses[-1] < losses[0]


def test_bad_input_is_refused(manifest, encoder, tmp_path):
    def written(records) -> object:
        write_text(tmp_path / "m.jsonl", to_jsonl(records))
        return read_manifest(tmp_path / "m.jsonl", data_root=manifest.root)

    everywhere = [replace(r, patient="one") for r in manifest.records]
    with pytest.raises(UserError, match="of a patient of the train or val split"):
        baseline(encoder, written(everywhere), tmp_path / "out")
    with pytest.raises(UserError, match="judged on the test split"):
        baseline(encoder, written([r for r in manifest.records if r.split != "test"]), tmp_path / "out")
    with pytest.raises(UserError, match="val split has no photograph"):
        baseline(encoder, written([r for r in manifest.records if r.split != "val"]), tmp_path / "out")
    with pytest.raises(UserError, match="no photograph of the test split has one"):
        baseline(encoder, manifest, tmp_path / "out", classes=["cataract", "hypertensive_retinopathy"])
    with pytest.raises(UserError, match="--lr above 0"):
        baseline(encoder, manifest, tmp_path / "out", recipe=Recipe(lr=0))
    assert not (tmp_path / "out").exists()


def test_a_training_that_breaks_says_what_to_do_and_keeps_the_last_epoch(manifest, encoder, tmp_path):
    made = training(manifest, encoder, tmp_path)
    made.fit(until=1)
    with torch.no_grad():
        made.cnn.head.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="smaller --lr"):
        made.fit()
    assert len(training(manifest, encoder, tmp_path).history) == 1


def test_from_the_command_line(manifest, tmp_path, capsys):
    data = next(manifest.root.rglob("*.jsonl"))
    words = ("baseline", "--data", data, "--out", tmp_path / "out", "--encoder", "fundus-vit-tiny", "--size", "64")
    assert run("evaluate.py", *words, "--weights", "random", "--epochs", "1", "--batch-size", "8") == 0
    said = capsys.readouterr().out
    assert "probe.balanced_accuracy" in said and "fine-tuned whole" in said
    assert run("evaluate.py", *words, "--epochs", "0") == 2
    assert "--epochs must be at least 1" in capsys.readouterr().err
    assert run("evaluate.py", *words, "--weights", "x") == 2  # no such weights
    assert "encoder.weights" in capsys.readouterr().err
