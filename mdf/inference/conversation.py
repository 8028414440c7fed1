"""A conversation about one photograph: what was asked, what was answered and what speaks for it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer

from mdf.dialogue import Turn
from mdf.errors import UserError
from mdf.evaluation.operating_point import OperatingPoint
from mdf.inference.predictor import Photograph, Predictor
from mdf.inference.questions import Asked, Reading, cannot_be_told, read, recognise
from mdf.inference.report import Origin
from mdf.processor import MDFProcessor
from mdf.vocabulary import squash

LIMIT = 160  # tokens of an answer
SHORTEST = 16  # tokens that a question must at least leave for its answer


@dataclass(frozen=True)
class Sampling:
    """How words are chosen. At temperature 0 always the likeliest; above it `seed` decides, with the number of tries.

    `window` is the number of tokens that the model gets to see at most, its answer among them; 0: all that it can.
    """

    temperature: float = 0.0
    seed: int = 0
    limit: int = LIMIT
    window: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise UserError(f"the temperature must be from 0 (always the likeliest word) to 2, not {self.temperature}")
        if self.limit < 1:
            raise UserError(f"an answer needs at least one token, not {self.limit}")
        if self.window < 0 or self.seed < 0:
            raise UserError("neither the seed nor the window can be negative")


@dataclass(frozen=True)
class Answer:
    """One answer, and what a reader has to know beside it."""

    question: str
    text: str
    origin: Origin  # MODEL_TEXT, or RULE where no photograph could tell
    asked: Asked | None = None  # None: no question of the prompts
    reading: Reading | None = None  # None: the question has no closed list of answers
    history: tuple[Turn, ...] = ()  # what the model saw before the question
    dropped: tuple[str, ...] = ()  # earlier questions that it did not see any more
    stopped: bool = False  # by the reader
    cut: bool = False  # by the limit
    flags: tuple[str, ...] = ()  # what a reader must not miss
    tries: int = 1

    @property
    def notes(self) -> list[str]:
        """In sentences: why there is no more to it than the words, and what was left out."""
        told = []
        if self.origin == Origin.RULE:
            told.append("By rule, from prompts/questions.yaml: the model was not asked.")
        elif self.reading is None:
            told.append("The model's own words; no list of possible answers, so no probabilities.")
        if self.dropped:
            first, *more = self.dropped
            until = f" to “{more[-1]}” ({len(self.dropped)} questions)" if more else ""
            told.append(f"Beyond the model's window, so not seen for this answer: “{first}”{until}.")
        if not self.text and not self.stopped:
            told.append("The model found no words.")
        if self.stopped:
            told.append("Stopped before its end.")
        if self.cut:
            told.append("Cut at the greatest length of an answer.")
        return [*told, *self.flags]


class Stopped(StoppingCriteria):
    """Ends an answer after the next token once `asked` says so."""

    def __init__(self, asked: Callable[[], bool]):
        self.asked = asked

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        return torch.full((len(input_ids),), self.asked(), device=input_ids.device, dtype=torch.bool)


class Stream(TextStreamer):
    """Hands words on as they come, and counts the tokens."""

    def __init__(self, processor: MDFProcessor, say: Callable[[str], None]):
        super().__init__(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.ends = processor.end_ids
        self.say, self.count, self.last = say, -1, -1  # the prompt is put first

    def put(self, value: torch.Tensor) -> None:
        self.count, self.last = self.count + 1, int(value.flatten()[-1])
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.say(text)

    def ended(self) -> bool:
        """Whether the last token was the model's own end."""
        return self.last in self.ends


