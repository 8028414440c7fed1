"""Multiple-choice benchmarks of others: FunBench's JSON and VLMEvalKit's TSV (Fundus-MMBench, GMAI-MMBench).

An option is answered by its likelihood as the answer to its question. The quality gate is not applied: these sets hold
other photographs than colour fundus ones, and all models are asked about all of them.

Shapes: Q questions, O options of one.
"""

import base64
import binascii
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdf.dialogue import Turn
from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, known_mean, put, ratio, resample, weighted_mean
from mdf.evaluation.classification import softmax
from mdf.evaluation.photographs import Progress
from mdf.files import read_json
from mdf.imaging.decode import load_image
from mdf.records import FundusRecord, Manifest

FORMS = ("text", "letter")  # what is scored: the words of an option, or its letter where the question lists them


@dataclass(frozen=True)
class Choice:
    """One question with its options."""

    index: str
    image: Path | bytes  # a file, or its content
    question: str
    options: Mapping[str, str]  # letter -> words
    right: tuple[str, ...]  # letters
    category: str = ""


def read_tsv(path: Path, images: Path | None = None) -> list[Choice]:
    """VLMEvalKit's table: `index`, `question`, `answer`, a column a letter from A, `image` (base64) or `image_path`
    below `images`, and maybe `category` and `hint`, which stands before the question.

    Raises UserError naming the row for whatever is missing, doubled or cannot be read.
    """
    csv.field_size_limit(sys.maxsize)  # pictures stand in the cells
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error})") from None
    have = set(rows[0]) if rows else set()
    lacking = sorted({"index", "question", "answer", "A"} - have)
    if not rows or lacking or not have & {"image", "image_path"}:
        raise UserError(
            f"{path} is no multiple-choice table of VLMEvalKit: it needs the columns index, question, answer, A, B, … "
            f"and image or image_path{', and lacks ' + ', '.join(lacking) if lacking else ''}"
        )
    choices: list[Choice] = []
    letters = [name for name in rows[0] if len(name) == 1 and name.isupper()]
    pictures: dict[str, bytes] = {}  # a cell may name the row that holds its picture
    for number, row in enumerate(rows, 2):
        where = f"{path} line {number}"
        if short := [name for name in ("index", "question", "answer") if row[name] is None]:
            raise UserError(f"{where} ends before the column {', '.join(short)}; is it cut off?")
        options = {letter: row[letter].strip() for letter in letters if (row[letter] or "").strip()}
        right = tuple(letter.strip() for letter in row["answer"].split(","))
        if strange := [letter for letter in right if letter not in options]:
            raise UserError(f"{where}: the answer {', '.join(strange)} is none of the options {', '.join(options)}")
        image: Path | bytes
        if row.get("image"):
            image = pictures[row["index"]] = picture(row["image"], pictures, where)
        else:
            image = find(images or path.parent, row.get("image_path") or "", where)
        asked = f"{row['hint'].strip()}\n{row['question']}" if (row.get("hint") or "").strip() else row["question"]
        choices.append(Choice(row["index"], image, asked, options, right, row.get("category") or ""))
    return refuse_doubled(choices, path)


