"""metrics.json as tables: any dictionary of numbers, whatever the task, so that a new one needs no page of its own.

A number `NAME` may have `NAME_ci` beside it, its 95 % interval. Dictionaries beside each other with the same names are
the rows of one table (`real`, `blank`, `shuffled`), any other is a list of names and values. Every cell knows where its
number stands in metrics.json.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, TypeGuard

from markupsafe import Markup

from mdf.evaluation.page_figures import Interval, Mark, Series, axis_of, strip

WORDS = {  # how names in metrics.json are said
    "n": "n", "auroc": "AUROC", "auprc": "AUPRC", "f1": "F1", "ece": "ECE", "iou": "IoU", "map": "mAP", "sd": "SD",
    "cldice": "clDice", "bleu": "BLEU", "rouge": "ROUGE", "cider": "CIDEr", "nll": "NLL", "mae": "MAE", "qwk": "QWK",
    "sha256": "SHA-256", "amd": "AMD", "dr": "DR", "dme": "DME", "pdr": "PDR", "npdr": "NPDR", "cnn": "CNN",
    "aurc": "AURC", "dice": "Dice", "brier": "Brier",
}  # fmt: skip
PHRASES = {  # and whole ones
    "real": "the photograph", "blank": "a blank picture", "shuffled": "another patient's photograph",
    "text_only": "no picture", "source_only": "guessed from the source", "majority": "the most frequent diagnosis",
    "gain": "gain over no photograph", "rouge_l": "ROUGE-L", "cider_d": "CIDEr-D", "clap": "CLAP",
    "tip_adapter": "Tip-Adapter", "tip_adapter_f": "Tip-Adapter-F",
    "coverage_at_risk_05": "answered at 5 % wrong", "coverage_at_risk_10": "answered at 10 % wrong",
    "coverage_at_risk_20": "answered at 20 % wrong", "risk": "share wrong, all answered",
    "sensitivity_at_specificity_80": "sensitivity at 80 % specificity",
    "sensitivity_at_specificity_95": "sensitivity at 95 % specificity",
    "macro_sensitivity_at_specificity_80": "macro sensitivity at 80 % specificity",
    "macro_sensitivity_at_specificity_95": "macro sensitivity at 95 % specificity",
    "option_removed": "with the right answer taken away", "without_true": "confidence without it",
    "fall": "fall of confidence", "parsed_one": "names one diagnosis", "parsed_none": "names none",
    "parsed_several": "names several", "by_name": "by the lesion's name alone", "unet": "the U-Net's masks",
    "centre": "the middle of the picture", "random": "a random map",
}  # fmt: skip
ACCURACIES = ("accuracy", "balanced_accuracy")  # what `chance` beside them is the chance of
GROUPS = "groups"  # their names are rows, even of one
DASH = "–"


@dataclass(frozen=True)
class Cell:
    """`name` is where a number stands in metrics.json; `strip` its picture, `swatch` the mark of a curve."""

    text: str
    interval: str = ""
    strip: str = ""  # Markup, as made by page_figures
    name: str = ""
    number: bool = False
    swatch: str = ""  # likewise


@dataclass(frozen=True)
class Line:
    """Cells of a row, the first its heading; rows of one group stand under its name."""

    cells: list[Cell]
    group: str = ""


@dataclass(frozen=True)
class Table:
    head: list[str]
    lines: list[Line]
    caption: str = ""
    style: str = ""
    folded: bool = False  # opens at a click
    name: str = ""  # where it stands in metrics.json


# -- words and numbers ------------------------------------------------------------------------------------------------


def said(name: str) -> str:
    """A name of metrics.json in words: balanced accuracy, macro AUROC, R@1, shots 16."""
    if name in PHRASES:
        return PHRASES[name]
    if "." in name:
        return places(name.split("."))
    words = [WORDS.get(w.lower()) or re.sub(r"^r(\d+)$", r"R@\1", w) for w in str(name).split("_") if w]
    return " ".join(words) or str(name)


def places(where: Sequence[str]) -> str:
    """Where something stands: source · hrf."""
    return " · ".join(said(name) for name in where if name and name != GROUPS)


def number(value: Any, *, signed: bool = False) -> str:
    """A number to three places, a whole one in full, with a proper minus sign."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value != value:
        return DASH
    if isinstance(value, int):
        text = f"{value:+,}" if signed else f"{value:,}"
    else:
        size = abs(value)
        places = ".1e" if 0 < size < 0.0005 else ".3f" if size < 10 else ".2f" if size < 100 else ",.1f"
        text = format(value, f"+{places}" if signed else places)
    return text.replace("-", "\N{MINUS SIGN}")


