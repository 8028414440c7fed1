"""A record and prompt files become a conversation; a conversation becomes token ids with the supervised span marked.

Shapes: T tokens of one conversation. Batches are made in `mdf.batches`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mdf import curriculum, measures
from mdf.chat_template import control_tokens, render, with_photograph
from mdf.config import DialogueConfig
from mdf.errors import UserError
from mdf.records import Finding, FundusRecord, stated
from mdf.resources import bundled
from mdf.vocabulary import display

IGNORED = -100  # label of a token that is not supervised
QUADRANTS = ("superotemporal", "inferotemporal", "superonasal", "inferonasal")
SMALL_LESIONS = ("microaneurysm", "haemorrhage", "hard_exudate", "cotton_wool_spot", "drusen")
# Within a conversation no answer may give a later one away: after a report, or "how many", the picture is not needed.
# What is concluded (differential to follow_up) comes after the diagnosis that it is concluded from.
ORDER = (
    "eye", "unknown", "unrecorded", "presence", "size", "distance", "quadrant", "count", "find", "diagnosis",
    "grade", "severity", "differential", "explain", "refer", "follow_up", "report",
)  # fmt: skip
LABELS = {"diagnosis", "grade"}  # one of them at most: "grade 2" names the disease, and often the disease its grade
# a report is as long as four questions; conversations of one length waste no padding
LENGTH = {"report": 4, "explain": 3, "differential": 2, "refer": 2, "follow_up": 2}
# what is asked about one kind of lesion that is there, and what the record knows of it
ABOUT: dict[str, Callable[[FundusRecord, Finding], Any]] = {
    "quadrant": lambda record, finding: finding.location or None,
    "count": lambda record, finding: finding.count,
    "size": lambda record, finding: measures.reach(record, finding.name),
    "distance": lambda record, finding: measures.from_fovea(record, finding.name),
}
REPORT_TEXTS = (
    "report",
    "caption",
    "keywords",
    "en",
    "text",
)  # kinds of text in the order they are preferred as a report


@dataclass(frozen=True)
class Turn:
    """One message: `role` is system, user or assistant."""

    role: str
    content: str
    finding: str | None = None  # the lesion that an answer speaks of


@dataclass(frozen=True)
class Question:
    """A question with its true answer and, where the answer is one of a closed list, that list."""

    kind: str
    text: str
    answer: str
    candidates: tuple[str, ...] = ()
    finding: str | None = None


@dataclass(frozen=True)
class Encoded:
    """One conversation as token ids, each list of length T."""

    input_ids: list[int]
    labels: list[int]  # the id where the token is supervised, IGNORED elsewhere
    prompt_mask: list[bool]  # True before the first supervised token of the conversation
    findings: list[str | None]  # of a supervised token the lesion that its answer speaks of
    branch: list[int] | None = None  # number of the question that a token belongs to, 0 = all; None = one conversation
    dropped: int = field(default=0, compare=False)  # question-answer turns that max_length left no room for
    shared: int = field(default=0, compare=False)  # tokens before the words of the first question


class Prompts:
    """The prompt files of a folder: system.txt, questions.yaml, captions.yaml, recommendations.yaml, report_form.md.

    The last two are those that come with mdf where the folder lacks them. Raises UserError for what is missing or
    wrong.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        for name in ("system.txt", "questions.yaml", "captions.yaml"):
            if not (self.folder / name).is_file():
                raise UserError(
                    f"{self.folder / name} is missing: a prompts folder holds system.txt, questions.yaml "
                    "and captions.yaml"
                )
        self.system = (self.folder / "system.txt").read_text(encoding="utf-8").strip()
        self.questions: dict[str, dict[str, Any]] = self.read("questions.yaml")
        self.captions: dict[str, Any] = self.read("captions.yaml")
        if wrong := curriculum.problems(self.questions):
            raise UserError(f"{self.folder / 'questions.yaml'}:\n" + "\n".join(f"  {line}" for line in wrong))

    @cached_property
    def recommendations(self) -> dict[str, str]:
        """What is recommended by diagnosis; read when first asked for."""
        rules = self.read("recommendations.yaml")
        if wrong := curriculum.rule_problems(rules):
            raise UserError(f"{self.folder / 'recommendations.yaml'}:\n" + "\n".join(f"  {line}" for line in wrong))
        return rules

    def read(self, name: str) -> Any:
        """The content of a YAML file of the folder, or of the one that comes with mdf."""
        path = self.folder / name
        path = path if path.is_file() else bundled("prompts") / name
        try:
            return yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None

    def spec(self, kind: str) -> dict[str, Any]:
        """The section of questions.yaml on `kind`. Raises UserError where the folder is older than the question."""
        if kind not in self.questions:
            raise UserError(
                f"{self.folder / 'questions.yaml'} has no section `{kind}:`, which dialogue.questions asks for; "
                f"copy it from {bundled('prompts') / 'questions.yaml'}"
            )
        return self.questions[kind]

    def phrasing(self, kind: str, rng: np.random.Generator | None, phrasings: str = "few") -> str:
        """One way to ask; the first without `rng`. `phrasings` is dialogue.phrasings."""
        spec = self.spec(kind)
        choices = spec["ask"] + (spec.get("more", []) if phrasings == "all" else [])
        return choices[0] if rng is None or phrasings == "first" else choices[int(rng.integers(len(choices)))]

    def band(self, kind: str, value: float) -> str:
        """The answer of the band of `kind` that `value` falls into."""
        for end, answer in self.questions[kind]["bands"]:
            if end is None or value <= end:
                return answer
        raise UserError(
            f"{self.folder / 'questions.yaml'}: no band of `{kind}` holds {value:g}; end the list with [null, …]"
        )


