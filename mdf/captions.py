"""Captions: the text that stands for a photograph in contrastive training, and how a long one is cut.

A caption is of one of four kinds, drawn anew for each photograph and epoch by the weights `captions.sources`:

- labels: the names of all that is diagnosed or found, in a template of prompts/captions.yaml;
- descriptions: one of these names with what an expert looks for, all of it or one fact, as augmentation of the text
  with knowledge that labels do not hold (the expert knowledge of FLAIR: Silva-Rodriguez et al. 2025, "A foundation
  language-image model of the retina", Medical Image Analysis 99);
- text: the record's free text as it is, neither in a template nor in lower case;
- sentences: one sentence of that text, each epoch another: long reports do not fit a tower that reads 77 tokens.
"""

import re
import sys
from bisect import bisect_left
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import numpy as np

from mdf.checking import CAPTIONS
from mdf.config import CaptionsConfig
from mdf.dialogue import Prompts, report_text, sentence
from mdf.errors import UserError
from mdf.records import FundusRecord
from mdf.resources import bundled
from mdf.vocabulary import describe, display, phrases

FILE = "captions.yaml"
FIELDS = {
    "templates": ("labels",),
    "descriptions": ("label", "description"),
}  # what a template may hold; the last, must

# What a sentence ends with. A full stop only before white space, so that 0.6 stays whole; a line is a sentence.
END = re.compile(r"(?<=\S)[.!?…]+[\"'”’)\]]*(?=\s)|[。！？；｡]+[”’」』）]*|\n")
WHITE = re.compile(r"\s*")
NEVER_LAST = {  # words whose full stop ends no sentence
    "approx", "ca", "cf", "dr", "e.g", "fig", "i.e", "incl", "inf", "mr", "mrs", "nas", "prof", "resp", "st", "sup",
    "temp", "vs",
}  # fmt: skip
NUMBERED = {"no", "nos", "nr"}  # likewise, before a number
SELDOM_LAST = {"a.m", "al", "etc", "p.m"}  # likewise, unless a capital follows
# "2.", "b)", "OD.", "Left eye:" belong to what comes after them
HEAD = re.compile(
    r"\(?\d{1,2}[.)]|[A-Za-z][.)]|(?:O\.?[DSU]|(?i:(?:right|left) eye)|[左右]眼)[.。]?|.*[:：]", re.DOTALL
)
EYES = r"|\bO\.?U\b|(?i:\bboth eyes\b)|双眼"
SIDES = {
    "right": re.compile(r"\bO\.?D\b|(?i:\bright eye\b)|右眼" + EYES),
    "left": re.compile(r"\bO\.?S\b|(?i:\bleft eye\b)|左眼" + EYES),
}
ONE_SIGN = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"  # Chinese and Japanese: every sign can be a word
WORD = re.compile(rf"\s*(?:[{ONE_SIGN}]|[^\s{ONE_SIGN}]+)")


def caption(
    record: FundusRecord,
    prompts: Prompts,
    cfg: CaptionsConfig = CaptionsConfig(),  # noqa: B008 (frozen)
    rng: np.random.Generator | None = None,
) -> str:
    """The text that stands for this photograph, of a kind of `captions.sources` that the record can serve.

    Where `labels` is the only way and the record has neither diagnosis nor finding, its free text stands in the
    template in their place.

    With `rng` kind, template, fact and sentence are drawn. Without, as in validation and evaluation, a photograph has
    one caption, so that figures of one step compare with those of the next: the kind of the greatest weight (of equal
    ones the first in the order above), the first template, the first name with its whole description, the first
    sentence. Evaluation takes the default `cfg`, whatever the checkpoint was trained on, so that checkpoints are asked
    the same: names in the first template.

    Raises UserError where the record can serve none of the kinds, where its text is empty, and for wrong templates.
    """
    weights = served(record, cfg)
    if not weights:
        raise UserError(f"record {record.id}: {needed(cfg)} to align with; leave it out of this stage")
    kind = draw_kind(weights, rng)
    if kind == "text":
        return free_text(record) or ""
    if kind == "sentences":
        return pick(own_sentences(record), rng)
    lines, names = templates(prompts), names_of(record)
    if kind == "labels":
        labels = lines["join"].join(map(display, names)) or free_text(record)
        return pick(lines["templates"], rng).format(labels=labels)
    name = pick(names, rng)
    fact = sentence(pick([describe(name), *phrases(name)], rng))
    return pick(lines["descriptions"], rng).format(label=display(name), description=fact)


def can_be_aligned(record: FundusRecord, cfg: CaptionsConfig = CaptionsConfig()) -> bool:  # noqa: B008
    """Whether there is anything to make a caption of. Raises UserError for an empty text that would be one."""
    return bool(served(record, cfg))


def served(record: FundusRecord, cfg: CaptionsConfig) -> dict[str, float]:
    """Kinds with their weights that a caption of the record can be of."""
    named = bool(names_of(record))
    able = {
        "labels": lambda: named,
        "descriptions": lambda: named,
        "text": lambda: free_text(record) is not None,
        "sentences": lambda: bool(own_sentences(record)),
    }
    found = {kind: cfg.weights[kind] for kind in CAPTIONS if cfg.weights.get(kind) and able[kind]()}
    if not found and cfg.weights.get("labels") and able["text"]():
        return {"labels": cfg.weights["labels"]}
    return found


