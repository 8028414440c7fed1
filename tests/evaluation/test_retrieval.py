import numpy as np
import pytest

from mdf.evaluation.bootstrap import patient_groups
from mdf.evaluation.retrieval import rank_positives, retrieval_metrics
from mdf.records import FundusRecord


def test_photographs_with_the_same_caption_are_all_right_answers():
    texts = np.eye(3)[:2]  # two captions
    images = np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 1, 0]], dtype=float)
    caption_of = np.array([0, 0, 1])  # the second looks more like the other caption
    assert rank_positives(images, texts, caption_of, np.arange(2))[0].tolist() == [0, 1, 0]
    assert rank_positives(texts, images, np.arange(2), caption_of)[0].tolist() == [0, 0]  # the first finds its first
    metrics = retrieval_metrics(images, texts, caption_of, list("abc"))
    assert metrics["image_to_text_r1"] == 2 / 3 and metrics["text_to_image_r1"] == 1.0
    assert metrics["captions"] == 2 and metrics["image_to_text_r5"] == 1.0


def test_average_precision_counts_every_right_answer():
    gallery = np.array([[np.cos(a), np.sin(a)] for a in (0.1, 0.2, 0.3, 0.4)])
    rank, precision = rank_positives(np.array([[1.0, 0.0]]), gallery, np.array([7]), np.array([7, 1, 7, 1]))
    assert rank.tolist() == [0]
    assert precision.tolist() == [pytest.approx((1 / 1 + 2 / 3) / 2)]


def test_a_photograph_is_searched_among_other_patients():
    images = np.array([[1, 0], [1, 0], [0.6, 0.8], [0, 1]], dtype=float)
    diagnosis, patients = np.array([0, 0, 0, 1]), ["a", "a", "b", "c"]
    metrics = retrieval_metrics(images, np.eye(2), diagnosis, patients)
    # the twin eye of patient a is no answer; b is alike and nearer than c; c finds nobody alike and is left out;
    # of the others b's nearest are c (0.8) and then a (0.6)
    assert metrics["image_to_image_r1"] == pytest.approx(2 / 3)
    assert metrics["image_to_image_map"] == pytest.approx((1 + 1 + (1 / 2 + 2 / 3) / 2) / 3)


def test_the_right_answer_may_be_of_the_patient_of_the_same_number_in_another_source():
    images = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=float)
    records = [FundusRecord(f"{n}{s}", "x.png", n, source=s) for n in "12" for s in ("hrf", "stare")]
    metrics = retrieval_metrics(images, np.eye(2), np.array([0, 0, 1, 1]), patient_groups(records))
    assert metrics["image_to_image_map"] == metrics["image_to_image_r1"] == 1.0


def test_photographs_may_be_alike_in_another_way_than_their_captions():
    images = np.array([[1, 0], [0.8, 0.6], [0, 1]], dtype=float)
    metrics = retrieval_metrics(images, np.eye(3)[:, :2], np.arange(3), list("abc"), label_of=np.array([0, 0, 1]))
    assert metrics["image_to_image_r1"] == 1.0


def test_a_model_that_embeds_everything_alike_finds_nothing():
    metrics = retrieval_metrics(np.ones((12, 2)), np.ones((12, 2)), np.arange(12), [str(i) for i in range(12)])
    assert metrics["image_to_text_r1"] == metrics["text_to_image_r5"] == 0
    alike = retrieval_metrics(np.ones((24, 2)), np.ones((2, 2)), np.arange(24) % 2, [str(i) for i in range(24)])
    assert alike["image_to_image_r10"] == 0


def test_many_queries_are_ranked_as_few_are(monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(30, 4))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    labels, patients = rng.integers(0, 4, 30), [str(i // 2) for i in range(30)]
    whole = retrieval_metrics(images, images[:4], labels, patients)
    monkeypatch.setattr("mdf.evaluation.retrieval.CHUNK", 7)
    assert retrieval_metrics(images, images[:4], labels, patients) == whole
