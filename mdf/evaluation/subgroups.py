"""Is the model as good for everybody? Any metric by source, eye, sex, age, camera and quality, and the gaps.

Shapes: N photographs, R resamples. A subgroup's value is the metric with the weights of all others set to 0, so that
all subgroups are read from the same resamples of patients and their differences have an interval.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mdf.evaluation.bootstrap import RESAMPLES, Metric, percentiles, put, resample
from mdf.records import FundusRecord

UNKNOWN = "unknown"
FEWEST = 10  # patients of a subgroup that a gap is read from
AGES = ((40, "under 40"), (60, "40 to 59"), (75, "60 to 74"), (np.inf, "75 and over"))  # years below, name
COLUMNS = ("source", "eye", "sex", "age", "camera", "quality")


def columns_of(records: Sequence[FundusRecord], quality: Sequence[str | None] | None = None) -> dict[str, list[str]]:
    """{column: the subgroup of each photograph}, `unknown` where it is not known. `quality` is what
    `mdf.imaging.quality.assess` calls gradable: good, barely or not. A column that knows nothing, or puts all
    photographs into one subgroup, is left out.
    """
    bands = [None if r.age is None else next(name for limit, name in AGES if r.age < limit) for r in records]
    found: dict[str, Sequence[str | None]] = {
        name: [getattr(r, name) for r in records] for name in ("source", "eye", "sex", "camera")
    }
    found |= {"age": bands, "quality": quality or [None] * len(records)}
    named = {name: [value or UNKNOWN for value in found[name]] for name in COLUMNS}
    return {name: members for name, members in named.items() if len(set(members)) > 1}


def subgroup_metrics(
    metrics: Mapping[str, Metric],
    columns: Mapping[str, Sequence[str]],
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict]:
    """By column `groups` {subgroup: `n`, `patients` and each of `metrics` with `NAME_ci`} and `gaps`.

    A gap is the difference of the subgroup with the greatest value and that with the least, `between` [greatest,
    least], with its interval from the same resamples; the pair is chosen on the photographs themselves, so that the
    interval can hold 0, but as the most extreme of several it is found apart from 0 by chance more often than 1 in 20.
    Subgroups of fewer than FEWEST patients are listed and give no gap, and neither do photographs of which the column
    is not known, a subgroup of their own. `groups` is the patient of each photograph.
    """
    weights, found = resample(groups, resamples=resamples, seed=seed), {}
    for column, members in columns.items():
        who = np.asarray(members)
        part: dict = {"groups": {}, "gaps": {}}
        values: dict[tuple[str, str], np.ndarray] = {}
        ages = [name for _, name in AGES]
        names = sorted(set(who.tolist()), key=lambda n: (n == UNKNOWN, ages.index(n) if n in ages else 0, n))
        for name in names:
            inside = who == name
            row: dict = {
                "n": int(inside.sum()),
                "patients": len({groups[i] for i in np.flatnonzero(inside).tolist()}),
            }
            part["groups"][name] = row
            for metric_name, metric in metrics.items():
                values[name, metric_name] = put(row, metric_name, within(metric, inside), weights)
                if row["patients"] < 2:  # drawn or not, it is the same photographs
                    row[f"{metric_name}_ci"] = None
        for metric_name in metrics:
            rows = {n: r for n, r in part["groups"].items() if n != UNKNOWN and r["patients"] >= FEWEST}
            points = {n: r[metric_name] for n, r in rows.items() if not np.isnan(r[metric_name])}
            if len(points) < 2:
                continue
            greatest, least = max(points, key=points.__getitem__), min(points, key=points.__getitem__)
            part["gaps"][metric_name] = points[greatest] - points[least]
            spread = values[greatest, metric_name] - values[least, metric_name]
            part["gaps"][f"{metric_name}_ci"] = percentiles(spread)
            part["gaps"][f"{metric_name}_between"] = [greatest, least]
        found[column] = part
    return found


def within(metric: Metric, inside: np.ndarray) -> Metric:
    """The same metric of the photographs `inside`, bool [N], alone."""
    return lambda weights: metric(weights * inside)
