"""What a report says, as facts: what it names, whether it affirms, denies or doubts it, where, how much, in which eye.

Rules, no model: sentence by sentence, a sentence in clauses, a clause in statements ("the disc is pale and no drusen
are seen" holds two), a statement in folded words. A denial reaches to the end of its statement. The words are in
`mdf/data/facts.yaml`, the names in the vocabulary; both are English, and a text in another language has no facts.

It misses what is described and not named ("red dots"), and takes any name that it knows for a statement on this
photograph unless a word beside it says otherwise.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, TypeVar

from mdf.captions import split_sentences
from mdf.evaluation.rewording import CUP_DISC, GRADE, GRADE_VALUE, GRADED, UK_CODE, prepared
from mdf.evaluation.wording import Name, Wording, wording
from mdf.vocabulary import NORMAL, entries, fold, is_a, scales, written

T = TypeVar("T")
AFFIRMED, DENIED, UNCERTAIN, ASIDE = "affirmed", "denied", "uncertain", "aside"
LONGEST = 10  # words of the longest phrase looked for
NEAR = 5  # words that "not" reaches
GAP = 4  # words between a number and what it counts
COMMA = "xxcomma"
ROMAN = {"i": "1", "ii": "2", "iii": "3", "iv": "4", "v": "5"}
SIDED = {"eye", "fundus", "retina", "disc", "optic", "macula", "fovea", "photograph", "image"}  # "left" before these
DASH = re.compile(r"\s[-–]\s")
MEASURE = "\0"  # where a ratio or a grade stood
EYE_BEHIND = re.compile(r"[\s,]*(?:(?:in|of|on) )?(?:the )?(right|left) eye\b", re.IGNORECASE)
COUNTED = re.compile(r"count(\d+)(?:to(\d+)|(up))")


@dataclass(frozen=True)
class Fact:
    """`name` is of the vocabulary, or "lesion" for any lesion. `places` are words of facts.yaml; `count` the fewest and
    the most (None = any) that are meant.
    """

    name: str
    status: str = AFFIRMED  # affirmed | denied | uncertain | aside (past, risk, what to look for)
    eye: str | None = None  # left | right | both
    places: tuple[str, ...] = ()
    count: tuple[int, int | None] | None = None


@dataclass(frozen=True)
class Grade:
    """A value on a grading scale of grades.yaml; `scale` is None where the text does not say which."""

    value: str
    scale: str | None = None
    eye: str | None = None


@dataclass(frozen=True)
class CupDisc:
    """A cup-disc ratio, 0 to 1; the middle where a range is given."""

    ratio: float
    eye: str | None = None


@dataclass(frozen=True)
class TextFacts:
    """All that a text says, in its order."""

    facts: tuple[Fact, ...] = ()
    grades: tuple[Grade, ...] = ()
    cup_disc: tuple[CupDisc, ...] = ()
    eyes: frozenset[str] = frozenset()  # sides spoken of

    def names(self, status: str) -> set[str]:
        """What is named with that status."""
        return {f.name for f in self.facts if f.status == status}


class Found(NamedTuple):
    """A phrase at words `start` to `end` of a statement."""

    start: int
    end: int
    value: object


@lru_cache(maxsize=4096)
def read_facts(text: str) -> TextFacts:
    """The facts of a text; none of an empty one or one in another language."""
    return Reader(wording()).read(text)


class Reader:
    """Reads one text from its beginning: an eye once named is the one spoken of until another is."""

    def __init__(self, words: Wording):
        self.words = words
        self.ends = re.compile(
            r";|\n|[()\[\]]|—|,(?=[^,:]{1,40}:)|\b(?:" + "|".join(sorted(words.ends, key=len, reverse=True)) + r")\b",
            re.IGNORECASE,
        )
        self.eye: str | None = None
        self.facts: list[Fact] = []
        self.grades: list[Grade] = []
        self.ratios: list[CupDisc] = []
        self.eyes: set[str] = set()

    def read(self, text: str) -> TextFacts:
        for sentence in split_sentences(prepared(text)):
            before, graded = len(self.facts), len(self.grades)
            for clause in self.ends.split(sentence.strip().rstrip(".!。")):
                self.clause(self.measures(clause, sentence))
            if self.begins_aside(sentence):
                self.facts[before:] = [replace(fact, status=ASIDE) for fact in self.facts[before:]]
            gone = [name for grade in self.grades[graded:] for name in denied_by(grade)]
            self.facts[before:] = [
                replace(f, status=DENIED) if f.status == AFFIRMED and any(is_a(n, f.name) for n in gone) else f
                for f in self.facts[before:]
            ]
        return TextFacts(tuple(self.facts), tuple(self.grades), tuple(self.ratios), frozenset(self.eyes))

    def begins_aside(self, sentence: str) -> bool:
        folded = fold(sentence) + " "
        return any(folded.startswith(f"{phrase} ") for phrase in self.words.sentences)

    def measures(self, clause: str, sentence: str) -> str:
        """The clause without its cup-disc ratios and grades, which are kept, with the eye behind or before them."""

        def eye_of(match: re.Match[str]) -> str | None:
            behind = EYE_BEHIND.match(match.string, match.end())
            sides = self.sides(fold(match.string[: match.start()]).split())
            return behind[1].lower() if behind else str(sides[-1].value) if sides else self.eye

        def ratio(match: re.Match[str]) -> str:
            ends = [float(v.replace(",", ".")) for v in match.groups() if v]
            self.ratios.append(CupDisc(sum(ends) / len(ends), eye_of(match)))
            return MEASURE

        def uk(match: re.Match[str]) -> str:
            self.grades.append(Grade("R" + match[1].upper(), "uk", eye_of(match)))
            return MEASURE

        def graded(match: re.Match[str]) -> str:
            if scale is None and not named:
                return match[0]
            self.grades.append(Grade(ROMAN.get(match[1].lower(), match[1].upper()), scale, eye_of(match)))
            return MEASURE

        folded = f" {fold(sentence)} "
        scales = [s for s in self.words.scales if f" {s} " in folded]
        scale = self.words.scales[max(scales, key=len)] if scales else None
        named = bool(self.scan(folded.split(), self.words.names))
        clause = UK_CODE.sub(uk, CUP_DISC.sub(ratio, clause))
        if scales:  # "ICDR 2", "KWB III"
            called = "|".join(r"[\s-]+".join(map(re.escape, s.split())) for s in sorted(scales, key=len, reverse=True))
            pattern = rf"\b(?:{called})\s*(?:{GRADED})?\s*[:=]?\s*{GRADE_VALUE}"
            clause = re.sub(pattern, graded, clause, flags=re.IGNORECASE)
        clause = GRADE.sub(graded, clause)
        for behind in re.finditer(MEASURE + EYE_BEHIND.pattern, clause, re.IGNORECASE):
            self.remember(behind[1].lower())
        return re.sub(f"{MEASURE}(?:{EYE_BEHIND.pattern})?", " ", clause, flags=re.IGNORECASE)

    def clause(self, clause: str, place: tuple[str, ...] = ()) -> None:
        """Read one clause; what stands before a colon is a heading, or the thing that the rest is an answer on."""
        head, colon, rest = clause.partition(":")
        if not colon:
            head, colon, rest = DASH.sub(":", clause, count=1).partition(":")
        if not colon or not rest.strip():
            for statement in self.statements(clause):
                self.statement(statement, place)
            return
        said = [f.value for f in self.scan(fold(rest).split(), self.words.names)]
        if not said and self.scan(fold(head).split(), self.words.names):
            rest = re.sub(r"^\s*(?:no|0)\s*$|^\s*no (?:sign|evidence)s?\b.*$", " none ", rest, flags=re.IGNORECASE)
            rest = f" numbering {rest}" if self.number(fold(rest).split(), 0) else rest
        if not any(isinstance(n, Name) and n.name not in (NORMAL, "abnormal") for n in said) and ":" not in rest:
            for statement in self.statements(f"{head} {rest}"):
                self.statement(statement, place)
            return
        words = fold(head).split()
        for side in self.sides(words):
            self.remember(str(side.value))
        self.clause(rest, tuple(str(f.value) for f in self.scan(words, self.words.places)) or place)

    def remember(self, side: str) -> None:
        self.eye = side
        self.eyes |= {"left", "right"} if side == "both" else {side}

    def statements(self, clause: str) -> list[list[str]]:
        """The clause cut into statements of folded words, at commas, "and" and "with"."""
        pieces = re.split(r"(,|&|\+|\band\b|\bwith\b)", clause)
        made = [fold(pieces[0]).split()]
        for joint, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            words = fold(piece).split()
            if self.stands_alone(words, made[-1], joint):
                made.append(words)
            else:
                made[-1] = [*made[-1], *(COMMA if joint == "," else fold(joint) or "and").split(), *words]
        return [words for words in made if words]

    def stands_alone(self, words: list[str], before: list[str], joint: str) -> bool:
        """Whether `words` begin a statement of their own: they say so ("a few …"), or both sides have a verb. "or" goes
        on with a list ("no haemorrhages, exudates or drusen are seen").
        """
        if not words or "or" in words[:2] or "nor" in words[:2]:
            return False
        counted = words[0].isdigit() or COUNTED.fullmatch(words[0]) is not None
        text = " ".join(words) + " "
        begins = counted or any(text.startswith(f"{start} ") for start in self.words.starts)
        if begins or joint == "with":
            return begins
        cut = next((i for i, w in enumerate(words) if w in self.words.verbs), len(words))
        if cut == len(words) or "or" in words[:cut]:
            return False
        return any(w in self.words.verbs for w in before) or any(status == DENIED for _, status, _ in self.cues(before))

    def statement(self, words: list[str], place: tuple[str, ...]) -> None:
        """Add the facts of one statement."""
        names = self.scan(words, self.words.names)
        inside = {i for found in names for i in range(found.start, found.end)}
        free = [COMMA if i in inside else w for i, w in enumerate(words)]  # a name's words mean nothing else
        places = [p for p in self.scan(free, self.words.places) if not self.is_spared(words, p)]
        sides, cues = self.sides(words), self.cues(free)
        plain = {f.end for f in names if f.end - f.start == 1 and isinstance(f.value, Name) and f.value.name == NORMAL}
        starts = {f.start for f in names}
        for found in names:
            name = found.value
            assert isinstance(name, Name)
            if found.end in plain & starts:  # "normal retinal pigmentation" is said of what follows
                continue
            status = DENIED if found.start in plain else self.status(free, found, cues)
            where = tuple(dict.fromkeys(map(str, self.belonging(free, names, places, found)))) or place
            eye = next(iter(self.belonging(free, names, sides, found, last=True)), self.eye)
            count = self.count(free, found)
            if count == (0, 0) and status == AFFIRMED:
                status, count = DENIED, None
            fact = Fact(name.name, status, str(eye) if eye else None, where, None if status == DENIED else count)
            self.facts += self.meant(fact, name, free, found)
        for side in sides:
            self.remember(str(side.value))

    def meant(self, fact: Fact, name: Name, words: list[str], found: Found) -> Iterator[Fact]:
        """The fact in the words of the vocabulary: "normal macula" denies an abnormal one, "no disease" is normal,
        "suspected …" is uncertain.
        """
        if name.absent and fact.status == AFFIRMED:
            yield replace(fact, status=DENIED)
        elif name.name == NORMAL:
            structures = self.scan(words, self.words.structures)
            # the thing itself ("normal disc", "the disc is of normal size"), not what follows later
            own = [s for s in structures if s.end <= found.start or s.start - found.end < 3]
            if fact.status == DENIED:
                return
            if not own:
                yield fact
            status = DENIED if fact.status == AFFIRMED else fact.status
            for structure in dict.fromkeys(str(s.value) for s in own if s.value):
                yield replace(fact, name=structure, status=status, places=())
        elif name.denied_only:
            if fact.status == DENIED and fact.name == "abnormal":
                yield from self.meant(replace(fact, name=NORMAL, status=AFFIRMED), Name(NORMAL), words, found)
            elif fact.status == DENIED:
                yield fact
        elif fact.status == AFFIRMED and fact.name.startswith("suspected_"):
            yield replace(fact, status=UNCERTAIN)
        elif fact.status == DENIED and fact.name == "abnormal":
            yield replace(fact, name=NORMAL, status=AFFIRMED)
        elif not name.absent:
            yield fact

    def status(self, words: list[str], found: Found, cues: Sequence[tuple[Found, str, str]]) -> str:
        """Of a name, from the cues before and after it."""
        before = {s for c, s, side in cues if side != "after" and c.end <= found.start and reaches(c, side, found)}
        after = next((s for c, s, side in cues if side == "after" and c.start >= found.end), None)
        adjoining = next((s for c, s, side in cues if side == "after" and c.start == found.end), None)
        if ASIDE in before or adjoining == ASIDE or words[found.start - 1 : found.start] == ["otherwise"]:
            return ASIDE
        if DENIED in before:
            vague = words[found.start - 1] in self.words.degrees and found.start > 0
            return UNCERTAIN if vague else DENIED
        return UNCERTAIN if UNCERTAIN in before else after if after and after != ASIDE else AFFIRMED

    def cues(self, words: list[str]) -> list[tuple[Found, str, str]]:
        """Words of denial, doubt and the like, in order, with status and side; those of `void` have none."""
        found = self.scan(words, self.words.cues)
        return [(f, status, side) for f in found if isinstance(f.value, Mapping) for side, status in f.value.items()]

    def is_spared(self, words: list[str], place: Found) -> bool:
        """Whether a place is named as where something is not, or only as the landmark of another ("temporal to the
        fovea").
        """
        head = " ".join(w for w in words[max(0, place.start - 4) : place.start] if w not in ("the", "of"))
        landmark = re.search(r"(?:superior|inferior|temporal|nasal|above|below) to$", head) is not None
        return landmark or any(f" {head}".endswith(f" {phrase}") for phrase in self.words.spared)

    def belonging(
        self, words: list[str], names: Sequence[Found], marks: Sequence[Found], found: Found, last: bool = False
    ) -> list[object]:
        """The values of the marks (places, eyes) that belong to a name: one right before it; else those that follow it
        with a preposition, or follow the names that it is in a list with; else those that stand before.
        """

        behind: dict[int, list[Found]] = {}  # name -> marks that follow it
        ahead: list[Found] = []
        joined, placed = -1, False  # end of the mark before, and whether that one had a preposition
        for mark in marks:
            goes_on = 0 <= mark.start - joined <= 2 and words[mark.start - 1] in (COMMA, "and", "or")
            back = words[max(0, mark.start - 3) : mark.start]
            placed = placed if goes_on else any(w in self.words.within for w in back)
            joined = mark.end
            owner = max((n.start for n in names if n.end <= mark.start), default=None)
            if owner is not None and (placed or not any(n.start >= mark.end for n in names)):
                behind.setdefault(owner, []).append(mark)
            else:
                ahead.append(mark)
        owner = next((n.start for n in names if n.start >= found.start and n.start in behind), None)
        adjectives = [m for m in ahead if 0 <= found.start - m.end <= 1]
        if adjectives and not last:
            chosen = adjectives
        elif owner is not None:
            chosen = behind[owner]
        else:
            chosen = [m for m in ahead if m.end <= found.start]
        values = [m.value for m in chosen]
        return values[-1:] if last else values

    def count(self, words: list[str], found: Found) -> tuple[int, int | None] | None:
        """The number before a name ("3 small …") or right behind it ("… numbering 3")."""
        if words[found.end : found.end + 1] == ["numbering"]:
            return self.number(words, found.end + 1)
        for start in range(found.start - 1, max(-1, found.start - GAP - 1), -1):
            if words[start] in (COMMA, "and", "or", "numbering"):
                return None
            number = self.number(words, start)
            if number is not None:
                longer = self.number(words, start - 1) if start else None
                return longer if longer and words[start - 1] not in self.words.counts else number
        return None

    def number(self, words: list[str], start: int) -> tuple[int, int | None] | None:
        word = words[start] if start < len(words) else ""
        if match := COUNTED.fullmatch(word):
            return int(match[1]), None if match[3] else int(match[2])
        if word.isdigit():
            return int(word), int(word)
        for length in (3, 2, 1):
            if (counted := self.words.counts.get(" ".join(words[start : start + length]))) is not None:
                return counted
        return None

    def sides(self, words: list[str]) -> list[Found]:
        """Where words say which eye."""
        found = []
        for i, word in enumerate(words):
            behind = words[i + 1] if i + 1 < len(words) else ""
            if word in ("bilateral", "bilaterally") or (word in ("both", "either", "each") and behind == "eye"):
                found.append(Found(i, i + 1, "both"))
            elif word in ("left", "right") and behind in SIDED:
                found.append(Found(i, i + 1, word))
        return found

    @staticmethod
    def scan(words: Sequence[str], table: Mapping[str, T]) -> list[Found]:
        """Phrases of the table in order, the longest first."""
        found, i = [], 0
        while i < len(words):
            for length in range(min(LONGEST, len(words) - i), 0, -1):
                value = table.get(" ".join(words[i : i + length]), table)
                if value is not table:
                    found.append(Found(i, i + length, value))
                    i += length
                    break
            else:
                i += 1
        return found


def denied_by(grade: Grade) -> list[str]:
    """What the lowest value of a scale denies: "DR: R0" names retinopathy and says that there is none."""
    of = [scales()[grade.scale]] if grade.scale else [s for s in scales().values() if grade.value == "0"]
    names = [s.values[written(grade.value)] for s in of if written(grade.value) in s.values]
    return [denies for name in names if (denies := entries()[name].denies)]


def reaches(cue: Found, side: str, found: Found) -> bool:
    return side == "before" or found.start - cue.end < NEAR
