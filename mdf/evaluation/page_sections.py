"""The sections of the written evaluation: the numbers of each task as tables, and the figures that belong to them.

Shapes: N photographs, C classes, E embedding width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from mdf.evaluation import points
from mdf.evaluation.cases import MAIN, Answers
from mdf.evaluation.classification import confusion
from mdf.evaluation.controls import verdict
from mdf.evaluation.page_figures import (
    COLOURS,
    Row,
    confusion_figure,
    forest_figure,
    growth_figure,
    map_figure,
    precision_recall_figure,
    reliability_figure,
    risk_coverage_figure,
    roc_figure,
    swatch,
)
from mdf.evaluation.page_tables import (
    Cell,
    Line,
    Part,
    Table,
    bracketed,
    finite,
    inner_tables,
    interval_of,
    leaves,
    number,
    places,
    said,
    series_of,
    tables_of,
    take_apart,
)
from mdf.evaluation.ranking import auroc
from mdf.evaluation.selective import risk_coverage
from mdf.prototypes import single_truth, truth_table
from mdf.records import FundusRecord

POINTS = 2000  # photographs in the embedding map
SECTIONS = {  # title, and one sentence on what it is
    "classification": ("Diagnosis", "The likelihood that the model gives each candidate diagnosis."),
    "controls": ("Does it use the photograph?", "The same question without the photograph, or without any model."),
    "calibration": (
        "Calibration",
        "Whether an answer given with 80 % is right in 80 % of the cases. Chance lifts ECE where photographs are few, "
        "so it has no interval.",
    ),
    "selective": ("Selective prediction", "How often it is right where it may leave out what it is unsure of."),
    "generation": ("In its own words", "The diagnosis and a report as the model writes them, read by rules."),
    "segmentation": ("Masks", "Drawn masks against those of the data set, inside the field of view."),
    "retrieval": ("Retrieval", "Captions and photographs finding each other in the shared embedding space."),
    "zero_shot": ("Zero-shot", "Photographs against texts of each class, without training on the classes."),
    "probe": ("Linear probe", "Logistic regression on frozen features: what a straight line through them separates."),
    "few_shot": ("Few-shot", "A few photographs of each class on frozen embeddings."),
    "spatial": (
        "Small lesions",
        "Is one there, in which quadrant, how many: questions that need detail.",
    ),
    "maps": (
        "Explanation maps",
        "Pointing: share of questions whose brightest place is on what was asked for; energy: share of light there; "
        "deletion (lower is better) and insertion (higher): the answer while the brightest places go, or come.",
    ),
    "counterfactual": (
        "Counterfactual pairs",
        "Two phantoms that differ in one thing: does the answer change where it should, and only there?",
    ),
    "reports": (
        "Draft reports",
        "The structured findings of a report against the record: which lesions, in which quadrant, how many; of "
        "photographs without a lesion, how many have none in the report; eye sides.",
    ),
    "subgroups": ("Subgroups", "The same figures for parts of the photographs, and how far apart they are."),
}
RELIABILITY = (
    "Answers in groups by the probability of the likeliest; below the dashed line they are too sure. Whiskers: 95 %."
)
FORESTS = ("controls", "baselines", "subgroups")  # sections that are drawn as a forest plot
PREFERRED = ("balanced_accuracy", "macro_auroc", "accuracy")  # of a forest plot


@dataclass(frozen=True)
class Figure:
    """A picture, what it shows, and its numbers, which open at a click unless they are the key to its colours."""

    svg: Markup
    title: str
    caption: str = ""
    table: Table | None = None
    key: bool = False


@dataclass
class Section:
    """A part of the page."""

    anchor: str
    title: str
    about: str = ""
    text: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    legend: Table | None = None
    tables: list[Table] = field(default_factory=list)
    folded: bool = False  # figures open at a click


# -- sections ---------------------------------------------------------------------------------------------------------


def section_of(name: str, values: dict, metrics: Mapping[str, Any], answers: Mapping[str, Answers]) -> Section:
    """The numbers of one dictionary of metrics.json as tables, and the figures that belong to it."""
    title, about = SECTIONS.get(name, (said(name).capitalize(), ""))
    part = take_apart(values, name)
    section = Section(name, title, about, tables=[*tables_of(part), *inner_tables(values, name)])
    if name == "controls" and {"real", "blank", "shuffled", "majority", "gain", "gain_ci"} <= values.keys():
        section.text = verdict(values).splitlines()
    if name in FORESTS and part.tables:
        section.figures += forests(name, part, metrics)
    what, series = series_of(values)
    for metric, lines in series.items():
        svg = growth_figure(said(metric), said(what), said(metric), lines)
        section.figures.append(Figure(svg, said(metric), table=growth_table(lines), key=True))
    if name == "calibration" and (bins := read_bins(values.get("reliability"))):
        section.figures.append(Figure(reliability_figure(bins), "Reliability", RELIABILITY, bins_table(bins)))
    if name == "selective" and (curve := read_curve(values.get("curve"))) is not None:
        section.figures.append(risk_and_coverage(*curve))
    mine = answers.get(MAIN if name == "classification" else name)
    if mine is not None:
        whole = name == "classification"
        section.legend, figures = answer_figures(
            mine, {n for n in ("calibration", "selective") if whole and n in metrics}
        )
        section.folded = not whole
        section.figures += figures
    return section


def read_bins(rows: Any) -> list[points.Bin]:
    """The points of a reliability diagram as `calibration` writes them; none where they are something else."""
    found = []
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, dict) or not finite(row.get("confidence")) or not finite(row.get("accuracy")):
            return []
        low, high = interval_of(row, "accuracy") or (row["accuracy"], row["accuracy"])
        found.append(points.Bin(int(row.get("n", 1)), row["confidence"], row["accuracy"], low, high))
    return found


def read_curve(rows: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Coverage and risk as `selective` writes them; None where they are something else."""
    pairs = rows if isinstance(rows, list) else []
    if not pairs or not all(isinstance(p, list) and len(p) == 2 and all(map(finite, p)) for p in pairs):
        return None
    return np.array(pairs)[:, 0], np.array(pairs)[:, 1]


