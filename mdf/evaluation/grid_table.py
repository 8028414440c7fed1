"""The table of a grid: mean and spread over seeds, an interval over patients, and the difference to the first row.

Shapes: R resamples, N units (photographs, or questions about them) of all seeds side by side.

Where predictions are at hand, patients of all seeds are drawn together: a value is the mean over seeds of the metric on
that seed's own units, the difference is between runs of the same seed on the same units, and both are judged on the
same resamples. So the interval says what other patients would have changed; the spread (sd) what other seeds did.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mdf.errors import UserError
from mdf.evaluation.bootstrap import known_mean, line_groups, resample, with_interval
from mdf.evaluation.classification import NAMES, balanced_accuracy, named_metric
from mdf.evaluation.compare import flatten, read_metrics
from mdf.evaluation.paired import FILE
from mdf.evaluation.spatial import KINDS
from mdf.files import read_lines, write_text

Metric = Callable[[np.ndarray], np.ndarray]  # weights [R,N] -> values [R]


@dataclass(frozen=True)
class Judged:
    """One metric of one run: its value, and where predictions tell it the units behind."""

    value: float | None
    interval: list[float] | None = None  # as the evaluation itself gives it
    units: tuple[str, ...] = ()  # what was judged, photographs or questions
    groups: tuple[str, ...] = ()  # the patient of each
    metric: Metric | None = None


def judge(folder: Path, name: str) -> Judged:
    """The metric `name` of the evaluation in `folder`. Raises UserError where there is none, or a file is damaged."""
    metrics = read_metrics(folder)
    flat = flatten(metrics)
    value, interval = flat.get(name), flat.get(f"{name}_ci")
    known = float(value) if isinstance(value, int | float) else None
    path = folder / FILE
    try:
        lines = read_lines(path) if path.is_file() else []
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); evaluate again") from None
    # phantoms of two seeds are two worlds whose patients have the same names
    world = f"{metrics.get('data_sha256')} " if metrics.get("dataset") == "phantom" else ""
    groups = [world + g for g in line_groups(lines)]
    section, _, what = name.partition(".")
    found = None
    if section == "classification" and what in NAMES:
        found = of_diagnoses(lines, groups, what)
    elif section == "spatial":
        found = of_questions(lines, groups, what)
    if found is None:
        return Judged(known, interval if isinstance(interval, list) else None)
    return Judged(known, None, *found)


def of_diagnoses(lines: Sequence[dict], groups: Sequence[str], name: str) -> tuple | None:
    """Units, groups and metric of the diagnosis; None where no prediction says it."""
    rows = [i for i, line in enumerate(lines) if line.get("probabilities") and line.get("truth")]
    if not rows:
        return None
    classes = list(lines[rows[0]]["probabilities"])
    table = np.array([[lines[i]["probabilities"][c] for c in classes] for i in rows])
    metric = named_metric(name, [lines[i]["truth"] for i in rows], table, classes)
    return tuple(lines[i]["id"] for i in rows), tuple(groups[i] for i in rows), metric


def of_questions(lines: Sequence[dict], groups: Sequence[str], name: str) -> tuple | None:
    """The same of questions about lesions: KIND.balanced_accuracy, or the mean over KINDS as `small_lesions`."""
    kind, _, what = name.rpartition(".")
    asked = [(i, q) for i, line in enumerate(lines) for q in line.get("spatial") or ()]
    if what != "balanced_accuracy" or not asked:
        return None
    kinds = KINDS if kind == "small_lesions" else (kind,)
    asked = [(i, q) for i, q in asked if q["kind"] in kinds]
    if not asked:
        return None
    parts = []
    for kind in dict.fromkeys(q["kind"] for _, q in asked):
        rows = np.array([k for k, (_, q) in enumerate(asked) if q["kind"] == kind])
        named = sorted({q[side] for _, q in asked if q["kind"] == kind for side in ("truth", "answer")})
        truth, answer = (np.array([named.index(asked[k][1][side]) for k in rows]) for side in ("truth", "answer"))
        parts.append((rows, balanced_accuracy(truth, answer, len(named))))

    def metric(weights: np.ndarray) -> np.ndarray:
        return known_mean(np.stack([part(weights[:, rows]) for rows, part in parts], axis=1))

    return tuple(f"{lines[i]['id']} {q['question']}" for i, q in asked), tuple(groups[i] for i, _ in asked), metric


def over_seeds(parts: Sequence[Judged], less: Sequence[Judged] = (), seed: int = 0) -> list[float] | None:
    """95 % interval of the mean over seeds, or of that less the mean of `less` on the same units; None where
    predictions are missing.
    """
    every = [*parts, *less]
    if not parts or any(p.metric is None for p in every):
        return None
    if any(a.units != b.units for a, b in zip(parts, less, strict=False)):
        return None
    ends = np.cumsum([len(p.groups) for p in parts])
    weights = resample([g for p in parts for g in p.groups], seed=seed)

    def metric(drawn: np.ndarray) -> np.ndarray:
        values = []
        for k, (part, end) in enumerate(zip(parts, ends, strict=True)):
            own = drawn[:, end - len(part.groups) : end]
            assert part.metric is not None
            value = part.metric(own)
            if less and (other := less[k].metric) is not None:
                value = value - other(own)
            values.append(value)
        return known_mean(np.stack(values, axis=1))

    return with_interval(metric, weights)[1]


def summarise(
    folders: Mapping[str, Mapping[int, Path]], metrics: Sequence[str], damaged: dict[str, str] | None = None
) -> dict:
    """{row: {metric: mean, sd, ci, seeds, and but for the first row difference and difference_ci}} of the evaluations
    that are there; `folders` is row -> seed -> folder of its evaluation. Those that cannot be read are left out and
    noted in `damaged`, "row-sSEED" -> reason.
    """
    table: dict = {}
    judged: dict[str, dict[str, dict[int, Judged]]] = {}
    first = next(iter(folders), "")
    for row, runs in folders.items():
        table[row], judged[row] = {}, {}
        for name in metrics:
            found = {}
            for seed, folder in runs.items():
                try:
                    found[seed] = judge(folder, name)
                except UserError as error:
                    if damaged is not None and (folder / "metrics.json").is_file():
                        damaged[f"{row}-s{seed}"] = str(error)  # else it is not evaluated yet, or failed
            found = {seed: part for seed, part in found.items() if part.value is not None}
            judged[row][name] = found
            values = [part.value for part in found.values() if part.value is not None]
            if not values:
                continue
            own = next(iter(found.values())).interval if len(found) == 1 else None
            table[row][name] = {
                "mean": float(np.mean(values)),
                "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "ci": over_seeds([*found.values()]) or own,
                "seeds": {str(seed): part.value for seed, part in found.items()},
            }
            both = [s for s in found if s in judged[first].get(name, {})]
            if row != first and both:
                mine, theirs = [found[s] for s in both], [judged[first][name][s] for s in both]
                gaps = [(a.value or 0.0) - (b.value or 0.0) for a, b in zip(mine, theirs, strict=True)]
                table[row][name] |= {
                    "difference": float(np.mean(gaps)),
                    "difference_ci": over_seeds(mine, theirs),
                    "pairs": len(both),
                }
    return table


def markdown(table: Mapping[str, Mapping[str, dict]], metrics: Sequence[str], failed: Mapping[str, str]) -> str:
    """The table for people; runs that failed are listed below it with their reason."""
    first = next(iter(table), "")
    head = ["row", "seeds"]
    for name in metrics:
        head += [name.replace("_", " "), f"less {first}"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row, found in table.items():
        cells = [row, str(max((len(part["seeds"]) for part in found.values()), default=0))]
        for name in metrics:
            part = found.get(name)
            cells += [shown(part), gap(part)] if part else ["-", "-"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Mean ± standard deviation over seeds, 95 % interval over patients (1000 resamples of whole patients, of all "
        f"seeds together). Differences to {first} are between runs of the same seed on the same photographs.",
    ]
    if failed:
        lines += ["", "Not in the table:", "", *(f"- {name}: {reason}" for name, reason in sorted(failed.items()))]
    return "\n".join(lines) + "\n"


def shown(part: Mapping) -> str:
    """0.812 ± 0.013 [0.780, 0.843], as far as it is known."""
    spread = f" ± {part['sd']:.3f}" if part["sd"] is not None else ""
    return f"{part['mean']:.3f}{spread}{bounds(part['ci'])}"


def gap(part: Mapping) -> str:
    """+0.052 [0.013, 0.090], or nothing in the first row."""
    return f"{part['difference']:+.3f}{bounds(part['difference_ci'])}" if "difference" in part else ""


def bounds(interval: Sequence[float] | None) -> str:
    return f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""


def write_table(
    folders: Mapping[str, Mapping[int, Path]], metrics: Sequence[str], failed: Mapping[str, str], out: str | Path
) -> str:
    """Write OUT/table.json and OUT/table.md of the evaluations that are there; returns the latter."""
    damaged: dict[str, str] = {}
    table = summarise(folders, metrics, damaged)
    failed = {**damaged, **failed}
    text = markdown(table, metrics, failed)
    facts = {"metrics": list(metrics), "first": next(iter(table), None), "rows": table, "failed": failed}
    write_text(Path(out) / "table.json", json.dumps(facts, indent=1) + "\n")
    write_text(Path(out) / "table.md", text)
    return text
