"""Photographs that an evaluation is looked at by: where it was sure and wrong, right, undecided, or not understood.

Shapes: N photographs, C classes.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from mdf.errors import UserError
from mdf.evaluation.page_tables import said, written
from mdf.imaging.decode import load_image
from mdf.prototypes import truth_table
from mdf.records import Finding, FundusRecord, Manifest
from mdf.vocabulary import display, known

SHOWN = 6  # photographs of a kind
SIDE = 360  # pixels of a photograph's longer side on the page
QUALITY = 82  # of its JPEG
LENGTH = 700  # characters of a text beside it
LIKELY = 4  # probabilities beside it
MAIN = "probabilities"  # where predictions.jsonl holds those of the diagnosis

KINDS = {
    "worst": ("Sure and wrong", "The wrong answers with the highest probability."),
    "typical": ("Typical", "Right answers of middling confidence, each class in turn."),
    "borderline": ("Borderline", "The two likeliest diagnoses are closest."),
    "unread": ("Named no diagnosis", "What the model wrote names none of the candidates."),
}


@dataclass(frozen=True)
class Answers:
    """What one task answered: `lines` are rows of predictions.jsonl [N], with a true class each."""

    task: str
    lines: list[int]
    classes: list[str]
    truth: list[tuple[str, ...]]
    probabilities: np.ndarray  # [N, C]

    @property
    def predicted(self) -> np.ndarray:
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        return self.probabilities.max(axis=1)

    @property
    def right(self) -> np.ndarray:
        """bool [N]: the answer is one of the true classes."""
        return truth_table(self.truth, self.classes)[np.arange(len(self.truth)), self.predicted]


def read_answers(lines: Sequence[Mapping]) -> dict[str, Answers]:
    """The tables of probabilities in predictions.jsonl by task, `probabilities` (the diagnosis) first.

    A photograph without a true class among the table's, or with a score that is no number, is left out.
    """
    tables = [k for line in lines for k, v in line.items() if isinstance(v, dict) and is_table(v)]
    found = {}
    for task in sorted(dict.fromkeys(tables), key=lambda k: k != MAIN):
        classes = list(next(line[task] for line in lines if isinstance(line.get(task), dict)))
        rows, truth = [], []
        for i, line in enumerate(lines):
            table = line.get(task)
            true = line.get("truth") if task == MAIN else line.get("labels", line.get("truth"))
            known = tuple(n for n in true or () if n in classes)
            if isinstance(table, dict) and known and is_table(table) and set(table) == set(classes):
                rows.append(i)
                truth.append(known)
        if rows:
            table = np.array([[lines[i][task][c] for c in classes] for i in rows], dtype=float)
            found[task] = Answers(task, rows, classes, truth, table)
    return found


def is_table(values: Mapping) -> bool:
    """Whether these are probabilities of two classes or more."""
    return len(values) > 1 and all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1 for v in values.values()
    )


def choose(lines: Sequence[Mapping], answers: Answers | None, shown: int = SHOWN) -> dict[str, list[int]]:
    """Rows of predictions.jsonl by kind, ties to the first.

    `worst`: wrong, the surest first; `typical`: right, of each class in turn the one of middling confidence;
    `borderline`: the two likeliest classes closest; `unread`: a generated answer that names no diagnosis. Without
    probabilities `worst` are generated answers that name a wrong one.
    """
    said = [i for i, line in enumerate(lines) if isinstance(line.get("parsed"), list)]
    kinds = {"unread": [i for i in said if not lines[i]["parsed"]][:shown]}
    if answers is None:
        wrong = [
            i for i in said if lines[i]["parsed"] and not set(lines[i]["parsed"]) <= set(lines[i].get("truth", ()))
        ]
        return {"worst": wrong[:shown], "typical": [], "borderline": [], **kinds}
    sure, right, predicted = answers.confidence, answers.right, answers.predicted
    order = np.lexsort((np.arange(len(sure)), -sure))
    worst = [i for i in order.tolist() if not right[i]][:shown]
    by_class = []
    for c in range(len(answers.classes)):
        mine = [i for i in order.tolist() if right[i] and predicted[i] == c]
        by_class.append(mine[len(mine) // 2 :] + mine[: len(mine) // 2][::-1])
    typical = [row[k] for k in range(shown) for row in by_class if k < len(row)][:shown]
    top = np.sort(answers.probabilities, axis=1)
    margin = top[:, -1] - top[:, -2]
    borderline = np.lexsort((np.arange(len(sure)), margin)).tolist()[:shown]
    chosen = {"worst": worst, "typical": typical, "borderline": borderline}
    return {kind: [answers.lines[i] for i in rows] for kind, rows in chosen.items()} | kinds


def photograph(record: FundusRecord, manifest: Manifest) -> str | None:
    """The photograph as a small JPEG in a data URI; None where it cannot be read any more."""
    try:
        return picture(load_image(manifest.path(record.image)))
    except UserError:
        return None


def picture(pixels: np.ndarray) -> str:
    """uint8 [H, W, 3] as a JPEG of at most SIDE pixels in a data URI, without any metadata."""
    side = min(SIDE, max(pixels.shape[:2]))
    small = ImageOps.contain(Image.fromarray(pixels), (side, side), Image.Resampling.LANCZOS)
    stream = BytesIO()
    small.save(stream, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


@dataclass(frozen=True)
class Pictures:
    """Where the photographs and maps of the cases come from; nowhere where `shown` is false."""

    records: Sequence[FundusRecord]
    manifest: Manifest
    maps: Mapping[str, np.ndarray]
    shown: bool

    def of(self, name: str) -> tuple[FundusRecord | None, str | None, str | None]:
        """Record, photograph and map by id."""
        record = next((r for r in self.records if r.id == name), None)
        if record is None or not self.shown:
            return record, None, None
        return record, photograph(record, self.manifest), picture(self.maps[name]) if name in self.maps else None


def cases_of(
    lines: Sequence[Mapping[str, Any]], answers: Mapping[str, Answers], pictures: Pictures
) -> list[dict[str, Any]]:
    """The cases of the page by kind, those that there are: {title, about, cards}."""
    main = answers.get(MAIN) or next(iter(answers.values()), None)
    chosen = choose(lines, main)
    found = []
    for kind, (title, about) in KINDS.items():
        cards = [card(lines[i], pictures, main, i) for i in chosen[kind]]
        if cards:
            found.append({"title": title, "about": about, "cards": cards})
    return found


def card(line: Mapping[str, Any], pictures: Pictures, answers: Answers | None, row: int) -> dict[str, Any]:
    """One photograph with what is known of it and what was answered."""
    name = str(line.get("id"))
    record, seen, heat = pictures.of(name)
    content: dict[str, Any] = {"id": name, "photograph": seen, "map": heat, "texts": [], "likely": [], "eye": None}
    content |= {"findings": "", "answer": None, "right": None, "said": None}
    content["lost"] = pictures.shown and seen is None
    truth = line.get("truth") or line.get("labels") or ()
    content["reference"] = ", ".join(map(worded, truth)) or "unknown"
    if record is not None:
        content["eye"] = record.eye
        if record.findings:
            content["findings"] = ", ".join(dict.fromkeys(finding_of(f) for f in record.findings))
        content["texts"] += [(f"reference, {said(kind)}", cut(text)) for kind, text in sorted(record.texts.items())]
    if answers is not None and row in answers.lines:
        k = answers.lines.index(row)
        table = answers.probabilities[k]
        content["answer"] = worded(answers.classes[int(table.argmax())])
        content["right"] = bool(answers.right[k])
        content["likely"] = [
            {"name": said(answers.classes[c]), "value": f"{table[c]:.2f}", "width": f"{100 * table[c]:.1f}"}
            | {"true": answers.classes[c] in answers.truth[k]}
            for c in likeliest(table, [answers.classes.index(n) for n in answers.truth[k]])
        ]
    if isinstance(line.get("generated"), str):
        content["said"] = cut(line["generated"])
    if isinstance(line.get("report"), str):
        content["texts"].append(("written report", cut(line["report"])))
    content["asked"] = [
        {k: written(q.get(k)) for k in ("question", "truth", "answer")}
        for value in line.values()
        if isinstance(value, list)
        for q in value
        if isinstance(q, dict) and {"question", "truth", "answer"} <= q.keys()
    ]
    return content


def likeliest(table: np.ndarray, true: Sequence[int]) -> list[int]:
    """The LIKELY likeliest classes, and the true ones where they are not among them."""
    order = np.lexsort((np.arange(len(table)), -table)).tolist()
    return order[:LIKELY] + [c for c in order[LIKELY:] if c in true]


def worded(name: str) -> str:
    """A name of the vocabulary as it is said, another as it is."""
    return display(name) if known(name) else said(name)


def finding_of(finding: Finding) -> str:
    parts = [str(finding.count) if finding.count else "", finding.severity or "", worded(finding.name)]
    return " ".join(p for p in parts if p) + (f" ({finding.location})" if finding.location else "")


def cut(text: str) -> str:
    return text if len(text) <= LENGTH else text[: LENGTH - 1] + "…"
