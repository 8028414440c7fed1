"""The written evaluation as one page, index.html: tables, curves, cases, for a reader with a browser and nothing else.

The page holds everything it shows and asks nothing of any server; it runs no script. All words that come from data or
from a model are escaped. The same input gives the same bytes.

Shapes: N photographs, E embedding width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdf.evaluation.cases import Pictures, cases_of, read_answers
from mdf.evaluation.compare import flatten
from mdf.evaluation.page_file import render
from mdf.evaluation.page_sections import SECTIONS, embedding_map, section_of
from mdf.evaluation.page_tables import Cell, Line, Table, bracketed, finite, interval_of, number, said, written
from mdf.records import FundusRecord, Manifest

HEADLINES = (
    "classification.balanced_accuracy",
    "classification.macro_auroc",
    "controls.gain",
    "generation.accuracy",
    "spatial.small_lesions.balanced_accuracy",
    "segmentation.vessel.dice",
    "zero_shot.described.balanced_accuracy",
    "probe.balanced_accuracy",
    "retrieval.image_to_text_r1",
    "retrieval.image_to_image_map",
    "maps.lesions.attention.pointing",
    "maps.lesions.gain_over_random",
    "counterfactual.consistency",
)


def write_page(
    out: Path,
    metrics: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
    records: Sequence[FundusRecord],
    manifest: Manifest,
    *,
    embeddings: np.ndarray | None = None,
    maps: Mapping[str, np.ndarray] | None = None,
    stamps: Sequence[str] = (),
    photographs: bool = True,
) -> Path:
    """Write OUT/index.html (or OUT itself, where it ends in .html) and return its path.

    Args:
        metrics: as in metrics.json: sections of numbers, each with `NAME_ci` where it has an interval.
        lines: of predictions.jsonl.
        records: the N photographs evaluated.
        embeddings: float [N, E], in the order of `records`; None leaves the embedding map out.
        maps: explanation maps by record id, uint8 [H, W, 3], shown beside the photograph.
        stamps: warnings that stand on top of everything and on every printed page.
        photographs: False leaves out photographs and maps, since there are patients behind them.
    """
    answers = read_answers(lines)
    known = [*SECTIONS, *metrics]
    names = sorted((n for n, part in metrics.items() if isinstance(part, dict)), key=known.index)
    sections = [section_of(name, metrics[name], metrics, answers) for name in names]
    if embeddings is not None and len(embeddings) > 2:
        sections.append(embedding_map(np.asarray(embeddings), records, lines))
    pictures = Pictures(records, manifest, maps or {}, photographs)
    content = {
        "title": f"Evaluation of {written(metrics.get('checkpoint') or 'a checkpoint')}",
        "facts": facts(metrics),
        "tiles": tiles(metrics),
        "sections": [s for s in sections if s.tables or s.figures],
        "cases": cases_of(lines, answers, pictures),
        "photographs": photographs,
        "stamps": list(stamps),
    }
    return render("evaluation.html", out, content)


def facts(metrics: Mapping[str, Any]) -> Table:
    """What was evaluated on what: everything in metrics.json that belongs to no section."""
    lines = []
    for name, value in metrics.items():
        if not isinstance(value, dict):
            lines.append(Line([Cell(said(name)), Cell(written(value), name=name)]))
    return Table(["", ""], lines, style="facts")


def tiles(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures to read first: some of HEADLINES, else the first with an interval."""
    flat = flatten(dict(metrics))
    names = [n for n in HEADLINES if finite(flat.get(n))]
    names = names or [n for n in flat if interval_of(flat, n) and finite(flat[n])]
    found = []
    for name in names[:6]:
        title, named = headline(name)
        tile = {"title": title, "name": named, "value": number(flat[name])}
        found.append(tile | {"interval": bracketed(interval_of(flat, name)), "chance": chance_of(name, flat, metrics)})
    return found


def headline(name: str) -> tuple[str, str]:
    """The section of a figure and what it is there: Masks, vessel · Dice."""
    section, *rest = name.split(".")
    title = SECTIONS.get(section, (said(section), ""))[0]
    return title, " · ".join(word for word in map(said, rest) if word != title.lower())


def chance_of(name: str, flat: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """What guessing reaches, where it is known."""
    where, _, metric = name.rpartition(".")
    if metric.endswith("auroc"):
        return number(0.5)
    if isinstance(flat.get(f"{where}.chance"), float):
        return number(flat[f"{where}.chance"])
    recall = metrics.get("classification", {}).get("recall")
    if name == "classification.balanced_accuracy" and recall:
        return number(1 / len(recall))
    return ""
