import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mdf.errors import UserError
from mdf.evaluation.few_shot import (
    METHODS,
    clap,
    class_confidence,
    draw_support,
    few_shot_metrics,
    tip_adapter,
    tip_adapter_f,
)

CLASSES = ("normal", "glaucoma", "amd")
SCALE = 20.0


def unit(vectors: list) -> torch.Tensor:
    return F.normalize(torch.tensor(vectors, dtype=torch.float64), dim=1)


def test_support_is_drawn_by_class_and_seed():
    truth = [("normal",)] * 20 + [("glaucoma",)] * 5 + [("glaucoma", "amd")] * 2
    rows, labels = draw_support(truth, CLASSES, 4, seed=0)
    assert np.bincount(labels).tolist() == [4, 4, 2]  # there are two of the last
    assert all(CLASSES[c] in truth[i] for i, c in zip(rows, labels, strict=True))
    assert len(set(rows)) == len(rows)  # a photograph with two diagnoses is drawn once
    assert np.array_equal(rows, draw_support(truth, CLASSES, 4, seed=0)[0])
    assert not np.array_equal(rows, draw_support(truth, CLASSES, 4, seed=1)[0])


def test_a_class_is_held_as_fast_as_its_texts_know_it():
    texts = unit([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    support = unit([[1, 0, 0], [0, 0, 1], [0, 0, 1]])  # the second class looks like the third one's text
    confidence = class_confidence(support, torch.tensor([0, 1, 1]), texts, SCALE)
    assert confidence[0] == pytest.approx(1, abs=1e-6) and confidence[1] == pytest.approx(0, abs=1e-6)
    assert confidence[2] == 1  # nothing was seen of it


def test_the_class_adaptive_probe_learns_where_the_texts_are_wrong_and_stays_where_they_are_right():
    texts = unit([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    support = unit([[1, 0, 0, 0], [0, 0, 0, 1]])  # glaucoma looks like nothing the texts speak of
    labels = torch.tensor([0, 1])
    query = unit([[0.9, 0.1, 0, 0.1], [0.1, 0, 0.12, 0.95], [0, 0.1, 1, 0]])
    logits = clap(support, labels, texts, SCALE, query)
    assert logits.argmax(dim=1).tolist() == [0, 1, 2]  # the third class, never seen, is still known by its text
    assert (SCALE * query @ texts.T).argmax(dim=1).tolist() == [0, 2, 2]


def test_the_class_adaptive_probe_keeps_texts_that_fit():
    texts = unit([[1, 0, 0], [0, 1, 0]])
    logits = clap(texts, torch.tensor([0, 1]), texts, 100.0, texts)
    assert torch.allclose(logits, 100.0 * texts @ texts.T, atol=1e-3)  # the loss is 1e-44 from the start


def test_the_class_adaptive_probe_stands_at_a_minimum():
    torch.manual_seed(0)
    texts, support = unit(torch.randn(3, 6).tolist()), unit(torch.randn(12, 6).tolist())
    labels = torch.arange(12) % 3
    # what a query along each axis gets is the probe's weights, made unit vectors
    weights = clap(support, labels, texts, SCALE, torch.eye(6, dtype=torch.float64)).T / SCALE
    confidence = class_confidence(support, labels, texts, SCALE)

    def loss(w: torch.Tensor) -> float:
        fit = F.cross_entropy(SCALE * support @ w.T, labels)
        length = (w * texts).sum(dim=1, keepdim=True).clamp(min=0)  # the best length of a weight of that direction
        return float(fit + (confidence * (length * w - texts).pow(2).sum(dim=1)).sum())

    at = loss(weights)
    for _ in range(20):
        assert loss(F.normalize(weights + 0.02 * torch.randn(3, 6, dtype=torch.float64), dim=1)) >= at - 1e-4


def test_tip_adapter_is_its_formula():
    texts, support = unit([[1, 0], [0, 1]]), unit([[1, 1], [0, 1]])
    query = unit([[1, 0]])
    cosine = float(2**-0.5)
    expected = [SCALE + np.exp(-5 * (1 - cosine)), 0 + np.exp(-5)]
    assert np.allclose(tip_adapter(support, torch.tensor([0, 1]), texts, SCALE, query)[0].numpy(), expected)


def test_trained_keys_fit_the_support_better():
    torch.manual_seed(0)
    texts, support = unit(torch.randn(3, 6).tolist()), unit(torch.randn(12, 6).tolist())
    labels = torch.arange(12) % 3
    fixed, trained = (f(support, labels, texts, 5.0, support) for f in (tip_adapter, tip_adapter_f))
    assert F.cross_entropy(trained, labels) < F.cross_entropy(fixed, labels)


def test_the_support_said_is_that_of_the_smallest_draw(capsys):
    # photographs of two classes serve one of them alone, so that the other may lack them
    truth = [CLASSES[:2], CLASSES[:2], CLASSES[1:], CLASSES[1:], CLASSES[:1]]
    sizes = [len(draw_support(truth, CLASSES, 2, seed)[0]) for seed in range(10)]
    last = next(n for n in range(2, 11) if sizes[n - 1] > min(sizes[:n]))
    vectors = np.eye(5)
    metrics = few_shot_metrics(
        vectors, truth, vectors, truth, vectors[:3], SCALE, CLASSES, list("abcde"), shots=(2,), seeds=last, resamples=5
    )
    assert metrics["shots_2"]["support"] == min(sizes[:last])
    assert f"few_shot: {min(sizes[:last])} training photographs instead of 2" in capsys.readouterr().out


def test_more_photographs_help_and_the_spread_is_over_the_draws():
    rng = np.random.default_rng(0)
    centres = np.eye(12)[:3]

    def photographs(count: int) -> tuple[np.ndarray, list[tuple[str, ...]]]:
        labels = rng.integers(0, 3, count)
        vectors = centres[labels] + 0.25 * rng.normal(size=(count, 12))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), [(CLASSES[i],) for i in labels]

    (train, train_truth), (test, truth) = photographs(150), photographs(90)
    nothing = np.eye(12)[9:]  # texts that know nothing of the classes
    groups = [str(i) for i in range(90)]
    metrics = few_shot_metrics(
        train, train_truth, test, truth, nothing, SCALE, CLASSES, groups, shots=(1, 16), seeds=3, resamples=50
    )
    few, many = metrics["shots_1"], metrics["shots_16"]
    assert few["support"] == 3 and many["support"] == 48
    for method in METHODS:
        assert set(many[method]) == {
            f"{m}{e}" for m in ("balanced_accuracy", "macro_auroc") for e in ("", "_ci", "_sd")
        }
        low, high = many[method]["macro_auroc_ci"]
        assert low <= many[method]["macro_auroc"] <= high
    assert many["clap"]["balanced_accuracy"] > few["clap"]["balanced_accuracy"] > 1 / 3
    assert many["clap"]["balanced_accuracy"] > 0.8
    assert few["clap"]["balanced_accuracy_sd"] > 0


def test_nothing_to_draw_from_is_said():
    with pytest.raises(UserError, match="no training photograph"):
        few_shot_metrics(np.eye(3), [(), (), ()], np.eye(3), [("amd",)] * 3, np.eye(3), 1.0, CLASSES, list("abc"))
