"""What the figures of embeddings are in known cases, and when they are called a collapse."""

import math

import pytest
import torch
import torch.nn.functional as F

from mdf.training.health import NARROW, alignment, collapse, effective_rank, uniformity, widest


def unit(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_rank_counts_directions():
    assert effective_rank(torch.eye(7)) == pytest.approx(7)
    assert effective_rank(torch.eye(7)[[0] * 20]) == pytest.approx(1)
    assert effective_rank(torch.eye(7)[[0, 1, 2] * 20]) == pytest.approx(3)
    assert effective_rank(torch.eye(7)[[0] * 90 + [1] * 10]) == pytest.approx(
        math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))  # singular values √90 and √10
    )


def test_alignment_is_the_mean_squared_distance_of_pairs():
    x = unit(5, 3)
    assert alignment(x, x) == 0
    assert alignment(x, -x) == pytest.approx(4)
    assert alignment(torch.eye(4), torch.eye(4)[[1, 0, 3, 2]]) == pytest.approx(2)


def test_uniformity_is_lower_the_more_evenly_embeddings_are_spread():
    spread, clustered = unit(256, 64), F.normalize(unit(256, 64) + 5 * torch.eye(64)[0], dim=1)
    assert uniformity(torch.eye(64)[[3] * 9]) == 0
    assert uniformity(torch.eye(6)) == pytest.approx(-4)
    assert uniformity(spread) == pytest.approx(-4 + 8 / 64, abs=0.05)  # log E exp(4 cos), of variance 1/64
    assert uniformity(spread) < uniformity(clustered) - 1 < -1


def figures(images: torch.Tensor, captions: int) -> dict[str, float]:
    return {"val_rank": effective_rank(images), "val_uniformity": uniformity(images), "val_captions": captions}


CONE = F.normalize(unit(32, 16) + 10 * torch.eye(16)[0], dim=1)  # as a fresh encoder has it
SPREAD = unit(32, 16)


def closer(images: torch.Tensor, share: float) -> torch.Tensor:
    """The same with `share` of the distance from their mean."""
    return F.normalize(images.mean(0) + share * (images - images.mean(0)), dim=1)


def test_embeddings_that_fall_together_are_a_collapse():
    before = widest({}, figures(SPREAD, 20))
    found = collapse(before, figures(closer(SPREAD, 0.01), 20))
    assert found is not None and found.startswith("all photographs are embedded in nearly the same place")
    assert collapse(before, figures(SPREAD, 20)) is None


def test_a_fresh_encoders_cone_is_none_but_may_collapse_too():
    before = widest({}, figures(CONE, 20))
    assert before["spread"] < NARROW
    assert collapse(before, figures(CONE, 20)) is None
    assert collapse(before, figures(closer(CONE, 0.7), 20)) is None  # which training begins with
    assert collapse(before, figures(closer(CONE, 0.1), 20)) is not None


def test_a_healthy_run_from_random_weights_raises_no_alarm():
    """Uniformity and rank of a tiny encoder at lr 1e-3 before the first step and at every eighth after it."""
    run = [(-0.0393, 1.90), (-0.0343, 1.84), (-0.0210, 1.65), (-0.0189, 1.56), (-0.0365, 1.68), (-0.0835, 1.93),
           (-0.0482, 1.86), (-0.0389, 1.94), (-0.1316, 2.59), (-0.1009, 2.55), (-0.0881, 2.54)]  # fmt: skip
    so_far: dict[str, float] = {}
    for value, rank in run:
        found = {"val_uniformity": value, "val_rank": rank, "val_captions": 5}
        assert collapse(so_far, found) is None
        so_far = widest(so_far, found)
    assert so_far == {"spread": 0.1316, "rank": 2.59}


def test_no_more_directions_are_asked_for_than_there_are_captions():
    before = widest({}, figures(unit(64, 32), 2))
    two = torch.eye(32)[[0] * 60 + [1] * 4]  # all that two captions, one of them rare, tell apart
    assert before["rank"] > 20 and collapse(before, figures(two, 2)) is None
    few = collapse(before, figures(two, 40))
    assert few is not None and "40 different captions are told apart along very few directions" in few


def test_without_figures_nothing_is_said():
    assert collapse({}, figures(CONE, 5)) is None
    assert collapse({"spread": 1.0, "rank": 5.0}, {"val_loss": 1.0}) is None and widest({}, {"val_loss": 1.0}) == {}