def bracketed(interval: Interval, *, signed: bool = False) -> str:
    return f"[{', '.join(number(float(v), signed=signed) for v in interval)}]" if interval else ""


def between(values: Mapping[str, Any], name: str, *, signed: bool = False) -> str:
    """The interval of NAME in brackets, a dash where it could not be known."""
    found = bracketed(interval_of(values, name), signed=signed)
    return found or (DASH if f"{name}_ci" in values and finite(values.get(name)) else "")


def written(value: Any) -> str:
    """Anything that is no dictionary as text; of an absolute path only the end, which says nothing of the machine."""
    if isinstance(value, bool | int | float | None):
        return number(value)
    if isinstance(value, str):
        return shortened(value)
    if isinstance(value, Sequence) and not any(isinstance(v, dict | list | tuple) for v in value):
        return ", ".join(map(written, value)) or "none"
    return json.dumps(value, ensure_ascii=False)


def shortened(text: str) -> str:
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(text).is_absolute():
            return "/".join(("…", *kind(text).parts[1:][-2:]))
    return text


# -- dictionaries -----------------------------------------------------------------------------------------------------


@dataclass
class Part:
    """The numbers of one section: lists of names and values, and dictionaries that are rows of a table."""

    path: str
    lists: list[tuple[tuple[str, ...], dict]] = field(default_factory=list)  # (where in the section, values)
    tables: list[list[tuple[tuple[str, ...], dict]]] = field(default_factory=list)


def is_interval(name: str, values: Mapping[str, Any]) -> bool:
    return name.endswith("_ci") and name.removesuffix("_ci") in values


def interval_of(values: Mapping[str, Any], name: str) -> Interval:
    """NAME_ci, where it is two numbers."""
    found = values.get(f"{name}_ci")
    if not isinstance(found, list | tuple) or len(found) != 2:
        return None
    return found if all(isinstance(v, int | float) and math.isfinite(v) for v in found) else None


def finite(value: Any) -> TypeGuard[float]:
    """Whether this is a number that can be drawn; counts, which are whole, are not."""
    return isinstance(value, float) and math.isfinite(value)


