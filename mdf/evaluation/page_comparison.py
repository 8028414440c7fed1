"""Evaluations side by side as one page: each metric of all of them, the differences, and where they disagree."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdf.evaluation.cases import MAIN, Answers, read_answers
from mdf.evaluation.compare import (
    all_shown,
    difference,
    find_metrics,
    flatten,
    letters,
    read_metrics,
    same_photographs,
)
from mdf.evaluation.overlap import STAMP
from mdf.evaluation.page import HEADLINES, headline, render
from mdf.evaluation.page_figures import Mark, Row, axis_of, forest_figure, strip, swatch
from mdf.evaluation.page_sections import SECTIONS, Figure, Section
from mdf.evaluation.page_tables import (
    ACCURACIES,
    Cell,
    Line,
    Table,
    bracketed,
    finite,
    interval_of,
    is_number,
    number,
    numbers,
    places,
    said,
    tables_of,
    take_apart,
    written,
)
from mdf.files import read_lines

DIFFERENT = "NOT THE SAME PHOTOGRAPHS: the differences on this page are not only the models'."
PREDICTIONS = "predictions.jsonl"
OVERVIEW = 8  # forest plots on top


def write_comparison(
    out: Path, folders: Sequence[str | Path], *, paired: Mapping[str, Any] | None = None, stamps: Sequence[str] = ()
) -> Path:
    """Write OUT/index.html (or OUT itself, where it ends in .html) of two or more evaluations and return its path.

    Args:
        folders: those that evaluate.py wrote, or run folders; differences are from the first.
        paired: differences on the same resamples, {"B": {NAME: value, NAME_ci: [low, high]}} by letter.
        stamps: warnings that stand on top of everything.

    Raises UserError for a folder without metrics.json.
    """
    found = [read_metrics(folder) for folder in folders]
    if any(metrics.get("overlap") for metrics in found):
        stamps = [STAMP, *stamps]
    flat, names = [flatten(m) for m in found], letters(len(folders))
    titles = distinct([find_metrics(folder).resolve().parent for folder in folders])
    sections = [section_of(name, names, flat) for name in dict.fromkeys(part for m in found for part in parts(m))]
    if paired:
        tables = tables_of(take_apart(paired, "paired"), signed=True)
        about = "All drawn on the same resamples of whole patients: an interval without 0 is more than their choice."
        sections.insert(0, Section("paired", "Paired differences from A", about, tables=tables))
    agree = agreement([find_metrics(folder).parent for folder in folders], names)
    if agree is not None:
        sections.insert(
            0, Section("agreement", "Where they agree", "Photographs by whose diagnosis is right.", tables=[agree])
        )
    content = {
        "title": f"Comparison of {len(folders)} evaluations",
        "evaluations": evaluations(names, titles, found),
        "overview": overview([f"{n}  {t}" for n, t in zip(names, titles, strict=True)], flat),
        "sections": [s for s in sections if s.tables],
        "stamps": [*stamps, *([] if same_photographs(found) else [DIFFERENT])],
    }
    return render("comparison.html", out, content)


def parts(metrics: Mapping[str, Any]) -> list[str]:
    """Names of the sections of one metrics.json."""
    return [name for name, value in metrics.items() if isinstance(value, dict)]


def distinct(folders: Sequence[Path]) -> list[str]:
    """As few of the last folder names as tell them apart, at most three; `evaluation` alone says nothing."""
    trimmed = [f.parent if f.name == "evaluation" else f for f in folders]
    for depth in (1, 2, 3):
        names = ["/".join(f.parts[-depth:]) for f in trimmed]
        if len(set(names)) == len(names):
            break
    return names


def evaluations(names: Sequence[str], titles: Sequence[str], found: Sequence[Mapping[str, Any]]) -> Table:
    """What each letter stands for."""
    lines = []
    for i, (name, title, metrics) in enumerate(zip(names, titles, found, strict=True)):
        cells = [Cell(name, swatch=swatch(i, dot=True)), Cell(title)]
        cells += [Cell(written(metrics.get(k))) for k in ("checkpoint", "dataset")]
        cells += [Cell(number(metrics.get("n")), number=True), Cell(str(metrics.get("ids_sha256") or "–")[:12])]
        lines.append(Line(cells))
    return Table(["", "evaluation", "checkpoint", "data set", "n", "photographs (SHA-256)"], lines)


def overview(titles: Sequence[str], flat: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """A forest plot of each of HEADLINES that two evaluations or more have."""
    figures: list[Figure] = []
    for name in HEADLINES:
        values = [one.get(name) for one in flat]
        if sum(map(finite, values)) < 2 or len(figures) == OVERVIEW:
            continue
        rows = []
        for i, (title, value, one) in enumerate(zip(titles, values, flat, strict=True)):
            if finite(value):
                interval = interval_of(one, name)
                rows.append(Row(title, value, interval, f"{number(value)} {bracketed(interval)}", i))
        section, metric = headline(name)
        title = f"{section.rstrip('?')}: {metric}"
        figures.append(Figure(forest_figure(title, rows), title))
    return figures


def section_of(section: str, names: Sequence[str], flat: Sequence[dict[str, object]]) -> Section:
    """Every number of a section: all values on one short axis, each value, and the differences from the first."""
    title, about = SECTIONS.get(section, (said(section).capitalize(), ""))
    lines = []
    for name in all_shown([{k: v for k, v in one.items() if k.startswith(f"{section}.")} for one in flat]):
        _, *where, last = name.split(".")
        cells = [Cell(said(last)), Cell("", strip=picture(name, last, flat))]
        for one in flat:
            value = one.get(name)
            shown = "" if value is None else number(value) if is_number(value) else written(value)
            cells.append(Cell(shown, bracketed(interval_of(one, name)), name=name, number=True))
        for one in flat[1:]:
            change = difference(one, flat[0], name)
            cells.append(Cell("" if change is None else number(change, signed=True), number=True))
        lines.append(Line(cells, places(where)))
    groups = ["", *dict.fromkeys(line.group for line in lines)]
    lines.sort(key=lambda line: groups.index(line.group))  # each group once, what stands in none comes first
    heads = [*names, *(f"{name} \N{MINUS SIGN} {names[0]}" for name in names[1:])]
    return Section(section, title, about, tables=[Table(["", "", *heads], lines, style="beside")] if lines else [])


def picture(name: str, last: str, flat: Sequence[Mapping[str, Any]]) -> str:
    """The values of all evaluations under each other; none for counts."""
    if last == "chance" or not any(finite(one.get(name)) for one in flat):
        return ""
    low, high = axis_of([v for one in flat for v in numbers(one, name)])
    marks = []
    for i, one in enumerate(flat):
        value = one.get(name)
        marks.append(Mark(value, interval_of(one, name), i) if finite(value) else None)
    chances = {one.get(f"{name.rpartition('.')[0]}.chance") for one in flat} if last in ACCURACIES else set()
    chance = chances.pop() if len(chances) == 1 else 0.5 if last.endswith("auroc") else None
    return strip(marks, (low, high), chance)


# -- where they agree -------------------------------------------------------------------------------------------------


def agreement(folders: Sequence[Path], names: Sequence[str]) -> Table | None:
    """How many photographs both, one or none of the first and each other evaluation get right, of those that both
    judged; None where a folder has no predictions of a diagnosis.
    """
    found = [right_by_id(folder / PREDICTIONS) for folder in folders]
    if not all(found):
        return None
    lines = []
    for name, other in zip(names[1:], found[1:], strict=True):
        common = sorted(found[0].keys() & other.keys())
        pairs = np.array([(found[0][i], other[i]) for i in common], dtype=bool).reshape(-1, 2)
        first, second = pairs[:, 0], pairs[:, 1]
        counts = (len(common), first & second, first & ~second, ~first & second, ~first & ~second)
        cells = [Cell(f"{names[0]} and {name}")]
        cells += [Cell(number(c if isinstance(c, int) else int(c.sum())), number=True) for c in counts]
        lines.append(Line(cells))
    return Table(["", "photographs", "both", "only the first", "only the second", "neither"], lines)


def right_by_id(path: Path) -> dict[str, bool]:
    """{photograph: whether its diagnosis is right}; empty where the file does not say."""
    try:
        lines = read_lines(path)
    except (OSError, ValueError):
        return {}
    answers: Answers | None = read_answers(lines).get(MAIN)
    if answers is None:
        return {}
    return {str(lines[row]["id"]): bool(right) for row, right in zip(answers.lines, answers.right, strict=True)}