class Conversation:
    """`ask` and `again` about one photograph; `answers` is all that was said, in order."""

    def __init__(self, predictor: Predictor, photograph: Photograph, point: OperatingPoint | None = None):
        self.predictor, self.photograph, self.point = predictor, photograph, point
        self.answers: list[Answer] = []

    @property
    def window(self) -> int:
        """Tokens that the language model can see at once."""
        return int(self.predictor.model.language.config.get_text_config().max_position_embeddings)

    def reset(self) -> None:
        """Forget everything said, keep the photograph."""
        self.answers = []

    def ask(
        self,
        question: str,
        sampling: Sampling = Sampling(),  # frozen
        *,
        say: Callable[[str], None] = lambda text: None,
        stop: threading.Event | None = None,
        tries: int = 1,
    ) -> Answer:
        """Ask with all that was said before, as far as it fits, and remember both sides.

        `say` gets the words as they come; `stop`, once set, ends the answer, and what there is of it is kept. Raises
        UserError, and remembers nothing, for a question that is empty, too long or would end its turn.
        """
        question = question.strip()
        if not question:
            raise UserError("the question is empty")
        asked = recognise(question, self.predictor.prompts)
        if asked is not None and asked.kind == "unknown":
            answer = Answer(question, cannot_be_told(asked, self.predictor.prompts), Origin.RULE, asked, tries=tries)
            say(answer.text)
        else:
            answer = self.generate(question, asked, sampling, say, stop or threading.Event(), tries)
        self.answers.append(answer)
        return answer

    def again(self, sampling: Sampling = Sampling(), **how: Any) -> Answer:
        """The last question once more, its answer replaced: the same at temperature 0, else another draw."""
        if not self.answers:
            raise UserError("nothing was asked yet, so that there is nothing to answer again")
        last = self.answers.pop()
        kept = list(self.answers)
        try:
            return self.ask(last.question, sampling, tries=last.tries + 1, **how)
        except BaseException:
            self.answers = [*kept, last]
            raise

    def generate(
        self,
        question: str,
        asked: Asked | None,
        sampling: Sampling,
        say: Callable[[str], None],
        stop: threading.Event,
        tries: int,
    ) -> Answer:
        """The model's own words, then the probabilities of the question's answers."""
        history, dropped, limit = self.fit(question, sampling)
        model, inputs = self.predictor.model, self.photograph.inputs
        stream = Stream(self.predictor.processor, say)
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(sampling.seed + tries - 1)
            text = model.generate_answers(
                inputs,
                [[*history, Turn("user", question)]],
                max_new_tokens=limit,
                temperature=sampling.temperature,
                streamer=stream,
                stopping_criteria=StoppingCriteriaList([Stopped(stop.is_set)]),
            )[0]
        stopped = stop.is_set() and not stream.ended()
        cut = not stopped and not stream.ended() and stream.count >= limit
        reading = None if stopped or asked is None else read(model, inputs, asked, self.point)
        answer = Answer(
            question, text, Origin.MODEL_TEXT, asked, reading, tuple(history), dropped, stopped, cut, tries=tries
        )
        return replace(answer, flags=self.doubts(answer))

    def fit(self, question: str, sampling: Sampling) -> tuple[list[Turn], tuple[str, ...], int]:
        """The turns before a question that leave room for it and an answer, the oldest left out; the questions left
        out; and how many tokens the answer may have.
        """
        window = min(sampling.window or self.window, self.window)
        system, said = self.predictor.model.system_turn(), [a for a in self.answers if a.text]
        for dropped in range(len(said) + 1):
            turns = [system]
            for answer in said[dropped:]:
                turns += [Turn("user", answer.question), Turn("assistant", answer.text)]
            encoded = self.predictor.processor.encode([*turns, Turn("user", question)], generate=True)
            room = window - len(encoded.input_ids)
            if room >= min(sampling.limit, max(SHORTEST, window // 4)):
                return turns, tuple(a.question for a in said[:dropped]), min(sampling.limit, room)
        raise UserError(
            f"the question takes {len(encoded.input_ids)} tokens with the photograph, of {window} that the model sees "
            "at once; shorten it"
        )

    def doubts(self, answer: Answer) -> tuple[str, ...]:
        """What speaks against an answer."""
        found = []
        if self.photograph.warning:
            found.append(self.photograph.warning)
        trained = self.predictor.processor.questions
        if answer.asked is not None and trained and answer.asked.kind not in trained:
            found.append(f"The model was not trained on questions of the kind “{answer.asked.kind}”: expect nothing.")
        reading = answer.reading
        if reading is None:
            return tuple(found)
        named = next((a for a in reading.probabilities if squash(a) == squash(answer.text)), None)
        if named is not None and named != reading.first:
            found.append(
                f"The words and the probabilities (of the question asked alone) differ: likeliest is “{reading.first}”"
            )
        if reading.abstains:
            found.append("Not sure enough: below the confidence at which the operating point lets the model answer.")
        if not reading.likely:
            found.append(f"Probably there are none (probability of any: {reading.present:.2f}).")
        return tuple(found)
