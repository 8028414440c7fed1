"""Evaluations side by side."""

import json
from collections.abc import Sequence
from pathlib import Path

from mdf.errors import UserError
from mdf.evaluation.paired import FILE, paired

# where in metrics.json the figures of a task stand whose answers are in predictions.jsonl
PAIRED = {"classification": "diagnosis", "probe": "probe", "zero_shot.names": "zero_shot"}
ROUNDING = 5e-4  # figures are shown with three decimals
WIDTH = 44  # of the names, where none is longer


def find_metrics(path: str | Path) -> Path:
    """metrics.json of an evaluation folder, a run folder or the file itself. Raises UserError where there is none."""
    path = Path(path)
    for file in (path, path / "metrics.json", path / "evaluation" / "metrics.json"):
        if file.is_file():
            return file
    raise UserError(f"{path}: no metrics.json there; give a folder that scripts/evaluate.py wrote with --out")


def read_metrics(path: str | Path) -> dict:
    """What `find_metrics` finds. Raises UserError where it is missing or damaged."""
    file = find_metrics(path)
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not JSON ({error}); give the metrics.json that evaluate.py wrote") from None
    if not isinstance(metrics, dict):
        raise UserError(f"{file} holds no JSON object; give the metrics.json that evaluate.py wrote")
    return metrics


def flatten(metrics: dict, prefix: str = "") -> dict[str, object]:
    """{"a.b": value} from nested dictionaries."""
    flat: dict[str, object] = {}
    for name, value in metrics.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def cell(flat: dict[str, object], name: str) -> str:
    """One metric as text, with its interval where it has one."""
    value, interval = flat.get(name), flat.get(f"{name}_ci")
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if isinstance(interval, list) else "")
    return str(value)


def shown(flat: dict[str, object]) -> list[str]:
    """Names of the numbers in a metrics dictionary, in order, without the intervals."""
    return [n for n, v in flat.items() if isinstance(v, int | float) and not n.endswith("_ci")]


def table(metrics: dict) -> str:
    """One evaluation as text, a line a number."""
    flat = flatten(metrics)
    names = shown(flat)
    width = max([WIDTH, *map(len, names)])
    return "\n".join(f"{name:<{width}} {cell(flat, name)}" for name in names)


