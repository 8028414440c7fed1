"""Two models on the same photographs: is the difference more than the choice of patients?"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mdf.errors import UserError
from mdf.evaluation.bootstrap import line_groups
from mdf.evaluation.classification import COMPARED, classification_metrics
from mdf.evaluation.probe import paired_difference
from mdf.files import read_lines

FILE = "predictions.jsonl"
TASKS = ("diagnosis", "probe", "zero_shot")
# what the task's probabilities and the true classes are called in a line
KEYS = {"diagnosis": ("probabilities", "truth")} | {task: (task, "labels") for task in TASKS[1:]}
SHOWN = 3  # photographs named in a message


def read_answers(folders: Sequence[str | Path], task: str) -> dict[str, dict]:
    """{id: its line} of predictions.jsonl in all folders, the photographs that `task`, one of TASKS, judged.

    Raises UserError for a missing file, one without the task, or a photograph that stands in two folders.
    """
    found: dict[str, dict] = {}
    table, _ = KEYS[task]
    for folder in map(Path, folders):
        path = folder / FILE if folder.is_dir() else folder
        try:
            every = read_lines(path)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); give a folder that evaluate.py wrote with --out"
            ) from None
        lines = [line for line in every if table in line]
        if not lines:
            there = [t for t, (key, _) in KEYS.items() if any(key in line for line in every)]
            others = f"it holds those of --task {' or '.join(there)}; or " if there else ""
            raise UserError(f"{path} holds no answers of the task {task}; {others}evaluate with --tasks {task}")
        twice = [line["id"] for line in lines if line["id"] in found]
        if twice:
            raise UserError(f"{path}: {twice[0]} was judged in another folder already; folds share no photograph")
        found |= {line["id"]: line for line in lines}
    return found


def narrow(answers: dict[str, dict], task: str, classes: Sequence[str]) -> dict[str, dict]:
    """The photographs of which one of `classes` is true, judged among these alone: probabilities are divided by their
    sum (where that is 0, shared equally). Raises UserError for a class that is not judged.
    """
    key, labels = KEYS[task]
    found = {}
    for name, line in answers.items():
        if unknown := [c for c in classes if c not in line[key]]:
            raise UserError(f"--classes: {', '.join(unknown)} is not judged here; there are {', '.join(line[key])}")
        if true := [c for c in line[labels] if c in classes]:
            total = sum(line[key][c] for c in classes)
            shares = {c: line[key][c] / total if total else 1 / len(classes) for c in classes}
            found[name] = line | {key: shares, labels: true}
    return found


def paired(
    first: Sequence[str | Path],
    second: Sequence[str | Path],
    *,
    task: str = "probe",
    classes: Sequence[str] = (),
    seed: int = 0,
    resamples: int = 1000,
) -> dict:
    """{first, second: each of COMPARED, difference: second - first}, each with `NAME_ci`; `task` is one of TASKS.

    With `classes` only photographs of these are judged, and only among them.

    Raises UserError where the two sides did not judge the same photographs, or not in the same classes, and for what
    cannot be judged, see `classification_metrics`.
    """
    key, labels = KEYS[task]
    a, b = read_answers(first, task), read_answers(second, task)
    if classes:
        a, b = narrow(a, task, classes), narrow(b, task, classes)
    lonely = sorted(a.keys() ^ b.keys())
    if lonely:
        raise UserError(
            f"the two sides did not judge the same photographs: {len(lonely)} stand on one side only "
            f"({', '.join(lonely[:SHOWN])}{' …' if len(lonely) > SHOWN else ''}); "
            "use the same manifest, split and folds"
        )
    ids = sorted(a)
    if not ids:
        raise UserError(f"no photograph is of one of the classes {', '.join(classes)}")
    classes = list(a[ids[0]][key])
    for name in ids:
        if set(b[name][key]) != set(classes) or set(a[name][labels]) != set(b[name][labels]):
            raise UserError(
                f"the two sides were not judged in the same classes (photograph {name}); give both the same --classes"
                if task != "diagnosis"
                else f"the two checkpoints do not know the same diagnoses, or not the same true ones (photograph "
                f"{name}); what they name cannot be compared"
            )
    truth = [a[name][labels] for name in ids]
    groups = line_groups([b[name] | a[name] for name in ids])
    tables = [np.array([[side[name][key][c] for c in classes] for name in ids], dtype=float) for side in (a, b)]
    options: dict = {"only": COMPARED, "resamples": resamples, "seed": seed}
    metrics: dict = {}
    for name, table in zip(("first", "second"), tables, strict=True):
        part = classification_metrics(truth, table, classes, groups, **options)
        metrics[name] = {k: v for k, v in part.items() if k not in ("recall", "confusion")}
    metrics["difference"] = paired_difference(truth, tables[0], tables[1], classes, groups, **options)
    return metrics
