"""Evaluations side by side, as text."""

import json
from collections.abc import Sequence
from pathlib import Path

from mdf.errors import UserError


def metrics_file(path: str | Path) -> Path:
    """metrics.json of an evaluation folder, a run folder or the file itself. Raises UserError where there is none."""
    path = Path(path)
    for file in (path, path / "metrics.json", path / "evaluation" / "metrics.json"):
        if file.is_file():
            return file
    raise UserError(f"{path}: no metrics.json there; give a folder that scripts/evaluate.py wrote with --out")


def read_metrics(path: str | Path) -> dict:
    """What `metrics_file` holds. Raises UserError where it is missing or damaged."""
    file = metrics_file(path)
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
    return "\n".join(f"{name:<44} {cell(flat, name)}" for name in shown(flat))


def letters(count: int) -> list[str]:
    """A, B, C, … of evaluations beside each other."""
    return [chr(65 + i % 26) + (str(i // 26) if i >= 26 else "") for i in range(count)]


def same_photographs(found: Sequence[dict]) -> bool:
    """Whether all were measured on the same data."""
    return all(m.get(name) == found[0].get(name) for m in found for name in ("data_sha256", "ids_sha256"))


def all_shown(flat: Sequence[dict[str, object]]) -> list[str]:
    """Names of the numbers in any of the evaluations, in the order of the first that has them."""
    return list(dict.fromkeys(name for one in flat for name in shown(one)))


def difference(flat: dict[str, object], first: dict[str, object], name: str) -> float | None:
    """A metric less that of `first`; None where one has no value, for counts and for chance."""
    x, y = first.get(name), flat.get(name)
    if isinstance(x, float) and isinstance(y, float) and not name.endswith("chance"):
        return y - x
    return None


def compare(first: str | Path, second: str | Path, *more: str | Path) -> str:
    """Tables beside each other with the differences from the first. Says so where not all were measured on the same
    data.
    """
    folders = (first, second, *more)
    found = [read_metrics(folder) for folder in folders]
    flat, names = [flatten(m) for m in found], letters(len(folders))
    lines = []
    if not same_photographs(found):
        lines.append("NOT THE SAME PHOTOGRAPHS: the differences below are not only the models'.")
    lines += [f"{n}  {f}  ({m.get('checkpoint')})" for n, f, m in zip(names, folders, found, strict=True)]
    heads = " ".join(f"{name:<24}" for name in names) + " " + " ".join(f"{f'{name} - A':>8}" for name in names[1:])
    lines += ["", f"{'':<44} {heads}"]
    for name in all_shown(flat):
        cells = " ".join(f"{cell(one, name):<24}" for one in flat)
        changes = [difference(one, flat[0], name) for one in flat[1:]]
        said = " ".join(" " * 8 if change is None else f"{change:+8.3f}" for change in changes)
        lines.append(f"{name:<44} {cells} {said}".rstrip())
    return "\n".join(lines)