def leaves(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is no dictionary, no interval of something and no table of its own."""
    single = {k: v for k, v in values.items() if not is_table(v)}
    if "counts" in values and "counts" not in single:
        single.pop("classes", None)  # its heads
    return {k: v for k, v in single.items() if not isinstance(v, dict) and not is_interval(k, values)}


def is_table(value: Any) -> bool:
    """Whether a list is one of lists or dictionaries."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict | list) for v in value)


def inner_tables(values: Mapping[str, Any], path: str, where: tuple[str, ...] = ()) -> Iterator[Table]:
    """Lists of lists or of dictionaries anywhere in a section, folded; `classes` beside `counts` are its heads."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from inner_tables(value, path, (*where, name))
        if not is_table(value):
            continue
        rows: list[dict[str, Any]] = [r if isinstance(r, dict) else {str(i): v for i, v in enumerate(r)} for r in value]
        heads = [k for k in dict.fromkeys(k for row in rows for k in row) if not any(is_interval(k, r) for r in rows)]
        words = [said(h) if isinstance(value[0], dict) else "" for h in heads]
        firsts = [str(i + 1) for i in range(len(rows))]
        classes = values.get("classes", [])
        square = name == "counts" and len(classes) == len(rows) == len(heads)
        if square:
            firsts = words = [said(str(c)) for c in classes]
        lines = []
        for first, row in zip(firsts, rows, strict=True):
            cells = [Cell(first)]
            for head in heads:
                found = row.get(head)
                cells.append(Cell(written(found), between(row, head), number=is_number(found)))
            lines.append(Line(cells))
        full = (*where, name)
        caption = places(full[:-1] if square else full)
        yield Table(["", *words], lines, caption.capitalize(), "plain", True, ".".join((path, *full)))


def measured(values: Mapping[str, Any]) -> set[str]:
    """Names of a dictionary that an answer is judged by: not how many or how likely by chance."""
    return {k for k, v in leaves(values).items() if isinstance(v, float | None) and k != "chance"}


def take_apart(values: Mapping[str, Any], path: str) -> Part:
    """Sort a section's numbers into lists and tables."""
    part = Part(path)

    def add(where: tuple[str, ...], inside: Mapping[str, Any], row: bool = False) -> None:
        if leaves(inside) and not row:
            part.lists.append((where, dict(inside)))
        children = {k: v for k, v in inside.items() if isinstance(v, dict)}
        for key, child in children.items():
            beside = any(measured(child) & measured(other) for name, other in children.items() if name != key)
            beside = beside or (where[-1:] == (GROUPS,) and bool(measured(child)))
            if beside:
                place = next((t for t in part.tables if measured(t[0][1]) & measured(child)), None)
                if place is None:
                    part.tables.append(place := [])
                place.append(((*where, key), child))
            add((*where, key), child, row=beside)

    add((), values)
    return part


def tables_of(part: Part, *, signed: bool = False) -> list[Table]:
    """All tables of a section: rows, names and values, lists that differ by what they are of, and words."""
    alike: dict[tuple, list[tuple[tuple[str, ...], dict]]] = {}
    counts: dict[tuple, list[tuple[tuple[str, ...], dict]]] = {}
    for where, values in part.lists:
        if where and all(type(v) is int for v in leaves(values).values()):
            counts.setdefault((where[:-1], *leaves(values)), []).append((where, values))
            continue
        plain = len(where) > 1 and all(isinstance(v, float) for v in values.values())
        alike.setdefault((where[-1], *sorted(values)) if plain else (where,), []).append((where, values))
    alike |= {("count", *key): rows for key, rows in counts.items() if len(rows) == 1}
    counted = Part(part.path, tables=[rows for rows in counts.values() if len(rows) > 1])
    pivots = [lists for lists in alike.values() if len(lists) > 1]
    words = [lists[0] for lists in alike.values() if len(lists) == 1 and wordy(lists[0][1])]
    rest = [lists[0] for lists in alike.values() if len(lists) == 1 and not wordy(lists[0][1])]
    tables = row_tables(part, signed=signed)
    if rest:
        tables.append(list_table(part.path, rest, signed=signed))
    tables += row_tables(counted) + [pivot_table(part.path, lists) for lists in pivots]
    return tables + [word_table(part.path, *one) for one in words]


def wordy(values: Mapping[str, Any]) -> bool:
    """Whether these are texts, such as the prompts of the classes."""
    return (
        all(isinstance(v, str | list) for v in values.values()) and sum(len(written(v)) for v in values.values()) > 300
    )


def word_table(path: str, where: tuple[str, ...], values: Mapping[str, Any]) -> Table:
    """Texts by name, folded."""
    lines = [Line([Cell(said(k)), Cell(written(v), name=".".join((path, *where, k)))]) for k, v in values.items()]
    return Table(["", ""], lines, places(where).capitalize(), style="facts", folded=True)


def pivot_table(path: str, lists: Sequence[tuple[tuple[str, ...], Mapping[str, float]]]) -> Table:
    """Lists of the same names beside each other, such as the recall of each class by two tasks."""
    names, last = list(lists[0][1]), lists[0][0][-1]
    lines = []
    for name in names:
        cells = [Cell(said(name))]
        for where, values in lists:
            picture = strip_of(name, values[name], None, values)
            cells.append(Cell(number(values[name]), strip=picture, name=".".join((path, *where, name)), number=True))
        lines.append(Line(cells))
    return Table(["", *(places(where[:-1]) for where, _ in lists)], lines, said(last), style="rows")


def list_table(path: str, lists: Sequence[tuple[tuple[str, ...], Mapping[str, Any]]], *, signed: bool = False) -> Table:
    """Names and values under each other."""
    lines = []
    for where, values in lists:
        group = places(where)
        for name, value in leaves(values).items():
            interval = interval_of(values, name)
            picture = strip_of(name, value, interval, values, axis=(-1.0, 1.0) if signed else None)
            shown = number(value, signed=signed and isinstance(value, float)) if is_number(value) else written(value)
            full = ".".join((path, *where, name))
            cells = [Cell(said(name)), Cell(shown, name=full, number=is_number(value))]
            interval_text = between(values, name, signed=signed)
            cells += [
                Cell(interval_text, name=f"{full}_ci" if interval_text else "", number=True),
                Cell("", strip=picture),
            ]
            lines.append(Line(cells, group))
    return Table(["", "value", "95 % interval", ""], lines, style="list")


def row_tables(part: Part, *, signed: bool = False) -> list[Table]:
    """Dictionaries with the same names as rows."""
    found = []
    for rows in part.tables:
        names = list(dict.fromkeys(n for _, row in rows for n in leaves(row)))
        axes = {n: axis_of([v for _, row in rows for v in numbers(row, n)]) for n in names}
        depth = len({where[:-1] for where, _ in rows}) > 1
        lines = []
        for where, row in rows:
            cells = [Cell(said(where[-1]))]
            for name in names:
                if name not in row:
                    cells.append(Cell(""))
                    continue
                value, interval = row[name], interval_of(row, name)
                shown = (
                    number(value, signed=signed and isinstance(value, float)) if is_number(value) else written(value)
                )
                picture = strip_of(name, value, interval, row, axis=axes[name])
                full = ".".join((part.path, *where, name))
                cells.append(Cell(shown, between(row, name, signed=signed), picture, full, is_number(value)))
            lines.append(Line(cells, places(where[:-1]) if depth else ""))
        wide = sum(any(interval_of(row, n) for _, row in rows) for n in names) > 3
        found.append(Table(["", *map(said, names)], lines, style="rows many" if wide else "rows"))
    return found


def is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def numbers(values: Mapping[str, Any], name: str) -> Iterator[float]:
    """The value and the ends of its interval, where they are numbers."""
    for value in (values.get(name), *(interval_of(values, name) or ())):
        if finite(value):
            yield value


def strip_of(
    name: str, value: Any, interval: Interval, beside: Mapping[str, Any], axis: tuple[float, float] | None = None
) -> Markup:
    """The picture of a number; none for counts and for what lies outside the axis."""
    if not finite(value) or name == "chance":
        return Markup("")
    found = list(numbers(beside, name))
    low, high = axis or ((0.0, 1.0) if min(found) >= 0 else (-1.0, 1.0))
    if min(found) < low or max(found) > high:
        return Markup("")
    chance = beside.get("chance") if name in ACCURACIES else 0.5 if name.endswith("auroc") else None
    return strip([Mark(value, interval)], (low, high), None if low < 0 else chance)  # a difference has none


def series_of(values: Mapping[str, Any]) -> tuple[str, dict[str, dict[str, Series]]]:
    """What the keys of a section count, as `shots_1` and `shots_4` do, and {metric: {series: {number: (value,
    interval)}}}; nothing where they do not.
    """
    counted = {k: re.fullmatch(r"(.+)_(\d+)", k) for k, v in values.items() if isinstance(v, dict)}
    steps = {k: (m[1], int(m[2])) for k, m in counted.items() if m}
    if len(steps) < 2 or len({name for name, _ in steps.values()}) > 1:
        return "", {}
    found: dict[str, dict[str, dict[int, tuple[float, Interval]]]] = {}
    for key, (_, step) in steps.items():
        inside = values[key]
        methods = {k: v for k, v in inside.items() if isinstance(v, dict)} or {"value": inside}
        for method, row in methods.items():
            for name, value in leaves(row).items():
                if finite(value) and interval_of(row, name):
                    found.setdefault(name, {}).setdefault(said(method), {})[step] = value, interval_of(row, name)
    return next(iter(steps.values()))[0], {name: dict(lines) for name, lines in found.items()}