def letters(count: int) -> list[str]:
    """A, B, C, … of evaluations beside each other."""
    return [chr(65 + i % 26) + (str(i // 26) if i >= 26 else "") for i in range(count)]


def same_photographs(found: Sequence[dict]) -> bool:
    """Whether all were measured on the same data; of what does not say so nobody knows."""
    told = [[m.get(name) for name in ("data_sha256", "ids_sha256")] for m in found]
    return None not in told[0] and all(one == told[0] for one in told)


def all_shown(flat: Sequence[dict[str, object]]) -> list[str]:
    """Names of the numbers in any of the evaluations, in the order of the first that has them."""
    return list(dict.fromkeys(name for one in flat for name in shown(one)))


def difference(flat: dict[str, object], first: dict[str, object], name: str) -> float | None:
    """A metric less that of `first`; None where one has no value, for counts and for chance."""
    x, y = first.get(name), flat.get(name)
    if isinstance(x, float) and isinstance(y, float) and not name.endswith("chance"):
        return y - x
    return None


def compare(folders: Sequence[str | Path], *, resamples: int = 1000, seed: int = 0) -> str:
    """All evaluations as one table, a line a number, and how far each lies from the first. A difference has an interval
    where predictions.jsonl of both is there, from patients resampled once for both. Says so where the evaluations were
    not of the same photographs. Raises UserError for fewer than two, and for what cannot be read.
    """
    if len(folders) < 2:
        raise UserError("one evaluation cannot be compared; name two or more")
    all_metrics = [read_metrics(folder) for folder in folders]
    marks = letters(len(folders))
    flats = [flatten(metrics) for metrics in all_metrics]
    names = all_shown(flats)
    notes, differences = [], []
    for letter, folder, metrics, flat in list(zip(marks, folders, all_metrics, flats, strict=True))[1:]:
        if not same_photographs([all_metrics[0], metrics]):
            notes.append(f"NOT THE SAME PHOTOGRAPHS as A in {letter}: the differences are not only the models'.")
            differences.append(differ(flats[0], flat, names, {}))
            continue
        intervals, reasons = paired_intervals(folders[0], folder, flats[0], flat, resamples=resamples, seed=seed)
        notes += [f"{letter} - A: no interval of {reason}" for reason in reasons]
        differences.append(differ(flats[0], flat, names, intervals))
    rows = [["", *marks, *(f"{letter} - A" for letter in marks[1:])]]
    rows += [[name, *(cell(f, name) for f in flats), *(d.get(name, "") for d in differences)] for name in names]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = max(WIDTH, widths[0])
    lines = [*notes]
    lines += [f"{n}  {f}  ({m.get('checkpoint')})" for n, f, m in zip(marks, folders, all_metrics, strict=True)]
    lines.append("")
    lines += ["  ".join(f"{text:<{w}}" for text, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def differences(folders: Sequence[str | Path], *, resamples: int = 1000, seed: int = 0) -> dict[str, dict]:
    """{letter of an evaluation: its figures less the first's that have an interval, each with `NAME_ci`}."""
    first = flatten(read_metrics(folders[0]))
    found: dict[str, dict] = {}
    for letter, folder in list(zip(letters(len(folders)), folders, strict=True))[1:]:
        flat = flatten(read_metrics(folder))
        intervals, _ = paired_intervals(folders[0], folder, first, flat, resamples=resamples, seed=seed)
        found[letter] = {}
        for name, interval in intervals.items():
            if (change := difference(flat, first, name)) is not None:
                found[letter] |= {name: change, f"{name}_ci": interval}
    return found


def differ(
    first: dict[str, object], second: dict[str, object], names: Sequence[str], intervals: dict[str, list[float]]
) -> dict[str, str]:
    """{name: second - first as text}, of the figures that both have."""
    found = {}
    for name in names:
        change = difference(second, first, name)
        if change is not None:
            low_high = intervals.get(name)
            found[name] = f"{change:+.3f}" + (f" [{low_high[0]:+.3f}, {low_high[1]:+.3f}]" if low_high else "")
    return found


def differs(figures: dict, flat: dict[str, object], prefix: str) -> bool:
    """Whether one of the `figures` of a task is visibly another in metrics.json."""
    pairs = [(value, flat.get(f"{prefix}.{name}")) for name, value in figures.items()]
    return any(isinstance(a, float) and isinstance(b, float) and abs(a - b) > ROUNDING for a, b in pairs)


def paired_intervals(
    first: str | Path,
    second: str | Path,
    first_flat: dict[str, object],
    second_flat: dict[str, object],
    *,
    resamples: int,
    seed: int,
) -> tuple[dict[str, list[float]], list[str]]:
    """{name: interval of second - first}, and why there is none of a task that both evaluated."""
    files = [find_metrics(path).parent / FILE for path in (first, second)]
    intervals: dict[str, list[float]] = {}
    reasons = []
    for prefix, task in PAIRED.items():
        if not all(any(name.startswith(f"{prefix}.") for name in flat) for flat in (first_flat, second_flat)):
            continue
        if lacking := [str(file) for file in files if not file.is_file()]:
            reasons.append(f"{prefix}: there is no {' and no '.join(lacking)}")
            continue
        try:
            found = paired(files[:1], files[1:], task=task, resamples=resamples, seed=seed)
        except UserError as error:
            reasons.append(f"{prefix}: {error}")
            continue
        sides = zip(("first", "second"), files, (first_flat, second_flat), strict=True)
        if others := [str(file) for side, file, flat in sides if differs(found[side], flat, prefix)]:
            reasons.append(
                f"{prefix}: {' and '.join(others)} gives other figures than metrics.json beside it (earlier "
                "versions rounded probabilities); evaluate again"
            )
            continue
        for name, value in found["difference"].items():
            if name.endswith("_ci") and value is not None:
                intervals[f"{prefix}.{name.removesuffix('_ci')}"] = value
    return intervals, reasons
