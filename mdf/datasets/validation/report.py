"""What validate can find, by name, and what it found."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING

from mdf.errors import UserError

if TYPE_CHECKING:
    from mdf.datasets.validation.shortcuts import Shortcut

SPLIT_ANEW = "prepare.py split M.jsonl --out NEW.jsonl (with --redraw where the release has a split of its own)"
SHOWN = 10  # cases of a finding that are printed; the page shows more


@dataclass(frozen=True)
class Check:
    """A kind of finding. A problem is mended, or accepted by name, before training; a note is to be known."""

    problem: bool
    means: str
    mend: str


CHECKS = {
    "unreadable-file": Check(
        True, "a photograph or mask is missing, empty, cut short or no image", "copy the file again or take it out"
    ),
    "mask-size": Check(
        True, "a mask is not as large as its photograph", "use the mask and the photograph of the same release"
    ),
    "patient-across-splits": Check(
        True,
        "photographs of one patient are in several splits, so a test knows its patients from training",
        f"draw the split anew: {SPLIT_ANEW}",
    ),
    "duplicate-across-splits": Check(
        True,
        "the same photograph, or the same eye in the same framing, is in several splits",
        f"draw the split anew, it keeps them together: {SPLIT_ANEW}",
    ),
    "duplicate-labels": Check(
        True,
        "the same photograph, or the same eye in the same framing, has labels that exclude one another",
        "ask the source which label holds, or take both out",
    ),
    "contradictory-label": Check(
        True, "one photograph is normal and diseased, or has a disease and its absence", "correct the label"
    ),
    "source-tells-label": Check(
        True,
        "where a photograph comes from tells most of its label, so a model may learn that instead of the eye",
        "take other sources with the same labels, test on a held-out source (prepare.py split --hold-out), or say so",
    ),
    "source-hints-label": Check(
        False,
        "where a photograph comes from tells some of its label",
        "compare with these accuracies, and test on a held-out source",
    ),
    "no-patient": Check(False, "no patient is known, so a split cannot keep patients together", "name them if you can"),
    "duplicate": Check(
        False, "the same photograph, or the same eye in the same framing, stands there more than once", "keep one"
    ),
    "duplicate-patients": Check(
        False,
        "the same photograph, or the same eye in the same framing, has several patients or both eyes",
        "the names of patients or eyes cannot all be right; splits of prepare.py split keep these together",
    ),
    "too-plain": Check(
        False,
        "a photograph shows too little to be told from others, so copies of it are not found",
        "look at it: it may be black, white or out of focus",
    ),
    "eye-labels": Check(
        False,
        "photographs of one eye have labels that exclude one another (visits are told apart where they are named)",
        "each photograph may show something else; the patient's diagnosis is then the union",
    ),
    "patient-flags": Check(
        False,
        "the labels of a patient's photographs are not those of the patient",
        "know which of them is the target: the label of the photograph is, in mdf",
    ),
    "grade-against-label": Check(False, "the grade says something else than the label", "correct one of them"),
    "normal-with-finding": Check(False, "a lesion is listed in a normal eye", "correct one of them, or leave it"),
    "text-names-label": Check(
        False,
        "the text names the diagnosis that is to be told",
        "right as the target of a report or caption; as an input it would give the answer away",
    ),
    "text-against-label": Check(
        False,
        "the text names other diagnoses than the label",
        "the label may hold one of several diagnoses only; a report learnt from the text will say more than the label",
    ),
    "implausible-value": Check(False, "a value is hard to believe", "look it up; take it out where it is wrong"),
    "outside-picture": Check(
        False, "a box or point lies outside the photograph", "coordinates must be in pixels of the file"
    ),
    "split-changed": Check(
        False, "the split is not the one that M.meta.json describes", "draw it anew, or remove `split` from the file"
    ),
}


@dataclass(frozen=True)
class Case:
    """One line of a finding and the photographs that it is about, by id."""

    text: str
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Issue:
    """Everything that was found under one name."""

    name: str
    cases: tuple[Case, ...]

    @property
    def check(self) -> Check:
        return CHECKS[self.name]

    def lines(self) -> list[str]:
        more = len(self.cases) - SHOWN
        shown = [f"    {case.text}" for case in self.cases[:SHOWN]]
        return [
            f"  {self.name} ({len(self.cases)}): {self.check.means}",
            *shown,
            *([f"    … and {more} more, see the page"] if more > 0 else []),
            f"    -> {self.check.mend}",
        ]


@dataclass(frozen=True)
class Report:
    """Counts as text, shortcuts, findings: `problems` are to be mended, `accepted` ones not, `notes` to be known."""

    counts: str
    issues: tuple[Issue, ...] = ()
    shortcuts: "tuple[Shortcut, ...]" = ()
    accept: frozenset[str] = field(default_factory=frozenset)

    @property
    def problems(self) -> list[Issue]:
        return [i for i in self.issues if i.check.problem and i.name not in self.accept]

    @property
    def accepted(self) -> list[Issue]:
        return [i for i in self.issues if i.name in self.accept]

    @property
    def notes(self) -> list[Issue]:
        return [i for i in self.issues if not i.check.problem and i.name not in self.accept]

    def text(self) -> str:
        """Counts and notes; accepted findings in a line each."""
        lines = [self.counts]
        if self.shortcuts:
            lines += ["the label guessed without the eye:", *(f"  {s.text()}" for s in self.shortcuts)]
        if self.notes:
            lines += ["to be known:", *(line for i in self.notes for line in i.lines())]
        lines += [f"accepted: {i.name} ({len(i.cases)}): {i.check.means}" for i in self.accepted]
        return "\n".join(lines)

    def refuse(self) -> None:
        """Raises UserError with every problem that was not accepted."""
        if self.problems:
            count = sum(len(i.cases) for i in self.problems)
            names = " ".join(i.name for i in self.problems)
            raise UserError(
                f"{count} problems; mend them, or accept what you know of by its name (--accept {names}):\n"
                + "\n".join(line for i in self.problems for line in i.lines())
            )


def check_names(accept: Sequence[str]) -> frozenset[str]:
    """The names as a set. Raises UserError for names of no finding."""
    wrong = [name for name in accept if name not in CHECKS]
    if wrong:
        close = get_close_matches(wrong[0], CHECKS, n=1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"--accept: {', '.join(wrong)} is no finding of validate; {meant}known: {', '.join(CHECKS)}")
    return frozenset(accept)
