"""The layer-wise report: a layer that knows is found, one that does not is not, and the answer is the task's own."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mdf.errors import UserError
from mdf.evaluation.classification import classification_metrics
from mdf.evaluation.diagnosis import candidate_probabilities
from mdf.evaluation.layers import (
    ANSWER,
    SCORES,
    diagnosis_prompt,
    layer_features,
    layer_report,
    layers,
    parts_of,
    table_of,
    verdict,
)
from mdf.evaluation.photographs import embed, load_inputs
from mdf.models.answers import prompts
from mdf.records import Manifest, group_of
from tests.scripts import run

CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def two(checkpoint):
    """Two photographs, and what the report reads of them."""
    inputs = load_inputs(checkpoint.model, checkpoint.manifest.records[:2], checkpoint.manifest)[0]
    return inputs, layer_features(checkpoint.model, inputs)


def test_every_part_is_read_in_the_order_of_the_model(checkpoint, two):
    _, found = two
    model = checkpoint.model
    adapted = [f"language.layer{k:02d}{end}" for k in model.fusion.layers for end in ("", ".fused")]
    assert list(found) == [
        "encoder.pooled",
        "encoder.embedding",
        *(f"unet.depth{d}" for d in (1, 2, 3, 4)),
        *(["unet.readings"] if model.fusion.masks else []),
        "connector.prefix",
        *(f"connector.memory.depth{d}" for d in model.fusion.depths),
        *adapted,
        "language.last",
        SCORES,
    ]
    for layer, features in found.items():
        assert len(features) == 2 and np.isfinite(features).all(), layer
        assert layer == SCORES or np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5), layer


def test_hidden_states_are_those_of_the_last_token_of_the_question(checkpoint, two):
    """Against transformers' own hidden states, which are the inputs of the layers, before an adapter acts on them."""
    inputs, found = two
    model = checkpoint.model
    text, _ = prompts(model, [diagnosis_prompt(model)[0]] * 2)
    given = []
    hook = model.language.get_base_model().model.layers[1].register_forward_pre_hook(lambda _, a: given.append(a[0]))
    with torch.no_grad():
        out = model(**text, pixel_values=inputs["pixel_values"], unet_pixels=inputs["unet_pixels"])
    hook.remove()
    if 1 in model.fusion.layers:  # what the layer is given is what its adapter made
        last = given[0][:, -1].numpy()
        assert np.allclose(
            found["language.layer01.fused"], last / np.linalg.norm(last, axis=1, keepdims=True), atol=1e-5
        )
        assert not np.allclose(found["language.layer01.fused"], found["language.layer01"], atol=1e-3)
    head = model.language.get_base_model().lm_head
    logits = torch.from_numpy(found["language.last"]) @ head.weight.T.float()
    assert torch.equal(logits.argmax(1), out.logits[:, -1].argmax(1))  # a unit vector's logits are in the same order


def test_towers_are_read_as_the_other_tasks_read_them(checkpoint, two):
    inputs, found = two
    for name in ("embedding", "pooled"):
        assert np.allclose(found[f"encoder.{name}"], embed(checkpoint.model, inputs, name), atol=1e-6)


def test_nothing_stays_on_the_model_and_a_second_call_is_the_same(checkpoint, two):
    inputs, found = two
    model = checkpoint.model
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    again = layer_features(model, inputs)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks
    for layer in found:
        assert np.array_equal(found[layer], again[layer]), layer


def test_a_model_without_fusion_is_read_between_its_layers(checkpoint, tmp_path_factory):
    from mdf.models.fusion import MDFModel
    from tests.tiny import tiny_config

    folder = tmp_path_factory.mktemp("baseline")
    model = MDFModel.build(tiny_config(folder, **{"fusion.depths": ()}), ("normal", "amd"))
    inputs = load_inputs(model, checkpoint.manifest.records[:2], checkpoint.manifest)[0]
    assert list(layer_features(model, inputs)) == [
        "encoder.pooled",
        "encoder.embedding",
        "connector.prefix",
        "language.layer01",
        "language.layer02",
        "language.layer03",
        "language.last",
        SCORES,
    ]


