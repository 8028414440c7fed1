import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mdf.dialogue import Turn
from mdf.errors import UserError
from mdf.evaluation.controls import control_metrics, shuffle, source_guess, verdict
from mdf.evaluation.evaluate import evaluate
from mdf.models.language import decode
from mdf.records import FundusRecord


@pytest.mark.parametrize("seed", range(5))
def test_everybody_gets_another_patients_photograph(seed):
    groups = [f"p{i // 2}" for i in range(11)] + ["p9"] * 4
    other = shuffle(groups, seed=seed)
    assert sorted(other) == list(range(15))
    assert all(groups[i] != groups[j] for i, j in enumerate(other))
    assert np.array_equal(other, shuffle(groups, seed=seed))


def test_exactly_half_of_one_patient_still_works_and_more_is_said():
    assert shuffle(["a", "b", "a", "c"]).tolist() in ([1, 0, 3, 2], [1, 2, 3, 0], [3, 0, 1, 2], [3, 2, 1, 0])
    with pytest.raises(UserError, match="one patient has 3 of the 4"):
        shuffle(["a", "a", "a", "b"])


def picture(right: bool) -> dict:
    rng = np.random.default_rng(0)
    numbers = rng.integers(2, size=80)
    seen = np.eye(2)[numbers] if right else np.tile([0.9, 0.1], (80, 1))
    blind = np.tile([0.9, 0.1], (80, 1))
    tables = {"real": seen, "blank": blind, "shuffled": np.eye(2)[rng.permutation(numbers)] if right else blind}
    truth = [(["normal", "amd"][n],) for n in numbers]
    return control_metrics(truth, tables, ["normal", "amd"], [str(i // 2) for i in range(80)])


def test_a_model_that_looks_and_one_that_does_not():
    looks, blind = picture(True), picture(False)
    assert looks["real"]["balanced_accuracy"] == 1 and looks["blank"]["balanced_accuracy"] == 0.5
    assert looks["majority"]["balanced_accuracy"] == 0.5 and looks["gain_ci"][0] > 0
    assert "USES the picture" in verdict(looks)
    assert blind["gain"] == 0 and "NO SIGN" in verdict(blind)


def test_sure_without_a_right_answer_is_shown():
    truth, groups = [("normal",)] * 4, list("abcd")
    real = np.array([[0.7, 0.2, 0.1]] * 4)
    found = control_metrics(truth, {"real": real, "blank": real}, ["normal", "amd", "glaucoma"], groups)
    part = found["option_removed"]
    assert part["confidence"] == pytest.approx(0.7) and part["without_true"] == pytest.approx(0.2 / 0.3)
    assert part["fall"] == pytest.approx(0.7 - 0.2 / 0.3) and part["fall_ci"] == pytest.approx([part["fall"]] * 2)
    every = control_metrics([("normal", "amd")] * 4, {"real": real[:, :2], "blank": real}, ["normal", "amd"], groups)
    assert np.isnan(every["option_removed"]["confidence"])  # with two right answers of two none can be taken away


def test_the_source_alone_says_its_most_frequent_diagnosis():
    def some(source, *diagnoses):
        return [
            FundusRecord(id=f"{source}{i}", image="a.png", source=source, diagnosis=(d,))
            for i, d in enumerate(diagnoses)
        ]

    learnt = some("a", "amd", "amd", "normal") + some("b", "normal", "normal", "glaucoma")
    records = some("b", "amd") + some("a", "normal") + some("never seen", "glaucoma")
    assert source_guess(records, learnt, ["amd", "glaucoma", "normal"]).tolist() == [2, 0, 2]


def test_a_model_that_ignores_the_picture_is_exposed(checkpoint, tmp_path):
    model = checkpoint.model
    kept = {name: p.detach().clone() for name, p in model.fusion.named_parameters()}
    for name, p in model.fusion.named_parameters():
        if "gate" in name or name == "prefix.scale":
            p.data.zero_()
    records = checkpoint.manifest.split("all")[:12]
    try:
        found = evaluate(model, records, checkpoint.manifest, tmp_path, tasks=["controls"], resamples=50)["controls"]
    finally:
        for name, p in model.fusion.named_parameters():
            p.data.copy_(kept[name])
    assert found["gain"] <= 0 and found["blank"] == found["shuffled"] == found["real"]
    assert "NO SIGN" in verdict(found)


def test_text_only_is_the_language_model_without_any_photograph(checkpoint):
    model = checkpoint.model
    question, answers = "What is the diagnosis?", ["Glaucoma.", "Normal fundus."]
    scores = model.score_text(question, answers)
    for answer, score in zip(answers, scores, strict=True):
        turns = [model.system_turn(), Turn("user", question), Turn("assistant", answer)]
        encoded = model.processor.encode(turns, photograph=False)
        assert model.processor.image_token_id not in encoded.input_ids
        ids, labels = (torch.tensor([x]) for x in (encoded.input_ids, encoded.labels))
        with torch.no_grad():
            hidden, _ = decode(model.language, model.get_input_embeddings()(ids), None, 0)
            loss = F.cross_entropy(
                model.language.get_output_embeddings()(hidden)[0, :-1], labels[0, 1:], reduction="sum"
            )
        assert score == pytest.approx(-float(loss), rel=1e-4)