def sentence(text: str) -> str:
    """`text` with a capital first letter."""
    return text[:1].upper() + text[1:]


def diagnosis_answer(prompts: Prompts, names: tuple[str, ...]) -> str:
    """How a diagnosis is said: display names joined by "and"."""
    return sentence(prompts.questions["diagnosis"]["answer"].format(diagnosis=" and ".join(display(n) for n in names)))


def report_text(record: FundusRecord) -> str | None:
    """The text of the record that serves as its report, or None."""
    for kind in REPORT_TEXTS:
        if record.texts.get(kind):
            return record.texts[kind]
    return None


def ask(
    record: FundusRecord,
    kind: str,
    prompts: Prompts,
    diagnoses: tuple[str, ...],
    rng: np.random.Generator | None = None,
    finding: str | None = None,
    phrasings: str = "few",
) -> Question | None:
    """One question of `kind` about the record, or None where the record does not know the answer.

    Without `rng` the first phrasing is used; `phrasings` is dialogue.phrasings. `diagnoses` are the candidate names of
    the diagnosis question; `finding` names the lesion that presence and the kinds of ABOUT ask about (drawn by `rng`
    where it is None).
    """
    if kind == "unrecorded":
        return ask_unrecorded(record, prompts, rng, phrasings)
    spec = prompts.spec(kind)
    phrasing = prompts.phrasing(kind, rng, phrasings)
    if kind in curriculum.ANSWERS:
        fact = curriculum.ANSWERS[kind](record, prompts, rng)
        words = {curriculum.WORDS[kind]: fact.word} if fact and fact.word else {}
        return Question(kind, phrasing.format(**words), sentence(fact.answer)) if fact else None
    if kind == "diagnosis":
        if not record.diagnosis:
            return None
        answer = diagnosis_answer(prompts, record.diagnosis)
        return Question(kind, phrasing, answer, tuple(diagnosis_answer(prompts, (d,)) for d in diagnoses))
    if kind == "report":
        text = report_text(record)
        return None if text is None else Question(kind, phrasing, sentence(spec["answer"].format(report=text)))
    if kind == "eye":
        sides = tuple(sentence(spec["answer"].format(eye=side)) for side in ("left", "right"))
        return None if record.eye is None else Question(kind, phrasing, sides[record.eye == "right"], sides, "disc")
    if record.findings is None:
        return None
    present = stated(record)
    if kind == "presence":
        if finding is None:
            assert rng is not None
            there = [n for n in SMALL_LESIONS if n in present]
            absent = [n for n in SMALL_LESIONS if n not in present]
            pool = there if rng.random() < 0.5 else absent
            pool = pool or absent or there
            finding = pool[int(rng.integers(len(pool)))]
        answers: tuple[str, ...] = (spec["yes"], spec["no"])
        return Question(
            kind, phrasing.format(finding=display(finding)), answers[finding not in present], answers, finding
        )
    values = {name: value for name, f in present.items() if (value := ABOUT[kind](record, f)) is not None}
    known = [name for name in values if name in SMALL_LESIONS]
    if finding is None:
        if not known:
            return None
        finding = known[0 if rng is None else int(rng.integers(len(known)))]
    elif finding not in known:
        return None
    truth = values[finding]
    if kind == "quadrant":
        answers = tuple(sentence(spec["answer"].format(location=q)) for q in QUADRANTS)
        answer = sentence(spec["answer"].format(location=truth))
        answers = answers if answer in answers else ()  # in several quadrants, or in the macula: no closed list
    else:
        answers, answer = tuple(band[1] for band in spec["bands"]), prompts.band(kind, truth)
    return Question(kind, phrasing.format(finding=display(finding)), answer, answers, finding)


