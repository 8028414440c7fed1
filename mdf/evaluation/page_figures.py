"""The figures of the written evaluation as SVG, drawn by hand: colours are the page's, nothing is fetched.

Every figure has a title and a description for those who do not see it; the page sets its numbers beside it. Colours are
classes of the style sheet (`s0` strokes, `f0` fills), so that a dark screen and paper each get their own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from mdf.evaluation.points import Bin, steps, thin

COLOURS = 8  # of the style sheet; beyond them lines are dashed
LETTER = 6.3  # pixels, about the width of one at 12 px
UNIT = (0.0, 0.25, 0.5, 0.75, 1.0)
Box = tuple[float, float, float, float]  # left, top, width, height in pixels
Interval = Sequence[float] | None


class Drawing:
    """One SVG of `width` x `height` pixels, which the page may scale."""

    def __init__(self, width: float, height: float, title: str, description: str = ""):
        self.width, self.height, self.title, self.description = width, height, title, description
        self.parts: list[str] = []

    def add(self, tag: str, content: str = "", hover: str = "", **attributes: object) -> None:
        """An element; `class_` is class, `_` in a name is `-`, numbers are rounded to a tenth, text is escaped."""
        written = "".join(f' {k.rstrip("_").replace("_", "-")}="{escape(plain(v))}"' for k, v in attributes.items())
        inner = escape(content) + (Markup("<title>{}</title>").format(hover) if hover else "")
        self.parts.append(f"<{tag}{written}>{inner}</{tag}>" if inner else f"<{tag}{written}/>")

    def line(self, x1: float, y1: float, x2: float, y2: float, class_: str) -> None:
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)

    def text(
        self, x: float, y: float, content: str, class_: str = "label", anchor: str = "start", turn: float = 0
    ) -> None:
        turned = {"transform": f"rotate({plain(turn)} {plain(x)} {plain(y)})"} if turn else {}
        self.add("text", content, "", x=x, y=y, class_=class_, text_anchor=anchor, **turned)

    def path(self, points: Sequence[tuple[float, float]], class_: str) -> None:
        self.add("path", d="M" + "L".join(f"{plain(x)} {plain(y)}" for x, y in points), class_=class_)

    def svg(self) -> Markup:
        width, height = plain(self.width), plain(self.height)
        size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        about = f"<title>{escape(self.title)}</title>"
        about += f"<desc>{escape(self.description)}</desc>" if self.description else ""
        return Markup(f'<svg class="figure" role="img" {size}>{about}{"".join(self.parts)}</svg>')


class Plot:
    """A panel with axes inside a drawing."""

    def __init__(self, drawing: Drawing, box: Box, x: Sequence[float] = (0, 1), y: Sequence[float] = (0, 1)):
        self.drawing, self.box, self.x, self.y = drawing, box, (x[0], x[1]), (y[0], y[1])

    def at(self, x: float, y: float) -> tuple[float, float]:
        left, top, width, height = self.box
        return (
            left + width * (x - self.x[0]) / (self.x[1] - self.x[0]),
            top + height * (self.y[1] - y) / (self.y[1] - self.y[0]),
        )

    def frame(self, x_ticks: Mapping[float, str], y_ticks: Mapping[float, str], x_name: str, y_name: str) -> None:
        left, top, width, height = self.box
        for value, word in y_ticks.items():
            _, y = self.at(self.x[0], value)
            self.drawing.line(left, y, left + width, y, "grid")
            self.drawing.text(left - 6, y + 4, word, "tick", "end")
        for value, word in x_ticks.items():
            x, _ = self.at(value, self.y[0])
            self.drawing.line(x, top + height, x, top + height + 4, "axis")
            self.drawing.text(x, top + height + 16, word, "tick", "middle")
        self.drawing.line(left, top + height, left + width, top + height, "axis")
        self.drawing.text(left + width / 2, top + height + 33, x_name, "name", "middle")
        middle = top + height / 2
        self.drawing.text(left - 36, middle, y_name, "name", "middle", turn=-90)

    def curve(self, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, class_: str) -> None:
        self.drawing.path([self.at(float(a), float(b)) for a, b in zip(x, y, strict=True)], class_)

    def dot(self, x: float, y: float, radius: float, class_: str, hover: str = "") -> None:
        cx, cy = self.at(x, y)
        self.drawing.add("circle", hover=hover, cx=cx, cy=cy, r=radius, class_=class_)

    def whisker(self, x: float, low: float, high: float, class_: str) -> None:
        self.drawing.line(*self.at(x, low), *self.at(x, high), class_)


def plain(value: object) -> str:
    """A number to a tenth without a trailing zero, anything else as it is."""
    if isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return f"{round(float(value), 1) + 0.0:g}" if abs(float(value)) < 1e5 else f"{float(value):.0f}"
    return str(value)


def stroke(number: int) -> str:
    return f"curve s{number % COLOURS}" + (f" dash{number // COLOURS % 3}" if number >= COLOURS else "")


def ticks(low: float, high: float, about: int = 5) -> dict[float, str]:
    """Round numbers between two bounds, and how they are written."""
    if not high > low:
        return {low: f"{low:g}"}
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    values = [round(i * step, 10) for i in range(math.ceil(low / step), int(high / step + 1e-9) + 1)]
    return {v: f"{v:g}".replace("-", "\N{MINUS SIGN}") for v in values}


def units() -> dict[float, str]:
    return {v: f"{v:g}" for v in UNIT}


def swatch(number: int, *, dot: bool = False) -> Markup:
    """The mark of one curve or group in a table."""
    if dot:
        inner = f'<circle cx="11" cy="5" r="4" class="f{number % COLOURS}"/>'
    else:
        inner = f'<line x1="0" y1="5" x2="22" y2="5" class="{stroke(number)}"/>'
    return Markup(f'<svg class="swatch" width="22" height="10" aria-hidden="true">{inner}</svg>')


@dataclass(frozen=True)
class Mark:
    """A value with its interval (without one it is a bar) in one of the colours."""

    value: float
    interval: Interval = None
    colour: int = 0


def strip(marks: Sequence[Mark | None], axis: tuple[float, float] = (0.0, 1.0), chance: float | None = None) -> Markup:
    """Values under each other on a short axis, for a table's cell; `chance` is a tick, None leaves a line empty."""
    width, step = 120, 14 if len(marks) == 1 else 10
    high = step * len(marks)

    def x(v: float) -> str:
        return plain(4 + (width - 8) * min(1.0, max(0.0, (v - axis[0]) / (axis[1] - axis[0]))))

    def across(start: float, end: float, y: float, class_: str) -> str:
        return f'<line x1="{x(start)}" y1="{plain(y)}" x2="{x(end)}" y2="{plain(y)}" class="{class_}"/>'

    inner = ""
    for place, class_ in ((0.0 if axis[0] < 0 < axis[1] else None, "axis"), (chance, "chance")):
        if place is not None:
            inner += f'<line x1="{x(place)}" y1="1" x2="{x(place)}" y2="{high - 1}" class="{class_}"/>'
    for row, mark in enumerate(marks):
        y = step * (row + 0.5)
        inner += across(*axis, y, "track")
        if mark is None:
            continue
        colour = mark.colour % COLOURS
        if mark.interval is None:
            inner += across(min(max(0.0, axis[0]), axis[1]), mark.value, y, f"bar s{colour}")
        else:
            inner += across(mark.interval[0], mark.interval[1], y, f"whisker s{colour}")
            inner += f'<circle cx="{x(mark.value)}" cy="{plain(y)}" r="3.6" class="f{colour}"/>'
    size = f'viewBox="0 0 {width} {high}" width="{width}" height="{high}"'
    return Markup(f'<svg class="strip" {size} aria-hidden="true">{inner}</svg>')


