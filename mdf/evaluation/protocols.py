"""FLAIR's protocol (Silva-Rodríguez et al. 2025, section 4): zero-shot and adapted accuracy on five reshuffles.

Its "folds" are no folds: the rows are shuffled anew by each seed, and of every class the first fifth is judged. Rows,
not patients: a fellow eye may be learnt from. The figures are here to be compared with published ones; those of whole
patients are what `evaluate.py --tasks zero_shot,probe` gives.

Shapes: N photographs, E embedding width, C classes.
"""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, patient_groups, put, resample
from mdf.evaluation.classification import balanced_accuracy, kappa
from mdf.evaluation.embedding_tasks import plan
from mdf.evaluation.few_shot import clap, draw_support, mean_of
from mdf.evaluation.photographs import embed_records, embed_texts
from mdf.evaluation.probe import first_class, fit_probe
from mdf.evaluation.zero_shot import zero_shot_probabilities
from mdf.prototypes import class_embeddings, class_texts
from mdf.records import FundusRecord, Manifest

FOLDS, TEST = 5, 0.2  # reshuffles, share of each class that is judged
SHOTS = (1, 5, 10)
FEWEST = 5  # photographs of a class: one is judged, one chooses, the others teach
VAL = 0.1  # share of the rest of each class that chooses the probe's regularisation, at least one photograph


def reshuffle(labels: Sequence[int], fold: int, share: float = TEST) -> tuple[list[int], list[int]]:
    """Rows judged and rows learnt from: shuffled by `random.seed(fold)`, of each class the first `share` rounded down,
    at least one.
    """
    rows = list(range(len(labels)))
    random.Random(fold).shuffle(rows)
    judged: list[int] = []
    for label in sorted(set(labels)):
        own = [row for row in rows if labels[row] == label]
        judged += own[: max(1, int(share * len(own)))]
    taken = set(judged)
    return judged, [row for row in rows if row not in taken]


def flair(
    model: Any,
    records: Sequence[FundusRecord],
    manifest: Manifest,
    classes: Sequence[str] = (),
    *,
    batch_size: int = 32,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """`zero_shot` (without and with expert descriptions), `linear_probe` and `shots_K`, each with `aca` (mean recall of
    the classes), `kappa` and their standard deviation over the reshuffles, `NAME_sd`; intervals resample patients.

    Raises UserError for photographs with several classes, and where a class has too few to be judged.
    """
    judged = plan(records, model.processor.diagnoses, classes)
    rows, names = judged.judged, judged.classes
    truth = [judged.truth[i] for i in rows]
    if several := [records[i].id for i, t in zip(rows, truth, strict=True) if len(t) > 1]:
        raise UserError(
            f"{len(several)} photographs have several of the classes ({several[0]}); FLAIR's protocol is for one each"
        )
    labels = first_class(truth, names).tolist()
    counts = {name: labels.count(c) for c, name in enumerate(names)}
    if few := [f"{name} ({count})" for name, count in counts.items() if count < FEWEST]:
        raise UserError(f"fewer than {FEWEST} photographs of {', '.join(few)}; name other --classes")
    some = [records[i] for i in rows]
    embeds = embed_records(model, some, manifest, batch_size=batch_size)
    pooled = embed_records(model, some, manifest, batch_size=batch_size, features="pooled")
    scale = float(model.encoder.logit_scale)
    texts = {
        variant: class_embeddings(class_texts(model.processor.prompts, names, variant), lambda t: embed_texts(model, t))
        for variant in ("names", "described")
    }
    found: dict[str, list[tuple[list[int], np.ndarray]]] = {}  # name -> of each reshuffle (rows judged, answers)
    for fold in range(FOLDS):
        test, train = reshuffle(labels, fold)
        for variant, prototypes in texts.items():
            table = zero_shot_probabilities(embeds[test], prototypes, scale)
            found.setdefault(f"zero_shot_{variant}", []).append((test, table.argmax(axis=1)))
        _, rest = reshuffle([labels[row] for row in train], fold, VAL)
        fit = [train[i] for i in rest]
        fitted = set(fit)
        val = [row for row in train if row not in fitted]
        probe = fit_probe(pooled[fit], [truth[i] for i in fit], pooled[val], [truth[i] for i in val], names)
        found.setdefault("linear_probe", []).append((test, probe.probabilities(pooled[test]).argmax(axis=1)))
        for shots in SHOTS:
            support, classes_of = draw_support([truth[i] for i in train], names, shots, fold)
            shown = embeds[[train[i] for i in support]]
            own, words, asked = (torch.from_numpy(x.astype(np.float64)) for x in (shown, texts["names"], embeds[test]))
            logits = clap(own, torch.from_numpy(classes_of), words, scale, asked)
            found.setdefault(f"shots_{shots}", []).append((test, logits.argmax(dim=1).numpy()))
    groups = patient_groups(some)
    weights = resample(groups, resamples=resamples, seed=seed)
    number = np.array(labels)
    metrics: dict = {"n": len(some), "classes": list(names), "chance": 1 / len(names), "folds": FOLDS}
    for name, folds in found.items():
        metrics[name] = {}
        for figure, make in (("aca", balanced_accuracy), ("kappa", kappa)):
            each = [on_rows(make(number[test], said, len(names)), test) for test, said in folds]
            put(metrics[name], figure, mean_of(each), weights)
            points = [metric(np.ones((1, len(some))))[0] for metric in each]
            metrics[name][f"{figure}_sd"] = float(np.std(points, ddof=1))
    return metrics


def on_rows(metric: Any, rows: Sequence[int]) -> Any:
    """The metric of some rows, from weights [R,N] of all."""
    return lambda weights: metric(weights[:, rows])
