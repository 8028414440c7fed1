"""Two evaluations side by side."""

import json
from pathlib import Path

from mdf.errors import UserError


def read_metrics(path: str | Path) -> dict:
    """metrics.json of an evaluation folder, a run folder or the file itself."""
    path = Path(path)
    for file in (path, path / "metrics.json", path / "evaluation" / "metrics.json"):
        if file.is_file():
            try:
                return json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{file} is not JSON ({error}); give the metrics.json that evaluate.py wrote") from None
    raise UserError(f"{path}: no metrics.json there; give a folder that scripts/evaluate.py wrote with --out")


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


def compare(first: str | Path, second: str | Path) -> str:
    """Both tables with the differences (second minus first). Says so where they were not measured on the same data."""
    a, b = read_metrics(first), read_metrics(second)
    flat_a, flat_b = flatten(a), flatten(b)
    names = shown(flat_a) + [n for n in shown(flat_b) if n not in flat_a]
    lines = []
    if a.get("data_sha256") != b.get("data_sha256") or a.get("ids_sha256") != b.get("ids_sha256"):
        lines.append("NOT THE SAME PHOTOGRAPHS: the differences below are not only the models'.")
    lines += [f"A  {first}  ({a.get('checkpoint')})", f"B  {second}  ({b.get('checkpoint')})", ""]
    lines.append(f"{'':<44} {'A':<24} {'B':<24} {'B - A':>8}")
    for name in names:
        x, y = flat_a.get(name), flat_b.get(name)
        difference = f"{y - x:+8.3f}" if isinstance(x, float) and isinstance(y, float) else ""
        lines.append(f"{name:<44} {cell(flat_a, name):<24} {cell(flat_b, name):<24} {difference}".rstrip())
    return "\n".join(lines)
