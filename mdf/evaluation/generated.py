"""Generated texts: how like the references they are, whether they agree with what is known, and what cannot be read.

Shapes: N photographs, R resamples.
"""

from collections.abc import Callable, Sequence

import numpy as np

from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, put, resample, weighted_mean
from mdf.evaluation.consistency import consistency_metrics, harmonic, share
from mdf.evaluation.facts import AFFIRMED, DENIED, read_facts
from mdf.evaluation.parse import parse_diagnoses
from mdf.evaluation.severity import severity_metrics
from mdf.evaluation.text import Words, is_chinese, overlap_metrics, references, repeats
from mdf.records import FundusRecord


def text_metrics(
    generated: Sequence[str],
    records: Sequence[FundusRecord],
    groups: Sequence[str],
    *,
    kinds: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """All figures of one generated description a photograph; scalars, each with `NAME_ci`.

    `references` are the records' texts of `kinds`, by default what serves as their report. Keys: `n`, `empty` and
    `repeating` (shares of texts), `distinct` (different texts over all, without interval), `overlap` (see
    `overlap_metrics`), `reference_facts` (see `reference_fact_metrics`), `consistency` (see `consistency_metrics`) and,
    where a cataract's score or degree is known, `severity`. Where no record has a text, `overlap` is {"n": 0}, said
    aloud, and `reference_facts` is left out. Raises UserError where there is no photograph.
    """
    if not len(generated) == len(records) == len(groups):
        raise ValueError(
            f"{len(generated)} texts, {len(records)} records and {len(groups)} groups do not belong together"
        )
    if not records:
        raise UserError("no photograph to judge texts of: the split is empty")
    options = {"resamples": resamples, "seed": seed}
    weights = resample(groups, **options)
    wanted = references(records, kinds)
    words = Words(is_chinese(generated))
    metrics: dict = {"n": len(generated), "distinct": len({t.strip() for t in generated}) / len(generated)}
    put(metrics, "empty", shares([not text.strip() for text in generated]), weights)
    put(metrics, "repeating", shares([repeats(words.tokenize(text)) for text in generated]), weights)
    if not any(wanted):
        what = ", ".join(kinds) or "report, caption, keywords, en or text"
        print(f"text overlap left out: none of the {len(records)} photographs has a text ({what})")
    metrics["overlap"] = overlap_metrics(generated, wanted, groups, **options)
    if any(wanted):
        metrics["reference_facts"] = reference_fact_metrics(generated, wanted, groups, **options)
    metrics["consistency"] = consistency_metrics(generated, records, groups, **options)
    severity = severity_metrics(generated, records, groups, degrees_of=wanted, **options)
    if severity:
        metrics["severity"] = severity
    return metrics


def reference_fact_metrics(
    generated: Sequence[str],
    references: Sequence[Sequence[str]],
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """`precision`, `recall` and `f1` of the facts (a name, affirmed or denied) against all that the references of a
    photograph say, summed over photographs; `cup_disc_said`, `cup_disc_mae`. Photographs without a reference are left
    out, and figures that no reference can tell.
    """
    rows = np.zeros((len(generated), 3))  # shared, said, wanted
    ratios = np.full((len(generated), 2), np.nan)
    for row, (text, texts) in enumerate(zip(generated, references, strict=True)):
        if not texts:
            continue
        said, wanted = statements(text), set().union(*map(statements, texts))
        if wanted:  # else there is nothing to be compared with
            rows[row] = len(said & wanted), len(said), len(wanted)
        ratios[row] = (
            cup_disc(text),
            np.nanmean(known) if (known := [c for t in texts if (c := cup_disc(t)) == c]) else np.nan,
        )
    weights = resample(groups, resamples=resamples, seed=seed)
    metrics: dict = {}
    found: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "precision": share(rows[:, 0], rows[:, 1]),
        "recall": share(rows[:, 0], rows[:, 2]),
    }
    found["f1"] = harmonic(found["precision"], found["recall"])
    told = ~np.isnan(ratios[:, 1])
    found["cup_disc_said"] = weighted_mean(np.where(told, ~np.isnan(ratios[:, 0]), np.nan))
    found["cup_disc_mae"] = weighted_mean(np.abs(ratios[:, 0] - ratios[:, 1]))
    one = np.ones((1, len(generated)))
    for name, metric in found.items():
        if not np.isnan(metric(one)[0]):
            put(metrics, name, metric, weights)
    return metrics


def statements(text: str) -> set[tuple[str, str]]:
    """What a text affirms or denies, without eye, place and number."""
    return {(f.name, f.status) for f in read_facts(text).facts if f.status in (AFFIRMED, DENIED)}


def cup_disc(text: str) -> float:
    """The first cup-disc ratio of a text, NaN without one."""
    found = read_facts(text).cup_disc
    return found[0].ratio if found else np.nan


def answer_metrics(
    generated: Sequence[str],
    truth: Sequence[Sequence[str]],
    diagnoses: Sequence[str],
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Of generated answers to "What is the diagnosis?": `accuracy`, the share that names a true diagnosis of the
    candidates and no wrong one; and how they can be read: `parsed_one`, `parsed_none`, `parsed_several` (which sum to
    1) and `empty` (part of none). No answer becomes a class that it does not name.
    """
    if not generated:
        raise UserError("no answer to judge: no photograph has a diagnosis that the checkpoint knows")
    parsed = [parse_diagnoses(text, diagnoses) for text in generated]
    figures = {
        "accuracy": [bool(p) and set(p) <= set(t) for p, t in zip(parsed, truth, strict=True)],
        "parsed_one": [len(p) == 1 for p in parsed],
        "parsed_none": [not p for p in parsed],
        "parsed_several": [len(p) > 1 for p in parsed],
        "empty": [not text.strip() for text in generated],
    }
    weights, metrics = resample(groups, resamples=resamples, seed=seed), {"n": len(parsed)}
    for name, values in figures.items():
        put(metrics, name, shares(values), weights)
    return metrics


def shares(values: Sequence[bool]) -> Callable[[np.ndarray], np.ndarray]:
    """The metric "share of photographs where it is so"."""
    return weighted_mean(np.array(values, dtype=float))
