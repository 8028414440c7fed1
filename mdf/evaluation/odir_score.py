"""ODIR-5K as its challenge scores it: a patient a row, eight columns, the mean of kappa, F1 and AUC.

All 8·P answers are flattened into one list of yes or no, most of them rightly no: a model that knows nothing but that
most people lack most diseases looks good on two of the three. So the figures by class stand beside the score.

Shapes: N photographs, P patients, C = 8 columns.
"""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

import numpy as np

from mdf.datasets.odir5k import CLASSES
from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, Metric, known_mean, put, resample
from mdf.evaluation.classification import kappa
from mdf.evaluation.multi_label import counts, f1, macro_f1
from mdf.evaluation.ranking import auroc

NORMAL = "N"
HALF = 0.5  # the challenge's threshold
HEAD = ("ID", *CLASSES)


def by_patient(lines: Sequence[Mapping], task: str, labels: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Patients, truth bool [P,8] and probabilities [P,8] from lines of predictions.jsonl, whose `task` holds
    probabilities and whose `labels` the true classes of a photograph.

    A disease of either eye is the patient's: the higher of the two probabilities counts. Normal is who is normal in
    both: the lower one. Raises UserError for photographs without a patient, for patients of one number in two sources
    and for classes that are not ODIR's.
    """
    patients: dict[str, list[Mapping]] = {}
    sources: dict[str, str] = {}
    for line in lines:
        if line.get("patient") is None:
            raise UserError(
                f"photograph {line['id']} has no patient, and ODIR's score is one of patients; "
                "evaluate a manifest that names them"
            )
        patient, source = str(line["patient"]), line.get("source") or ""
        if sources.setdefault(patient, source) != source:
            raise UserError(
                f"patient {patient} stands in two sources ({sources[patient] or 'none'}, {source or 'none'}); ODIR's "
                "score is of ODIR-5K alone: evaluate its manifest"
            )
        patients.setdefault(patient, []).append(line)
    named = {name for line in lines for name in (*line[task], *line[labels])}
    if strange := sorted(named - set(CLASSES.values())):
        raise UserError(f"ODIR's score knows the classes {', '.join(CLASSES.values())}, not {', '.join(strange)}")
    truth, scores = np.zeros((len(patients), 8), dtype=bool), np.zeros((len(patients), 8))
    for row, eyes in enumerate(patients.values()):
        for column, (letter, name) in enumerate(CLASSES.items()):
            is_there = [name in eye[labels] for eye in eyes]
            values = [float(eye[task].get(name, 0.0)) for eye in eyes]
            truth[row, column] = all(is_there) if letter == NORMAL else any(is_there)
            scores[row, column] = min(values) if letter == NORMAL else max(values)
    return list(patients), truth, scores


def odir_metrics(
    patients: Sequence[str], truth: np.ndarray, scores: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict:
    """`official.score`, the mean of `official.kappa`, `.f1` (micro) and `.auc` over the flattened answers at 0.5, and
    beside it `macro_f1`, `macro_auroc` and `per_class` (`auroc`, `f1`, `n`), each with `NAME_ci`, patients drawn.

    Raises UserError for scores that are not numbers, where fewer than two patients are left and where none has a class.
    """
    if not np.isfinite(scores).all():
        raise UserError("some scores are not numbers; nothing was judged")
    if len(patients) < 2:
        raise UserError(f"{len(patients)} patient: there is nothing to judge; ODIR's score needs several")
    if not truth.any():
        raise UserError(f"no patient has any of the classes {', '.join(CLASSES.values())}: there is nothing to judge")
    yes, weights = scores >= HALF, resample(patients, resamples=resamples, seed=seed)
    flat = [auroc(truth.ravel(), scores.ravel()), kappa(truth.ravel().astype(int), yes.ravel().astype(int), 2)]

    def flattened(metric: Metric) -> Metric:
        return lambda w: metric(np.repeat(w, truth.shape[1], axis=1))

    def micro(w: np.ndarray) -> np.ndarray:
        return f1(*(part.sum(axis=1) for part in counts(truth, yes, w)[:3]))

    parts = {"kappa": flattened(flat[1]), "f1": micro, "auc": flattened(flat[0])}
    official: dict = {}
    for name, metric in parts.items():
        put(official, name, metric, weights)
    put(official, "score", lambda w: np.mean([metric(w) for metric in parts.values()], axis=0), weights)
    metrics: dict = {"n": len(patients), "official": official, "per_class": {}}
    single = {name: auroc(truth[:, c], scores[:, c]) for c, name in enumerate(CLASSES.values()) if truth[:, c].any()}
    put(metrics, "macro_auroc", lambda w: known_mean(np.stack([m(w) for m in single.values()], axis=1)), weights)
    put(metrics, "macro_f1", macro_f1(truth, yes), weights)
    for c, name in enumerate(CLASSES.values()):
        if name in single:
            part: dict = {"n": int(truth[:, c].sum())}
            put(part, "auroc", single[name], weights)
            put(part, "f1", macro_f1(truth[:, [c]], yes[:, [c]]), weights)
            metrics["per_class"][name] = part
    return metrics


def to_csv(patients: Sequence[str], scores: np.ndarray) -> str:
    """The challenge's file, a row a patient."""
    text = StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(HEAD)
    rows.writerows([patient, *(f"{value:.6f}" for value in row)] for patient, row in zip(patients, scores, strict=True))
    return text.getvalue()


def read_csv(path: Path, patients: Sequence[str]) -> np.ndarray:
    """Scores [P,8] of a file in that form, rows in the order of `patients`.

    Raises UserError for other columns, a value that is no probability, and a patient who is missing or stands twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error})") from None
    if not rows or set(rows[0]) != set(HEAD):
        raise UserError(f"{path}: the columns must be {','.join(HEAD)}, as the challenge's file has them")
    found: dict[str, list[float]] = {}
    for number, row in enumerate(rows, 2):
        if row["ID"] in found:
            raise UserError(f"{path} line {number}: patient {row['ID']} stands there twice")
        try:
            found[row["ID"]] = [float(row[letter]) for letter in CLASSES]
        except (TypeError, ValueError):
            raise UserError(f"{path} line {number}: {row} holds a value that is no number") from None
        if not all(0 <= value <= 1 for value in found[row["ID"]]):
            raise UserError(f"{path} line {number}: a probability is from 0 to 1")
    if missing := [p for p in patients if p not in found]:
        raise UserError(f"{path} has no row of {len(missing)} patients: {', '.join(missing[:3])} …")
    return np.array([found[patient] for patient in patients])
