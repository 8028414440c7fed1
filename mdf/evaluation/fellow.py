"""The patient's other eye beside each photograph: most diseases of the retina are of both eyes.

Shapes: N photographs, D width of the features.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from mdf.records import FundusRecord, group_of


def fellows(records: Sequence[FundusRecord]) -> list[list[int]]:
    """[N]: the rows of the other eye of each photograph's patient; [] where patient or eye is not known, or none is."""
    of: dict[tuple, list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        if record.patient and record.eye:
            of[group_of(record)].append(row)
    return [[k for k in of[group_of(r)] if r.eye and records[k].eye != r.eye] for r in records]


def other_eyes(judged: Sequence[FundusRecord], pool: Sequence[FundusRecord]) -> list[FundusRecord]:
    """The photographs of `pool` that show the other eye of one of `judged` and are not among them."""
    ids, eyes = {r.id for r in judged}, defaultdict(set)
    for r in judged:
        if r.patient and r.eye:
            eyes[group_of(r)].add(r.eye)
    return [r for r in pool if r.patient and r.eye and r.id not in ids and eyes.get(group_of(r), set()) - {r.eye}]


def beside_fellow(features: np.ndarray, records: Sequence[FundusRecord]) -> np.ndarray:
    """float [N,2D]: each photograph's `features` [N,D], and the mean of those of the patient's other eye.

    Where there is none, the photograph's own stand there once more: the likeliest other eye is an equal one.
    """
    other = features.copy()
    for row, rows in enumerate(fellows(records)):
        if rows:
            other[row] = features[rows].mean(axis=0)
    return np.concatenate([features, other], axis=1)