def square(title: str, description: str, x_name: str, y_name: str) -> Plot:
    plot = Plot(Drawing(348, 344, title, description), (54, 10, 282, 282))
    plot.frame(units(), units(), x_name, y_name)
    return plot


def roc_figure(curves: Mapping[str, tuple[np.ndarray, np.ndarray] | None]) -> Markup:
    """A curve a class, in the order of the colours."""
    plot = square("ROC curves", f"One curve a class: {', '.join(curves)}.", "false positive rate", "true positive rate")
    plot.curve((0, 1), (0, 1), "reference")
    for number, curve in enumerate(curves.values()):
        if curve is not None:
            plot.curve(*thin(*curve), stroke(number))
    return plot.drawing.svg()


def precision_recall_figure(curves: Mapping[str, tuple[np.ndarray, np.ndarray] | None]) -> Markup:
    """A curve a class, in the order of the colours."""
    plot = square("Precision-recall curves", f"One curve a class: {', '.join(curves)}.", "recall", "precision")
    for number, curve in enumerate(curves.values()):
        if curve is not None:
            plot.curve(*steps(*thin(*curve)), stroke(number))
    return plot.drawing.svg()


def confusion_figure(matrix: np.ndarray, names: Sequence[str]) -> Markup:
    """Counts int [C, C] with truth in rows; a cell is the darker the larger its share of the row, which it says too."""
    count = len(names)
    cell = max(34.0, min(62.0, 460 / count))
    totals = matrix.sum(axis=1)
    rows = [f"{name}, n = {total}" for name, total in zip(names, totals, strict=True)]
    left, slanted = 34 + LETTER * max(map(len, rows)), max(map(len, names)) * LETTER > cell - 4
    top = 30 + (LETTER * 0.72 * max(map(len, names)) if slanted else 12)
    right = LETTER * 0.72 * len(names[-1]) if slanted else 8
    d = Drawing(
        left + count * cell + right,
        top + count * cell + 6,
        "Confusion matrix",
        "Rows are the reference, columns the answer; each cell has the count and its share of the row.",
    )
    d.text(left + count * cell / 2, 12, "answer", "name", "middle")
    middle = top + count * cell / 2
    d.text(12, middle, "reference", "name", "middle", turn=-90)
    for i, name in enumerate(names):
        x, y = left + (i + 0.5) * cell, top - 7
        if slanted:
            d.text(x, y, name, "label", "start", turn=-45)
        else:
            d.text(x, y, name, "label", "middle")
        d.text(left - 8, top + (i + 0.5) * cell + 4, rows[i], "label", "end")
    for i in range(count):
        for j in range(count):
            share = matrix[i, j] / totals[i] if totals[i] else 0.0
            x, y = left + j * cell, top + i * cell
            where = f"{names[i]} answered as {names[j]}: {matrix[i, j]} of {totals[i]}"
            fill = f"{share:.2f}"
            d.add(
                "rect", hover=where, x=x + 1, y=y + 1, width=cell - 2, height=cell - 2, class_="cell", fill_opacity=fill
            )
            strong = " strong" if share > 0.45 else "" if matrix[i, j] else " none"
            d.text(x + cell / 2, y + cell / 2 + (0 if cell >= 40 else 4), str(matrix[i, j]), f"count{strong}", "middle")
            if cell >= 40 and totals[i]:
                d.text(x + cell / 2, y + cell / 2 + 14, f"{share:.0%}", f"share{strong}", "middle")
    return d.svg()