def risk_and_coverage(coverage: np.ndarray, risk: np.ndarray) -> Figure:
    about, table = "Dashed: all photographs answered.", coverage_table(coverage, risk)
    return Figure(risk_coverage_figure(coverage, risk), "Risk and coverage", about, table)


def forests(name: str, part: Part, metrics: Mapping[str, Any]) -> list[Figure]:
    """A forest plot of a preferred metric, of the section's first table that has one."""
    rows = next((t for t in part.tables if any(n in PREFERRED for _, row in t for n in row)), part.tables[0])
    named = [n for _, row in rows for n in leaves(row) if interval_of(row, n)]
    metric = next((n for n in (*PREFERRED, *named) if n in named), None)
    if metric is None:
        return []
    whole = metrics.get("classification", {})
    reference, about = None, ""
    if name == "subgroups" and finite(whole.get(metric)):
        reference, about = whole[metric], "all photographs"
    elif name != "subgroups" and metric == "balanced_accuracy" and whole.get("recall"):
        reference, about = 1 / len(whole["recall"]), "chance"
    drawn: list[Row] = []
    group: tuple[str, ...] = ()
    for where, row in rows:
        if not finite(row.get(metric)):
            continue
        if where[:-1] != group:
            group = where[:-1]
            drawn.append(Row(places(group)))
        interval = interval_of(row, metric)
        text = f"{number(row[metric])} {bracketed(interval)}"
        colour = 0 if name == "subgroups" or where[-1] == "real" else COLOURS - 1
        drawn.append(Row(said(where[-1]), row[metric], interval, text, colour))
    return [Figure(forest_figure(said(metric), drawn, reference=reference, said=about), said(metric))]


def growth_table(lines: Mapping[str, Mapping[int, tuple[float, Any]]]) -> Table:
    numbers = sorted({n for line in lines.values() for n in line})
    rows = []
    for i, (name, line) in enumerate(lines.items()):
        cells = [Cell(name, swatch=swatch(i))]
        cells += [Cell(number(line[n][0]) if n in line else "", number=True) for n in numbers]
        rows.append(Line(cells))
    return Table(["", *map(str, numbers)], rows)


