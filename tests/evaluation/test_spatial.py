from collections import Counter

import numpy as np
import pytest

from mdf.dialogue import Prompts
from mdf.evaluation.spatial import KINDS, MEASURES, by_name, kinds_of, spatial_metrics, spatial_questions
from mdf.imaging.phantom import draw
from mdf.records import Finding, FundusRecord
from mdf.resources import bundled


def records() -> list[FundusRecord]:
    one = (Finding("drusen", "macula", None, 12), Finding("haemorrhage", "superotemporal", None, 3))
    two = (Finding("haemorrhage", "inferonasal", None, 30),)
    return [
        FundusRecord(id="1", image="1.png", patient="a", findings=one),
        FundusRecord(id="2", image="2.png", patient="b", findings=two),
        FundusRecord(id="3", image="3.png", patient="c", findings=()),
        FundusRecord(id="4", image="4.png", patient="d", findings=None),  # not assessed: nothing can be asked
    ]


def test_presence_is_balanced_for_every_lesion():
    questions = spatial_questions(records(), Prompts(bundled("prompts")))
    presence = [q for q in questions if q.question.kind == "presence"]
    assert Counter((q.question.finding, q.question.answer) for q in presence) == {
        ("drusen", "Yes."): 1,
        ("drusen", "No."): 1,
        ("haemorrhage", "Yes."): 1,
        ("haemorrhage", "No."): 1,
    }
    assert {(q.row, q.question.answer) for q in questions if q.question.kind == "quadrant"} == {
        (0, "Superotemporal."),
        (1, "Inferonasal."),
    }
    assert sum(q.question.kind == "count" for q in questions) == 3
    assert 3 not in {q.row for q in questions}


def test_metrics_by_hand():
    questions = spatial_questions(records(), Prompts(bundled("prompts")))
    predicted = [q.truth if q.question.kind != "presence" else 0 for q in questions]  # always says yes, else right
    metrics = spatial_metrics(questions, predicted, ["a", "b", "c", "d"])
    assert metrics["presence"]["balanced_accuracy"] == 0.5 == metrics["presence"]["chance"]
    assert metrics["quadrant"]["balanced_accuracy"] == metrics["count"]["balanced_accuracy"] == 1
    assert metrics["small_lesions"]["balanced_accuracy"] == pytest.approx(np.mean([0.5, 1, 1]))
    assert spatial_metrics([], [], []) == {}


def test_size_and_distance_are_asked_of_checkpoints_that_were_trained_on_them():
    assert kinds_of(()) == kinds_of(("eye", "presence")) == KINDS
    assert kinds_of(("distance", "size", "count")) == (*KINDS, *MEASURES)
    prompts = Prompts(bundled("prompts"))
    drawn = [draw(seed, 96).record(str(seed), f"{seed}.png") for seed in range(12)]
    plain, more = (spatial_questions(drawn, prompts, kinds=kinds) for kinds in (KINDS, (*KINDS, *MEASURES)))
    assert [q for q in more if q.question.kind in KINDS] == plain
    lesions = sum(f.count is not None for r in drawn for f in r.findings)
    for kind in MEASURES:
        mine = [q for q in more if q.question.kind == kind]
        assert len(mine) == lesions and len({q.truth for q in mine}) > 1
    assert spatial_questions(records(), prompts, kinds=MEASURES) == [], "these records have no boxes"


def test_other_kinds_leave_the_mean_of_small_lesions_as_it_was():
    prompts = Prompts(bundled("prompts"))
    drawn = [draw(seed, 96).record(str(seed), f"{seed}.png") for seed in range(12)]
    groups = [r.id for r in drawn]
    rng = np.random.default_rng(0)
    more = spatial_questions(drawn, prompts, kinds=(*KINDS, *MEASURES))
    answers = [int(rng.integers(len(q.question.candidates))) for q in more]
    plain = [(q, a) for q, a in zip(more, answers, strict=True) if q.question.kind in KINDS]
    with_measures = spatial_metrics(more, answers, groups, resamples=20)
    without = spatial_metrics([q for q, _ in plain], [a for _, a in plain], groups, resamples=20)
    assert set(with_measures) == {*KINDS, *MEASURES, "small_lesions"}
    assert with_measures["small_lesions"] == without["small_lesions"]
    alone = [(q, a) for q, a in zip(more, answers, strict=True) if q.question.kind == "size"]
    only = spatial_metrics([q for q, _ in alone], [a for _, a in alone], groups, resamples=20)
    assert set(only) == {"size", "small_lesions"} and "balanced_accuracy" not in only["small_lesions"]


def test_what_the_name_alone_tells():
    names = np.array(["a", "a", "a", "b", "b", "b"])
    assert by_name(names, np.array([0, 0, 0, 2, 2, 2])) == 1, "the name tells everything"
    assert by_name(names, np.array([0, 1, 1, 0, 1, 1])) == 0.5, "it tells nothing: chance"
    assert by_name(names, np.array([0, 0, 1, 1, 1, 0])) == pytest.approx(2 / 3)