def made_up(seed: int) -> tuple[dict[str, np.ndarray], list[tuple[str, ...]]]:
    """30 photographs: one layer that knows, one that does not, and scores that know and prefer the first class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(30) % 3
    noise, known = rng.normal(size=(30, 6)), np.eye(3)[labels]
    features = {
        "encoder.pooled": np.column_stack([4 * known, noise]),
        "language.last": noise,
        SCORES: 2 * known + 0.3 * rng.normal(size=(30, 3)) + np.array([9.0, 0.0, 0.0]),
    }
    return features, [(CLASSES[i],) for i in labels]


def test_an_informative_layer_is_found_and_a_loss_shows_with_its_interval():
    learnt = {"train": made_up(0), "val": made_up(1)}
    judged, truth = made_up(2)
    groups = [f"patient {i // 2}" for i in range(30)]
    report = layer_report(learnt, judged, truth, CLASSES, groups, resamples=200)
    assert report["encoder.pooled"]["balanced_accuracy"] == 1
    assert report["language.last"]["balanced_accuracy"] < 0.6
    assert report["language.last"]["against"]["balanced_accuracy_ci"][1] < 0
    # the scores know, and the answer, which prefers one class, does not show it
    assert report[SCORES]["balanced_accuracy"] > 0.9 > report[ANSWER]["balanced_accuracy"]
    assert report[ANSWER]["balanced_accuracy"] == pytest.approx(1 / 3)
    text = table_of(report)
    assert len(text.splitlines()) == 1 + len(report) and "1.000 [1.000, 1.000]" in text
    assert "encoder 1.000 (encoder.pooled)" in verdict(report) and verdict(report).endswith("answer 0.333")


def test_what_is_judged_chooses_no_regularisation(checkpoint):
    manifest = checkpoint.manifest
    parts = parts_of(manifest, "test")
    assert parts == {"train": manifest.split("train"), "val": manifest.split("val"), "judged": manifest.split("test")}
    parts = parts_of(manifest, "val")
    assert parts["judged"] == manifest.split("val") and parts["val"]
    groups = [{group_of(r) for r in parts[name]} for name in ("train", "val", "judged")]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    ids = {r.id for r in manifest.split("train")}
    assert {r.id for r in parts["train"] + parts["val"]} == ids
    for split in ("train", "all"):
        with pytest.raises(UserError, match=f"cannot be judged on {split}"):
            parts_of(manifest, split)
    train = manifest.split("train")[0]
    torn = [replace(r, patient=train.patient) if r.split == "test" else r for r in manifest.records]
    with pytest.raises(UserError, match="keeps patients together"):
        parts_of(Manifest(tuple(torn), manifest.root), "test")


def test_the_answer_is_the_task_diagnosis(checkpoint, tmp_path):
    model, manifest = checkpoint.model, checkpoint.manifest
    report = layers(model, manifest, tmp_path, batch_size=4, resamples=50)
    assert json.loads((tmp_path / "layers.json").read_text()) == report
    assert report["n"] == len(manifest.split("test")) and report["train"] == len(manifest.split("train"))
    records = manifest.split("test")
    inputs = load_inputs(model, records, manifest)[0]
    question = model.processor.prompts.questions["diagnosis"]["ask"][0]
    table = candidate_probabilities(model, inputs, question, diagnosis_prompt(model)[1])
    truth, groups = [r.diagnosis for r in records], [f"patient {r.patient}" for r in records]
    wanted = classification_metrics(truth, table, list(model.processor.diagnoses), groups, resamples=50)
    for name in ("balanced_accuracy", "macro_auroc", "balanced_accuracy_ci"):
        assert report["layers"][ANSWER][name] == pytest.approx(wanted[name], abs=1e-6)


def test_from_the_command_line(checkpoint, tmp_path, capsys):
    words = ("layers", "--checkpoint", checkpoint.run, "--data", checkpoint.data, "--out", tmp_path, "--learn", "8")
    assert run("evaluate.py", *words) == 0
    said = capsys.readouterr().out
    assert "language.last" in said and "best of each part" in said and "a guess reaches 0.250" in said
    assert json.loads((tmp_path / "layers.json").read_text())["train"] == 8
    assert run("evaluate.py", *words, "--split", "val") == 0
    report = json.loads((tmp_path / "layers.json").read_text())
    assert report["n"] == len(checkpoint.manifest.split("val"))
    assert report["val"] == len(parts_of(checkpoint.manifest, "val")["val"])
    capsys.readouterr()
    assert run("evaluate.py", *words, "--batch-size", "0") == 2
    assert "--batch-size must be at least 1" in capsys.readouterr().err


def test_a_split_that_is_missing_is_named_before_anything_is_computed(checkpoint, tmp_path):
    from mdf.records import Manifest

    manifest = checkpoint.manifest
    untrained = Manifest(tuple(r for r in manifest.records if r.split != "val"), manifest.root)
    with pytest.raises(UserError, match="no photograph of the val split"):
        layers(checkpoint.model, untrained, tmp_path)