def answer_figures(answers: Answers, elsewhere: set[str]) -> tuple[Table, list[Figure]]:
    """The classes with their colours, then curves, confusion matrix and reliability of one task's answers; without what
    stands in the sections `elsewhere`.
    """
    classes, table = answers.classes, truth_table(answers.truth, answers.classes)
    names, ones = [said(c) for c in classes], np.ones((1, len(table)))
    scores = dict(zip(names, answers.probabilities.T, strict=True))
    roc = {n: points.roc(table[:, c], scores[n]) for c, n in enumerate(names)}
    precision = {n: points.precision_recall(table[:, c], scores[n]) for c, n in enumerate(names)}
    single = single_truth(answers.truth, answers.predicted, classes)
    matrix = confusion(single, answers.predicted, len(classes), ones)[0].astype(int)
    lines = []
    for c, name in enumerate(names):
        curve, found = precision[name], float(auroc(table[:, c], scores[name])(ones)[0])
        numbers = (
            number(int(table[:, c].sum())),
            number(found),
            number(points.average_precision(*curve) if curve else None),
        )
        lines.append(Line([Cell(name, swatch=swatch(c)), *(Cell(text, number=True) for text in numbers)]))
    legend = Table(["class", "n", "AUROC", "average precision"], lines, "The curves: each class against the others")
    sure, right = answers.confidence, answers.right
    counted = "A photograph with several true diagnoses counts under the one that was answered, else under its first."
    figures = [
        Figure(roc_figure(roc), "ROC", "Dashed: chance."),
        Figure(precision_recall_figure(precision), "Precision and recall"),
        Figure(confusion_figure(matrix, names), "Confusion matrix", counted, matrix_table(matrix, names)),
    ]
    if "calibration" not in elsewhere:
        bins = points.reliability(sure, right)
        about = f"{RELIABILITY} Photographs taken as independent."
        figures.append(Figure(reliability_figure(bins), "Reliability", about, bins_table(bins)))
    if "selective" not in elsewhere:
        figures.append(risk_and_coverage(*risk_coverage(sure, right)[1:]))
    return legend, figures


def matrix_table(matrix: np.ndarray, names: Sequence[str]) -> Table:
    rows = [
        Line([Cell(name), *(Cell(str(v), number=True) for v in row)])
        for name, row in zip(names, matrix.tolist(), strict=True)
    ]
    return Table(["reference \\ answer", *names], rows)


def bins_table(bins: Sequence[points.Bin]) -> Table:
    rows = [
        Line([Cell(number(b.confidence)), *(Cell(t, number=True) for t in (str(b.n), number(b.right)))]) for b in bins
    ]
    return Table(["mean confidence", "answers", "share right"], rows)


def coverage_table(coverage: np.ndarray, risk: np.ndarray) -> Table:
    rows = []
    for share in (1.0, 0.9, 0.8, 0.7, 0.5, 0.25):
        i = min(int(np.searchsorted(coverage, share - 1e-9)), len(coverage) - 1)
        rows.append(Line([Cell(f"{coverage[i]:.1%}"), Cell(number(float(risk[i])), number=True)]))
    return Table(["answered", "share wrong"], rows)


# -- the embedding map ------------------------------------------------------------------------------------------------


def embedding_map(
    embeddings: np.ndarray, records: Sequence[FundusRecord], lines: Sequence[Mapping[str, Any]]
) -> Section:
    """Photographs by their first two principal components (and UMAP, where it is installed), coloured by label and by
    source. Raises ValueError where there are not as many embeddings as records.
    """
    if len(embeddings) != len(records):
        raise ValueError(f"{len(embeddings)} embeddings for {len(records)} records")
    truth = {str(line.get("id")): line.get("truth") for line in lines}
    labels = [said((truth.get(r.id) or r.diagnosis or ("unknown",))[0]) for r in records]
    sources = [r.source or "unknown" for r in records]
    some = np.unique(np.linspace(0, len(records) - 1, min(POINTS, len(records))).round().astype(int))
    places, share = points.principal(embeddings)
    section = Section("embeddings", "Embedding map", "Photographs that the model finds alike lie close together.")
    ways = [(f"principal components, {share[0]:.0%} and {share[1]:.0%} of the variance", places[some])]
    near = points.umap(embeddings[some])
    if near is not None:
        ways.append(("UMAP, cosine", near))
    left = f" {len(some)} of {len(records)} photographs drawn." if len(some) < len(records) else ""
    for how, at in ways:
        for what, words in (("label", labels), ("source", sources)):
            count = points.counted(words, COLOURS)
            names = list(count)
            groups = [names.index(words[i] if words[i] in count else "others") for i in some]
            svg = map_figure(f"Embeddings by {what}", at, groups, names)
            rows = [
                Line([Cell(n, swatch=swatch(i, dot=True)), Cell(number(count[n]), number=True)])
                for i, n in enumerate(names)
            ]
            section.figures.append(Figure(svg, f"By {what}", f"By {how}.{left}", Table([what, "n"], rows), key=True))
    return section
