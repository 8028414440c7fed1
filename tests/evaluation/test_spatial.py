from collections import Counter

import numpy as np
import pytest

from mdf.dialogue import Prompts
from mdf.evaluation.spatial import spatial_metrics, spatial_questions
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