def reliability_figure(bins: Sequence[Bin]) -> Markup:
    """Share of right answers by confidence with intervals, and below it how many answers each point stands for."""
    plot = square("Reliability diagram", "Share of right answers against confidence.", "confidence", "share right")
    d = plot.drawing
    d.height = 404
    plot.curve((0, 1), (0, 1), "reference")
    plot.curve([b.confidence for b in bins], [b.right for b in bins], "curve s0 faint")
    most, (left, _, width, _) = max(b.n for b in bins), plot.box
    for b in bins:
        hover = f"{b.n} answers with a confidence of {b.confidence:.2f}: {b.right:.2f} right"
        plot.whisker(b.confidence, b.low, b.high, "whisker s0")
        plot.dot(b.confidence, b.right, 4, "f0", hover)
        x, _ = plot.at(b.confidence, 0)
        d.add("rect", hover=hover, x=x - 3, y=392 - 40 * b.n / most, width=6, height=40 * b.n / most, class_="f0 pale")
    d.line(left, 392, left + width, 392, "axis")
    d.text(left - 6, 392, "0", "tick", "end")
    d.text(left - 6, 360, str(most), "tick", "end")
    d.text(left + width, 403, "answers a point", "tick", "end")
    return d.svg()


def risk_coverage_figure(coverage: np.ndarray, risk: np.ndarray) -> Markup:
    """Share of wrong answers among the surest ones, against how many are answered."""
    top = max(0.05, math.ceil(float(risk.max()) * 10 + 1e-9) / 10)
    plot = Plot(
        Drawing(348, 344, "Risk-coverage curve", "Wrong answers among the surest ones."), (54, 10, 282, 282), y=(0, top)
    )
    plot.frame(units(), ticks(0, top), "share answered, the surest first", "share wrong")
    plot.curve((0, 1), (risk[-1], risk[-1]), "reference")
    plot.curve(*thin(coverage, risk), "curve s0")
    return plot.drawing.svg()


@dataclass(frozen=True)
class Row:
    """A line of a forest plot; a row without a value is a heading."""

    label: str
    value: float | None = None
    interval: Interval = None
    written: str = ""  # value and interval as text
    colour: int = 0


