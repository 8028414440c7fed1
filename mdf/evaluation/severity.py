"""How far a cataract score read from a generated text is from the record's (CSDI: 0, clear, to 10, nothing to be seen).

Shapes: N photographs, R resamples.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from mdf.curriculum import CATARACT_SCORE as SCALE
from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, put, resample, weighted_mean
from mdf.records import FundusRecord

LOWEST, HIGHEST, STEP = 0.0, 10.0, 0.5
NUMBER = r"(?<![\d.,])(\d{1,3}(?:[.,]\d+)?)(?!\d|[.,]\d)"
SCORE = re.compile(
    rf"{NUMBER}\s*(?:/|out of|of)\s*10\b(?![.,]\d)"
    rf"|\b(?:score|severity|graded?)\b(?:\s+[a-z]+){{0,4}}?\s*[:=]?\s*{NUMBER}\b(?!\s*(?:%|/|out of|of)\s*\d)",
    re.IGNORECASE,
)
# words on how much a cataract veils, in the order of their degree; the texts of CSDI use them, "mild to moderate" too
DEGREES = {"mild": 1.0, "slight": 1.0, "early": 1.0, "moderate": 2.0, "severe": 3.0, "dense": 3.0, "advanced": 3.0}
DEGREES |= {"significant": 3.0, "substantial": 3.0, "mature": 3.0}
WORD = "|".join(DEGREES)
DEGREE = re.compile(
    rf"\b({WORD})(?:(?:\s+to\s+|\s*-\s*to\s*-\s*|\s*/\s*|\s+or\s+|-)({WORD}))?\s+cataracts?\b", re.IGNORECASE
)
DENIED = re.compile(r"\b(?:no|not|without|absence of|rul(?:ed|ing) out|indicate a)\W+(?:\w+\W+){0,2}$", re.IGNORECASE)


def read_score(text: str) -> float | None:
    """The score from 0 to 10 that the text states; None where it states none, or two that differ."""
    said = {float((m[1] or m[2]).replace(",", ".")) for m in SCORE.finditer(text)}
    said = {score for score in said if LOWEST <= score <= HIGHEST}
    return said.pop() if len(said) == 1 else None


def read_degree(text: str) -> float | None:
    """1 mild, 2 moderate, 3 severe, "mild to moderate" 1.5: the last that the text affirms of a cataract, else None."""
    found = [m for m in DEGREE.finditer(text) if not DENIED.search(text[: m.start()])]
    if not found:
        return None
    ends = [DEGREES[word.lower()] for word in found[-1].groups() if word]
    return sum(ends) / len(ends)


def true_score(record: FundusRecord) -> float:
    """The record's score, NaN where it has none. Raises UserError for one that is no number from 0 to 10."""
    value = record.grade.get(SCALE)
    if value is None:
        return np.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not LOWEST <= value <= HIGHEST:
        raise UserError(f"record {record.id}: grade.{SCALE}: {value!r} must be a number from 0 to 10; correct it")
    return float(value)


def quadratic_kappa(truth: np.ndarray, said: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Cohen's kappa with quadratic weights of two scores [N] as a function of weights [R,N], from their moments, which
    is the same for levels at equal distances. Photographs with NaN on a side are left out; NaN where nothing varies.
    """
    known = ~np.isnan(truth) & ~np.isnan(said)
    a, b = np.where(known, truth, 0.0), np.where(known, said, 0.0)

    def metric(weights: np.ndarray) -> np.ndarray:
        total = weights @ known
        some = np.where(total > 0, total, 1)
        observed = (weights @ (a - b) ** 2) / some
        means = (weights @ a) / some, (weights @ b) / some
        expected = (weights @ a**2 + weights @ b**2) / some - 2 * means[0] * means[1]
        defined = (total > 0) & (expected > 1e-12)
        return np.where(defined, 1 - observed / np.where(defined, expected, 1), np.nan)

    return metric


def severity_metrics(
    generated: Sequence[str],
    records: Sequence[FundusRecord],
    groups: Sequence[str],
    *,
    degrees_of: Sequence[Sequence[str]] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Of the photographs with a score: `score_said`, the share of texts that state one; among those `score_mae`, mean
    absolute error in points, `score_within_1` and `score_kappa` (quadratic, steps of half a point).

    Where `degrees_of` holds reference texts with a degree in words (mild, moderate, severe): `degree_said` and
    `degree_kappa`, of the generated text's degree against the first reference's. Each with `NAME_ci`; {} where neither
    is known of any photograph.
    """
    truth = np.array([true_score(record) for record in records])
    said = np.array([np.nan if (s := read_score(text)) is None else s for text in generated])
    weights = resample(groups, resamples=resamples, seed=seed)
    metrics: dict = {}
    if not np.isnan(truth).all():
        error = np.abs(truth - said)
        put(metrics, "score_said", weighted_mean(np.where(np.isnan(truth), np.nan, ~np.isnan(said))), weights)
        if not np.isnan(error).all():
            rounded = np.round(said / STEP) * STEP
            put(metrics, "score_mae", weighted_mean(error), weights)
            put(metrics, "score_within_1", weighted_mean(np.where(np.isnan(error), np.nan, error <= 1)), weights)
            put(metrics, "score_kappa", quadratic_kappa(truth, rounded), weights)
    wanted = np.array([degree(texts[0]) if texts else np.nan for texts in degrees_of])
    if len(wanted) and not np.isnan(wanted).all():
        mine = np.array([degree(text) for text in generated])
        put(metrics, "degree_said", weighted_mean(np.where(np.isnan(wanted), np.nan, ~np.isnan(mine))), weights)
        put(metrics, "degree_kappa", quadratic_kappa(wanted, mine), weights)
    return metrics


def degree(text: str) -> float:
    """`read_degree` with NaN for None."""
    found = read_degree(text)
    return np.nan if found is None else found