def picture(cell: str, known: Mapping[str, bytes], where: str) -> bytes:
    """The content of a cell in base64, or of the row that it names."""
    if cell in known:
        return known[cell]
    try:
        return base64.b64decode(cell, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{where}: the column image is neither base64 nor the index of a row above") from None


def read_funbench(path: Path, images: Path) -> list[Choice]:
    """FunBench's files: a JSON file or a folder of them, `{image: {gt: "A" or "A,B", raw_data: {question, options}}}`,
    at the top or under `data`. The category is the file's path below the folder.

    Raises UserError naming the entry for another layout, an answer without an option and a missing photograph.
    """
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: there is no JSON file")
    choices: list[Choice] = []
    for file in files:
        values = read_json(file)
        entries = values.get("data", values) if isinstance(values, dict) else None
        if not isinstance(entries, dict) or not entries:
            raise UserError(f"{file} is no file of FunBench: it needs an object of photographs")
        category = file.relative_to(path).with_suffix("").as_posix() if path.is_dir() else file.stem
        for name, entry in entries.items():
            choices.append(funbench_choice(name, entry, images, category, f"{file}, {name}"))
    return choices


def funbench_choice(name: str, entry: Any, images: Path, category: str, where: str) -> Choice:
    """One entry of a file."""
    raw = entry.get("raw_data") if isinstance(entry, dict) else None
    if not isinstance(raw, dict) or not isinstance(entry.get("gt"), str) or not raw.get("options"):
        raise UserError(f"{where}: gt and raw_data.options are needed, as FunBench has them")
    given = raw["options"]
    if isinstance(given, list):  # "A. drusen", or the words alone
        given = {chr(65 + i): str(text).removeprefix(f"{chr(65 + i)}.").strip() for i, text in enumerate(given)}
    options = {str(letter): str(text) for letter, text in given.items()}
    right = tuple(letter.strip() for letter in entry["gt"].split(","))
    if strange := [letter for letter in right if letter not in options]:
        raise UserError(f"{where}: the answer {', '.join(strange)} is none of the options {', '.join(options)}")
    question = raw.get("question") or entry.get("question")
    if not question:
        raise UserError(f"{where}: there is no question (raw_data.question)")
    return Choice(f"{category}/{name}", find(images, name, where), str(question), options, right, category)


def find(folder: Path, name: str, where: str) -> Path:
    """The photograph `name` below a folder."""
    path = folder / name
    if not name or not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise UserError(f"{where}: there is no photograph {name or '(no name)'} below {folder}")
    return path


def refuse_doubled(choices: Sequence[Choice], path: Path) -> list[Choice]:
    """The same; raises UserError where an index stands twice."""
    seen: set[str] = set()
    for choice in choices:
        if choice.index in seen:
            raise UserError(f"{path}: the index {choice.index} stands there twice")
        seen.add(choice.index)
    return list(choices)


def photographs(choices: Sequence[Choice], folder: Path) -> Manifest:
    """Each photograph once, under the index of the first question about it; those that stand in the table itself are
    written into `folder`.
    """
    root = Path(folder.resolve().anchor)
    records: dict[Path | bytes, FundusRecord] = {}
    for choice in choices:
        if choice.image in records:
            continue
        place = choice.image if isinstance(choice.image, Path) else folder / str(len(records))
        if isinstance(choice.image, bytes):
            place.write_bytes(choice.image)
        relative = str(place.resolve().relative_to(root))
        records[choice.image] = FundusRecord(id=choice.index, image=relative)
    return Manifest(tuple(records.values()), root)


@torch.inference_mode()
def answer(model: Any, choices: Sequence[Choice], form: str = "text", batch_size: int = 8) -> list[np.ndarray]:
    """Probabilities [O] of each question's options, softmax over the likelihoods of the answers.

    `form` is one of FORMS: the words of the options as answers, as `mdf` models are trained to give them, or the
    letters behind a question that lists them.
    """
    found: list[np.ndarray] = []
    progress = Progress("questions", len(choices))
    for start in range(0, len(choices), batch_size):
        part = choices[start : start + batch_size]
        images = [
            load_image(c.image) if isinstance(c.image, Path) else load_image(f"question {c.index}", data=c.image)
            for c in part
        ]
        inputs = model.look(model.processor(images).to(model.device))
        turns, candidates = [], []
        for choice in part:
            listed = "".join(f"\n{letter}. {words}" for letter, words in choice.options.items())
            question = choice.question if form == "text" else f"{choice.question}{listed}"
            turns.append([model.system_turn(), Turn("user", question)])
            candidates.append(list(choice.options.values() if form == "text" else choice.options))
        scores = model.score(inputs, turns, candidates)
        found += [softmax(np.array([row], dtype=float))[0] for row in scores]
        progress.step(len(part))
    return found


def chosen(choices: Sequence[Choice], probabilities: Sequence[np.ndarray]) -> list[tuple[str, ...]]:
    """Letters: the likeliest option. Where some question has several right ones, every option above chance (1/O)."""
    several = any(len(choice.right) > 1 for choice in choices)
    answers = []
    for choice, p in zip(choices, probabilities, strict=True):
        letters = list(choice.options)
        best = letters[int(p.argmax())]
        above = tuple(letter for letter, value in zip(letters, p, strict=True) if value > 1 / len(letters))
        answers.append(above or (best,) if several else (best,))
    return answers


def choice_metrics(
    choices: Sequence[Choice], answers: Sequence[tuple[str, ...]], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict:
    """`accuracy` (the right letters and no other), `chance`, `funbench_f1` and the same `by_category`, each with
    `NAME_ci`; questions about one photograph are drawn together.

    FunBench's F1 is not the usual one: the harmonic mean of sensitivity and specificity of each option (by its words),
    averaged over the options that are right somewhere and wrong elsewhere.
    """
    pictures = [str(c.image) if isinstance(c.image, Path) else sha256(c.image).hexdigest() for c in choices]
    right = np.array([set(a) == set(c.right) for c, a in zip(choices, answers, strict=True)], dtype=float)

    def part(rows: np.ndarray) -> dict:
        some = [i for i in range(len(choices)) if rows[i]]
        weights = resample([pictures[i] for i in some], resamples=resamples, seed=seed)
        found: dict = {"n": len(some), "chance": float(np.mean([1 / len(choices[i].options) for i in some]))}
        put(found, "accuracy", weighted_mean(right[some]), weights)
        put(found, "funbench_f1", option_f1([choices[i] for i in some], [answers[i] for i in some]), weights)
        return found

    metrics = part(np.ones(len(choices), dtype=bool))
    names = sorted({c.category for c in choices})
    if len(names) > 1:
        metrics["by_category"] = {n or "none": part(np.array([c.category == n for c in choices])) for n in names}
    return metrics


def option_f1(choices: Sequence[Choice], answers: Sequence[tuple[str, ...]]) -> Any:
    """The metric "FunBench's F1" as a function of weights [R,Q]."""
    words = sorted({text for choice in choices for text in choice.options.values()})
    tables = []
    for text in words:
        letters = [next((k for k, v in c.options.items() if v == text), None) for c in choices]
        asked = np.array([k is not None for k in letters])
        true = np.array([k in c.right for k, c in zip(letters, choices, strict=True)]) & asked
        said = np.array([k in a for k, a in zip(letters, answers, strict=True)]) & asked
        tables.append((asked, true, said))

    def metric(weights: np.ndarray) -> np.ndarray:
        values = []
        for asked, true, said in tables:
            sensitivity = ratio(weights @ (true & said), weights @ true)
            specificity = ratio(weights @ (asked & ~true & ~said), weights @ (asked & ~true))
            both = sensitivity + specificity
            values.append(np.where(both > 0, 2 * sensitivity * specificity / np.where(both > 0, both, 1), both))
        return known_mean(np.stack(values, axis=1))

    return metric


def written_answers(choices: Sequence[Choice], answers: Sequence[tuple[str, ...]]) -> dict[str, str]:
    """{category: FunBench's file of answers, {photograph: letters}}."""
    files: dict[str, dict[str, str]] = {}
    for choice, letters in zip(choices, answers, strict=True):
        name = choice.index.removeprefix(f"{choice.category}/")
        files.setdefault(choice.category, {})[name] = ",".join(letters)
    return {category: json.dumps(found, indent=1) + "\n" for category, found in files.items()}


def table_of_answers(choices: Sequence[Choice], answers: Sequence[tuple[str, ...]]) -> str:
    """VLMEvalKit's table of predictions, without the pictures."""
    text = StringIO()
    rows = csv.writer(text, delimiter="\t", lineterminator="\n")
    rows.writerow(["index", "question", "answer", "category", "prediction"])
    for c, letters in zip(choices, answers, strict=True):
        rows.writerow([c.index, c.question, ",".join(c.right), c.category, ",".join(letters)])
    return text.getvalue()
