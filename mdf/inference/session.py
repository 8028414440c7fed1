"""Several photographs in one session: each has its place and its own conversation, the model sees one at a time."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import numpy as np

from mdf.errors import UserError
from mdf.evaluation.operating_point import OperatingPoint
from mdf.imaging.eye_side import eye_side
from mdf.inference.conversation import Answer, Conversation, Sampling
from mdf.inference.gate import BANNER
from mdf.inference.predictor import Photograph, Predictor
from mdf.vocabulary import display

PLACES = ("photograph", "right", "left", "earlier")
TITLES = {
    "photograph": "Photograph",
    "right": "Right eye",
    "left": "Left eye",
    "earlier": "Earlier visit",
}
ALONE = "Each photograph was looked at alone: the model sees one at a time and compared nothing."


class Session:
    """The photographs of one person, by place, and which of them is talked about."""

    def __init__(self, predictor: Predictor, sampling: Sampling | None = None):
        self.predictor, self.sampling = predictor, sampling or Sampling()
        self.point = predictor.operating_point
        self.places: dict[str, Conversation] = {}
        self.current: str | None = None

    @property
    def conversation(self) -> Conversation:
        """The one that is talked about. Raises UserError where there is no photograph yet."""
        if self.current is None:
            raise UserError("there is no photograph yet")
        return self.places[self.current]

    def put(self, place: str, photograph: Photograph) -> list[str]:
        """A photograph into a place, to be talked about next; what was said about another one there is forgotten.

        Returns what a reader should know of it.
        """
        if place not in PLACES:
            raise UserError(f"{place!r} is no place for a photograph: {', '.join(PLACES)}")
        found = [photograph.warning] if photograph.warning else []
        if place in ("right", "left") and photograph.quality.is_retina:
            side = eye_side(photograph.image).side
            if side not in (None, place):
                found.append(f"Called {place} eye, but the photograph looks like a {side} one: check which eye it is.")
        for other, conversation in self.places.items():
            if other != place and np.array_equal(conversation.photograph.image, photograph.image):
                found.append(f"This is the same picture as that called “{TITLES[other]}”.")
        self.places[place] = Conversation(self.predictor, photograph, self.point)
        self.current = place
        return found

    def turn_to(self, place: str) -> None:
        """Talk about the photograph in `place`. Raises UserError where there is none."""
        if place not in self.places:
            raise UserError(f"there is no photograph for “{TITLES.get(place, place)}” yet")
        self.current = place

    def ask(
        self, question: str, *, say: Callable[[str], None] = lambda text: None, stop: threading.Event | None = None
    ) -> Answer:
        """About the photograph that is talked about."""
        return self.conversation.ask(question, self.sampling, say=say, stop=stop)

    def again(self, *, say: Callable[[str], None] = lambda text: None, stop: threading.Event | None = None) -> Answer:
        """The last question about it once more."""
        return self.conversation.again(self.sampling, say=say, stop=stop)

    def ask_each(
        self,
        question: str,
        *,
        say: Callable[[str], None] = lambda text: None,
        stop: threading.Event | None = None,
    ) -> Iterator[tuple[str, Answer]]:
        """The same question about every photograph in turn, each by itself; ends early once `stop` is set."""
        if not self.places:
            raise UserError("there is no photograph yet")
        for place in [p for p in PLACES if p in self.places]:
            if stop is not None and stop.is_set():
                return
            yield place, self.places[place].ask(question, self.sampling, say=say, stop=stop)

    def transcript(self, now: datetime | None = None) -> str:
        """Markdown of all that was said, marked as a draft."""
        now = now or datetime.now(UTC)
        lines = [f"> **{BANNER}**", "", "# Transcript of a conversation with a model", ""]
        lines += [f"{now:%Y-%m-%d %H:%M} UTC, checkpoint {self.predictor.name}. Not signed by anybody.", ""]
        lines += [*describe_point(self.point), describe_sampling(self.sampling)]
        for place, conversation in self.places.items():
            lines += ["", f"## {TITLES[place]}: {conversation.photograph.path.name}"]
            for answer in conversation.answers:
                lines += ["", f"**Question:** {answer.question}", "", f"**Answer (draft):** {answer.text}", ""]
                lines += [f"- {line}" for line in describe(answer)]
        return "\n".join(lines) + "\n"


def describe(answer: Answer) -> list[str]:
    """What stands beside an answer: the probabilities of its question's answers, then the notes."""
    lines = []
    if answer.reading is not None:
        shown = [f"{name.rstrip('.')} {p:.2f}{mark(answer, name)}" for name, p in answer.reading.probabilities.items()]
        which = "calibrated probabilities" if answer.reading.calibrated else "probabilities, not calibrated"
        lines.append(f"{which}: {', '.join(shown)}")
    return [*lines, *answer.notes]


def mark(answer: Answer, name: str) -> str:
    """Whether an answer reaches its threshold, in brackets."""
    assert answer.reading is not None
    above = answer.reading.above(name)
    return "" if above is None else f" (threshold {answer.reading.thresholds[name]:.2f}: {'yes' if above else 'no'})"


def difference(answers: dict[str, Answer]) -> list[str]:
    """How the answers about several photographs differ, and that nothing was compared."""
    if len(answers) < 2:
        return [ALONE]
    lines = []
    readings = {place: a.reading for place, a in answers.items() if a.reading is not None}
    if len(readings) == len(answers):
        same = len({r.first for r in readings.values()}) == 1
        likeliest = [f"{TITLES[p]}: {r.first.rstrip('.')} {r.probabilities[r.first]:.2f}" for p, r in readings.items()]
        lines.append(f"{'The same' if same else 'Different'} likeliest answer. {'; '.join(likeliest)}.")
    elif len({a.text for a in answers.values()}) == 1:
        lines.append("The same words for each.")
    else:
        for place, answer in answers.items():
            others = {s for p, a in answers.items() if p != place for s in sentences(a.text)}
            if only := [s for s in sentences(answer.text) if s not in others]:
                lines.append(f"Said of {TITLES[place].lower()} alone: {' '.join(only)}")
    return [*lines, ALONE]


def sentences(text: str) -> list[str]:
    """Split behind full stops that a blank follows."""
    return [part if part.endswith((".", "!", "?")) else part + "." for part in text.split(". ") if part.strip()]


def describe_point(point: OperatingPoint | None) -> list[str]:
    """The operating point in lines."""
    if point is None:
        return ["No operating point is stored in this checkpoint: probabilities are as the model gives them."]
    thresholds = ", ".join(f"{display(name)} {point.thresholds[name]:.2f}" for name in point.decided)
    lines = [
        f"Operating point, fitted on {point.n} validation photographs: temperature {point.temperature:.2f}.",
        f"Thresholds: {thresholds or 'none'}.",
    ]
    if point.abstain_below:
        lines.append(f"Not sure enough to answer below a confidence of {point.abstain_below:.2f}.")
    return lines


def describe_sampling(sampling: Sampling) -> str:
    """How words are chosen, in a line."""
    if not sampling.temperature:
        return "Temperature 0: the same question gets the same answer."
    return f"Temperature {sampling.temperature:g}, seed {sampling.seed}: answers are drawn by chance."