def ask_unrecorded(
    record: FundusRecord, prompts: Prompts, rng: np.random.Generator | None, phrasings: str
) -> Question | None:
    """A question that the record cannot answer, answered so; None where it lacks nothing."""
    missing = curriculum.lacking(record, SMALL_LESIONS)
    if not missing:
        return None
    kind, finding = curriculum.pick(missing, rng)
    text = prompts.phrasing(kind, rng, phrasings).format(finding=display(finding) if finding else "")
    return Question("unrecorded", text, prompts.spec("unrecorded")["answer"])


def converse(
    record: FundusRecord, prompts: Prompts, cfg: DialogueConfig, diagnoses: tuple[str, ...], rng: np.random.Generator
) -> list[Turn]:
    """A training conversation: the system prompt, then up to `cfg.turns` different questions with their answers."""
    kinds, weights = list(cfg.questions), np.array(list(cfg.questions.values()), dtype=float)
    asked: dict[tuple[str, str | None, str], Question] = {}
    opening = cfg.questions.get("diagnosis") and rng.random() < cfg.diagnosis_first
    # four draws a turn: a kind that the record cannot answer, or a repetition, costs one of them
    for draw in range(4 * cfg.turns):
        kind = "diagnosis" if opening and draw == 0 else kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        question = ask(record, kind, prompts, diagnoses, rng, phrasings=cfg.phrasings)
        if question is not None and not any({kind, q.kind} == LABELS for q in asked.values()):
            asked.setdefault((kind, question.finding, question.answer), question)
        if sum(LENGTH.get(q.kind, 1) for q in asked.values()) >= cfg.turns:
            break
    if not asked:  # the record answers only kinds of little weight: the first of them, in an order drawn by the weights
        for kind in map(str, rng.choice(kinds, np.count_nonzero(weights), replace=False, p=weights / weights.sum())):
            question = ask(record, kind, prompts, diagnoses, rng, phrasings=cfg.phrasings)
            if question is not None:
                asked[kind, question.finding, question.answer] = question
                break
    questions = sorted(asked.values(), key=lambda q: -1 if opening and q.kind == "diagnosis" else ORDER.index(q.kind))
    turns = [Turn("system", prompts.system)]
    for question in questions:
        turns += [Turn("user", question.text), Turn("assistant", question.answer, question.finding)]
    if not asked:
        raise UserError(
            f"record {record.id}: no question of {', '.join(kinds)} can be answered from it; leave it out of `fuse`"
        )
    return turns


def encode_apart(
    turns: list[Turn], tokenizer: Any, image_token: str, image_tokens: int, *, max_length: int = 0
) -> Encoded:
    """Token ids of questions about one photograph that do not see each other, each as if it were the only one.

    System prompt and photograph stand once, the question-answer turns behind them as branches. A row longer than
    `max_length` (0 = any) loses its last branches. Raises UserError as `encode` does.
    """
    first_user = next(i for i, t in enumerate(turns) if t.role == "user")
    head, pairs = turns[:first_user], list(zip(turns[first_user::2], turns[first_user + 1 :: 2], strict=True))
    alone = [encode([*head, *pair], tokenizer, image_token, image_tokens, max_length=max_length) for pair in pairs]
    shared = alone[0].shared
    if any(e.input_ids[:shared] != alone[0].input_ids[:shared] for e in alone):
        raise UserError("a question changes the tokens before it; this language model is not supported")
    first = alone[0]
    ids, labels, findings = first.input_ids[:shared], first.labels[:shared], first.findings[:shared]
    branch, dropped = [0] * shared, 0
    for number, one in enumerate(alone, 1):
        if max_length and len(ids) + len(one.input_ids) - shared > max_length:
            dropped = len(alone) - number + 1
            tell_dropped(max_length)
            break
        ids, labels = ids + one.input_ids[shared:], labels + one.labels[shared:]
        findings = findings + one.findings[shared:]
        branch += [number] * (len(one.input_ids) - shared)
    # what FiLM may read is what all of them share
    return Encoded(ids, labels, [number == 0 for number in branch], findings, branch, dropped, shared)