def needed(cfg: CaptionsConfig) -> str:
    """What a record lacks that can serve none of the kinds."""
    kinds = set(cfg.weights)
    if kinds == {"sentences"}:
        return "no text, or none that speaks of the photographed eye"
    if not kinds & {"labels", "descriptions"}:
        return "no text"
    return "neither diagnosis nor finding" if kinds == {"descriptions"} else "neither diagnosis, finding nor text"


def draw_kind(weights: dict[str, float], rng: np.random.Generator | None) -> str:
    """One of the kinds by weight; one alone costs no draw. Without `rng` the first of the greatest weight."""
    if rng is None or len(weights) == 1:
        return max(weights, key=lambda kind: weights[kind])
    shares = np.array(list(weights.values()))
    return list(weights)[int(rng.choice(len(shares), p=shares / shares.sum()))]


def pick(choices: list[Any], rng: np.random.Generator | None) -> Any:
    """One of them, the first without `rng`; one alone is drawn, too, so that the next draw does not depend on it."""
    return choices[0 if rng is None else int(rng.integers(len(choices)))]


def names_of(record: FundusRecord) -> list[str]:
    """What is diagnosed, then what else is found."""
    diagnosed = list(record.diagnosis or ())
    return diagnosed + [f.name for f in record.findings or () if f.name not in diagnosed]


def free_text(record: FundusRecord) -> str | None:
    """The record's text, or None. Raises UserError where it holds neither letter nor digit."""
    text = report_text(record)
    if text is not None and is_empty(text):
        raise UserError(f"record {record.id}: its text is empty ({text[:10]!r}), which says nothing; take it out")
    return text


def is_empty(text: str) -> bool:
    """Whether there is nothing to read: white space, dashes, signs that are not seen."""
    return not any(map(str.isalnum, text))


def own_sentences(record: FundusRecord) -> list[str]:
    """The sentences of the record's text, without those about the other eye where the record says which eye it is.

    A sentence that names no eye is about the one named last.
    """
    own, about = [], set[str]()
    for piece in split_sentences(free_text(record) or ""):
        about = {side for side, words in SIDES.items() if words.search(piece)} or about
        if not about or record.eye is None or record.eye in about:
            own.append(piece.strip())
    return own


def split_sentences(text: str) -> list[str]:
    """The text as sentences, each with the white space after it: joined they are the text again.

    "approx. 2 DD", "ratio 0.6", "No. 3" and "Dr. A. Smith" hold no end; line breaks and 。！？； are ends; a number, an
    eye ("OD.", "Left eye:") or another heading stays with the sentence that follows it.
    """
    pieces, start = list[str](), 0
    for end in END.finditer(text):
        after = WHITE.match(text, end.end()).end()  # type: ignore[union-attr]
        piece = text[start:after].strip()
        if end.start() < start or is_empty(piece) or HEAD.fullmatch(piece):
            continue
        if end.group()[0] == "." and is_abbreviation(text[start : end.start()].split()[-1], text[after : after + 1]):
            continue
        pieces.append(text[start:after])
        start = after
    rest = text[start:]
    if pieces and (is_empty(rest) or HEAD.fullmatch(rest.strip())):
        pieces[-1] += rest
    elif rest:
        pieces.append(rest)
    return pieces


def is_abbreviation(word: str, following: str) -> bool:
    """Whether the full stop after `word` ends no sentence; `following` is the first sign of what comes next."""
    word = word.lstrip("([\"'“‘")
    initial = len(word) == 1 and word.isupper()
    return (
        initial
        or word.lower() in NEVER_LAST
        or (word.lower() in NUMBERED and following.isdigit())
        or (word.lower() in SELDOM_LAST and not following.isupper())
    )


def cut(text: str, fits: Callable[[str], bool]) -> str:
    """The longest beginning of `text` that `fits`: whole sentences, else whole words, else signs."""
    for pieces in (split_sentences(text), WORD.findall(text), list(text)):
        count = bisect_left(range(len(pieces)), True, key=lambda n: not fits("".join(pieces[: n + 1])))
        if count:
            return "".join(pieces[:count]).strip()
    return ""


@cache
def tell_cut() -> None:
    """Said once a process, without the text: patients' words stay out of logs."""
    print(
        "note: a caption is longer than what the text tower reads; such a caption is cut at the last sentence end that "
        "fits, else at a word (said once; counted as captions_cut). captions.sources.sentences draws single sentences",
        file=sys.stderr,
    )


@lru_cache(maxsize=8)
def templates(prompts: Prompts) -> dict[str, Any]:
    """The lists `templates` and `descriptions` of prompts/captions.yaml and its text `join`, checked.

    A folder from before there were `descriptions` has those that come with mdf. Raises UserError for another shape.
    """
    path, spec = prompts.folder / FILE, prompts.captions
    if not isinstance(spec, dict):
        raise UserError(f"{path}: must hold lists templates and descriptions, and the text join")
    spec = {"join": ", ", **spec}
    if "descriptions" not in spec:
        spec["descriptions"] = Prompts(bundled("prompts")).captions["descriptions"]
    if not isinstance(spec["join"], str):
        raise UserError(f"{path}: join must be the text between two labels, in quotes")
    for key, fields in FIELDS.items():
        lines, must = spec.get(key), f"{{{fields[-1]}}}"
        if not isinstance(lines, list) or not lines or not all(isinstance(t, str) and must in t for t in lines):
            raise UserError(f"{path}: {key} must be a list of texts that each hold {must}")
        try:
            [line.format(**dict.fromkeys(fields, "")) for line in lines]
        except (KeyError, IndexError, ValueError):
            known = " and ".join(f"{{{field}}}" for field in fields)
            raise UserError(f"{path}: {key}: in braces only {known} is known") from None
    return spec