def forest_figure(
    title: str,
    rows: Sequence[Row],
    *,
    reference: float | None = None,
    said: str = "",
    axis: tuple[float, float] | None = None,
) -> Markup:
    """Values with their intervals under each other; `reference` is a dashed line, `said` what it is."""
    high, top = 24, 8
    label = 16 + LETTER * max(len(r.label) for r in rows)
    written = 14 + LETTER * max(len(r.written) for r in rows)
    width = 250
    low, up = axis or axis_of(
        [v for r in rows if r.value is not None for v in (r.value, *(r.interval or ()))], reference
    )
    plot = Plot(
        Drawing(label + width + written + 8, top + high * len(rows) + (46 if said else 30), title, said),
        (label, top, width, high * len(rows)),
        x=(low, up),
        y=(len(rows), 0),
    )
    d = plot.drawing
    for value, word in ticks(low, up).items():
        x, _ = plot.at(value, 0)
        d.line(x, top, x, top + high * len(rows), "grid")
        d.text(x, top + high * len(rows) + 16, word, "tick", "middle")
    if reference is not None:
        x, _ = plot.at(reference, 0)
        d.line(x, top, x, top + high * len(rows), "reference")
        d.text(x, top + high * len(rows) + 32, said, "tick", "middle")
    for number, row in enumerate(rows):
        y = top + high * (number + 0.5)
        if row.value is None:
            d.text(0, y + 4, row.label, "name")
            continue
        d.text(label - 10, y + 4, row.label, "label", "end")
        x, _ = plot.at(row.value, 0)
        if row.interval:
            d.line(
                plot.at(row.interval[0], 0)[0], y, plot.at(row.interval[1], 0)[0], y, f"whisker s{row.colour % COLOURS}"
            )
        d.add("circle", hover=f"{row.label}: {row.written}", cx=x, cy=y, r=4.2, class_=f"f{row.colour % COLOURS}")
        d.text(label + width + 14, y + 4, row.written, "number")
    return d.svg()


def axis_of(values: Sequence[float], reference: float | None = None) -> tuple[float, float]:
    """[0, 1] where everything lies in it, else round bounds around the values and 0."""
    found = [v for v in (*values, reference, 0.0) if v is not None]
    low, high = min(found), max(found)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-9)))
    step /= 1 if (high - low) / step >= 5 else 5
    return round(math.floor(low / step) * step, 9), round(math.ceil(high / step) * step, 9)


Series = Mapping[int, tuple[float, Interval]]  # number -> value and interval


def growth_figure(title: str, x_name: str, y_name: str, series: Mapping[str, Series]) -> Markup:
    """A line a series over numbers such as photographs a class, evenly apart."""
    numbers = sorted({n for line in series.values() for n in line})
    place = {n: i for i, n in enumerate(numbers)}
    values = [v for line in series.values() for value, interval in line.values() for v in (value, *(interval or ()))]
    low, high = min(values), max(values)
    low, high = math.floor(low * 10) / 10, math.ceil(high * 10 + 1e-9) / 10
    plot = Plot(
        Drawing(428, 300, title, f"One line each for {', '.join(series)}."),
        (58, 10, 358, 236),
        x=(-0.35, len(numbers) - 0.65),
        y=(low, high if high > low else low + 0.1),
    )
    plot.frame({float(i): str(n) for n, i in place.items()}, ticks(*plot.y), x_name, y_name)
    for number, (name, line) in enumerate(series.items()):
        aside = (number - (len(series) - 1) / 2) * 0.05
        at = {place[n] + aside: line[n] for n in sorted(line)}
        plot.curve(list(at), [value for value, _ in at.values()], f"{stroke(number)} faint")
        for x, (value, interval) in at.items():
            if interval:
                plot.whisker(x, interval[0], interval[1], f"whisker s{number % COLOURS}")
            plot.dot(x, value, 3.6, f"f{number % COLOURS}", f"{name}: {value:.3f}")
    return plot.drawing.svg()


def map_figure(title: str, places: np.ndarray, groups: Sequence[int], names: Sequence[str]) -> Markup:
    """Photographs as points at `places` float [N, 2], coloured by their group; the largest group is drawn first."""
    size, edge = 340, 12
    d = Drawing(size, size, title, f"Photographs as points, coloured by {', '.join(names)}.")
    d.add("rect", x=0.5, y=0.5, width=size - 1, height=size - 1, class_="panel", rx=6)
    low, span = places.min(axis=0), float(np.ptp(places, axis=0).max()) or 1.0
    middle = (span - np.ptp(places, axis=0)) / 2
    at = edge + (places - low + middle) / span * (size - 2 * edge)
    for group, name in enumerate(names):
        inside = [i for i, g in enumerate(groups) if g == group]
        dots = "".join(f'<circle cx="{plain(at[i, 0])}" cy="{plain(size - at[i, 1])}" r="2.8"/>' for i in inside)
        d.parts.append(f'<g class="f{group % COLOURS} point"><title>{escape(name)}</title>{dots}</g>')
    return d.svg()
