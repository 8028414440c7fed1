"""Counterfactual pairs: which questions are asked of them, and what the figures say of a model."""

import json

import numpy as np
import pytest

from mdf.dialogue import Prompts
from mdf.errors import UserError
from mdf.evaluation.counterfactual import NEEDS, Counterfactuals, pair_questions
from mdf.imaging.phantom_pairs import CHANGES, draw_pair
from mdf.resources import bundled

DIAGNOSES = ("normal", "diabetic_retinopathy", "amd", "glaucoma")


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts(bundled("prompts"))


@pytest.fixture(scope="module")
def asked(prompts) -> Counterfactuals:
    """Twelve pairs of 96 pixels with their questions, not answered yet."""
    task = Counterfactuals(prompts, DIAGNOSES, pairs=12, seed=0, size=96)
    for number in range(task.pairs):
        task.questions += pair_questions(task.draw(number), number, task.kinds, prompts, DIAGNOSES, seed=0)
    return task


def answered(task: Counterfactuals, choose) -> dict:
    task.answers = [choose(q) for q in task.questions]
    return task.figures(resamples=50)


def test_what_changes_is_asked_and_as_much_that_does_not(asked):
    for number in range(asked.pairs):
        mine = [q for q in asked.questions if q.pair == number]
        assert sum(q.changes for q in mine) >= sum(not q.changes for q in mine) >= 1
        change = mine[0].change
        about = {(q.asked[0].kind, q.asked[0].finding) for q in mine if q.changes}
        wanted = NEEDS[change], None if change == "cup" else mine[0].finding
        assert wanted in about
        assert all(
            one.text == other.text and one.candidates == other.candidates for one, other in (q.asked for q in mine)
        )


def test_a_model_that_reads_everything_a_blind_one_and_one_that_only_flickers(asked):
    right = answered(asked, lambda q: q.truth)
    assert right["changed_right"] == right["unchanged_same"] == right["consistency"] == 1
    blind = answered(asked, lambda q: (0, 0))
    assert (blind["changed_right"], blind["unchanged_same"]) == (0, 1)
    share = np.mean([not q.changes for q in asked.questions])
    assert blind["consistency"] == pytest.approx(share) and share <= 0.5
    flickers = answered(asked, lambda q: (0, 1))
    assert flickers["unchanged_same"] == 0
    wrong_but_steady = answered(asked, lambda q: tuple(1 - min(t, 1) for t in q.truth) if q.changes else (1, 1))
    assert wrong_but_steady["unchanged_same"] == 1 and wrong_but_steady["changed_right"] == 0


def test_figures_are_told_by_kind_of_change_with_intervals_over_pairs(asked):
    metrics = answered(asked, lambda q: q.truth if q.change == "quadrant" else (0, 0))
    assert list(metrics["by_change"]) == list(CHANGES)
    assert metrics["by_change"]["quadrant"]["consistency"] == 1
    assert metrics["by_change"]["lesion"]["changed_right"] == 0
    assert metrics["pairs"] == 12 and all(part["pairs"] == 3 for part in metrics["by_change"].values())
    asked_by_kind = metrics["by_question"]
    assert sum(part["questions"] for part in asked_by_kind.values()) == metrics["questions"]
    assert asked_by_kind["quadrant"]["changed_right"] == 1 and asked_by_kind["count"]["changed_right"] < 1
    low, high = metrics["changed_right_ci"]
    assert low <= metrics["changed_right"] <= high and low < high
    pairs = {q.pair for q in asked.questions if q.changes and q.change == "quadrant"}
    assert len(pairs) == 3


def test_sizes_and_distances_are_asked_of_models_that_know_them_alone(prompts):
    pair = draw_pair(2, "quadrant", 96)
    kinds = Counterfactuals(prompts, DIAGNOSES, ("presence", "quadrant", "size", "distance")).kinds
    assert kinds == ("presence", "quadrant", "count", "size", "distance")
    assert Counterfactuals(prompts, DIAGNOSES).kinds == ("presence", "quadrant", "count", "eye", "diagnosis")
    many = pair_questions(pair, 0, kinds, prompts, DIAGNOSES, seed=0)
    assert any(q.changes and q.asked[0].kind in ("size", "distance") for q in many) or len(many) >= 2


def test_without_a_diagnosis_to_choose_the_cup_is_left_alone(prompts):
    assert Counterfactuals(prompts, ("normal", "amd")).changes == ["lesion", "quadrant", "count"]
    assert Counterfactuals(prompts, DIAGNOSES, ("presence", "eye")).changes == ["lesion", "quadrant", "count"]
    with pytest.raises(UserError, match="2 are fewer than the kinds of change lesion"):
        Counterfactuals(prompts, DIAGNOSES, pairs=2)


def test_a_checkpoint_is_asked_about_photographs_drawn_on_the_fly(checkpoint):
    processor = checkpoint.model.processor
    task = Counterfactuals(processor.prompts, processor.diagnoses, processor.questions, pairs=5, seed=1, size=96)
    task.ask(checkpoint.model, batch_size=4)
    metrics = task.figures(resamples=20)
    assert metrics["questions"] == len(task.answers) == len(task.questions) and 0 <= metrics["consistency"] <= 1
    lines = task.lines()
    assert json.loads(json.dumps(lines)) == lines and {line["pair"] for line in lines} == set(range(5))
    before = list(task.questions)
    task.ask(checkpoint.model, batch_size=64)
    assert task.questions == before, "the photographs are those of the seed, in any batch"