@cache
def tell_dropped(max_length: int) -> None:
    """Said once a process: conversations lose turns."""
    print(
        f"a conversation is longer than dialogue.max_length={max_length} tokens and loses its last questions "
        "(said once); raise it, or lower dialogue.turns",
        file=sys.stderr,
    )


def encode(
    turns: list[Turn],
    tokenizer: Any,
    image_token: str,
    image_tokens: int,
    *,
    max_length: int = 0,
    generate: bool = False,
) -> Encoded:
    """Token ids of a conversation about one photograph; every assistant turn, its end token included, is supervised.

    The placeholder `image_token` stands `image_tokens` times at the head of the first user turn. A conversation longer
    than `max_length` (0 = any) loses its last question-answer turns, never image tokens.
    With `generate` the conversation ends with a user turn and the template's opening of the answer.
    Raises UserError where the user's text holds the placeholder or the conversation cannot be cut to `max_length`.
    """
    for turn in turns:
        if image_token in turn.content:
            raise UserError(
                f"the text holds {image_token!r}, which stands for the photograph; "
                "remove it from the question or prompt"
            )
        if "<" in turn.content and (named := [t for t in control_tokens(tokenizer) if t in turn.content]):
            raise UserError(f"the text holds {named[0]!r}, which ends or opens a turn to the language model; remove it")
    if max_length and image_tokens >= max_length:
        raise UserError(
            f"the photograph alone takes {image_tokens} of dialogue.max_length={max_length} tokens; "
            "raise it, or lower language.prefix_side"
        )
    shown = with_photograph(turns, tokenizer, image_token, image_tokens)
    text = render(shown, tokenizer, generate=generate, image_token=image_token)
    spans = []
    for i, turn in enumerate(shown):
        if turn.role != "assistant":
            continue
        head = render(shown[:i], tokenizer, generate=True, image_token=image_token)
        whole = render(shown[: i + 1], tokenizer, image_token=image_token)
        if not (whole.startswith(head) and text.startswith(whole.rstrip())):
            raise UserError(
                "the chat template does not render a conversation turn by turn; this language model is not supported"
            )
        spans.append((len(head), len(whole.rstrip()), turn.finding))
    tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = tokens["input_ids"], tokens["offset_mapping"]
    labels, findings = [IGNORED] * len(ids), list[str | None]([None] * len(ids))
    for start, end, finding in spans:
        for i, (a, b) in enumerate(offsets):
            if a < start < b:
                raise UserError(
                    "a token crosses the start of an answer; generation would see other tokens than training"
                )
            if start <= a and b <= end and b > a:
                labels[i], findings[i] = ids[i], finding
    if max_length and len(ids) > max_length:
        users = [i for i, t in enumerate(turns) if t.role == "user"]
        if len(users) < 2 or generate:
            raise UserError(
                f"a conversation of {len(ids)} tokens is longer than dialogue.max_length={max_length}; raise it"
            )
        tell_dropped(max_length)
        shorter = encode(turns[: users[-1]], tokenizer, image_token, image_tokens, max_length=max_length)
        return replace(shorter, dropped=shorter.dropped + 1)
    prompt_end = next((i for i, label in enumerate(labels) if label != IGNORED), len(ids))
    question = next(t.content for t in turns if t.role == "user").strip()
    words = text.find(question, text.rfind(image_token) if image_tokens else 0)
    shared = sum(b <= words for _, b in offsets)
    return Encoded(ids, labels, [i < prompt_end for i in range(len(ids))], findings, shared=shared)
