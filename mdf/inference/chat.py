"""A conversation in the terminal, about one photograph or several in turn."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mdf.errors import UserError
from mdf.files import numbered, write_text
from mdf.inference.conversation import Answer
from mdf.inference.gate import BANNER
from mdf.inference.session import (
    PLACES,
    TITLES,
    Session,
    describe,
    describe_point,
    describe_sampling,
    difference,
)

HELP = """\
  a question                        about the photograph that is talked about; Ctrl-C stops the answer
  /both QUESTION                    every photograph in turn, each by itself, and how the answers differ
  /image FILE                       another photograph
  /right /left /earlier [FILE]      a photograph into that place; without FILE, talk about the one there
  /again                            the last answer once more
  /maps DIR                         pictures of what the last answer was read from
  /point                            the operating point stored in the checkpoint
  /save FILE                        a transcript, marked as a draft; nothing is kept otherwise
  /reset                            forget what was said about this photograph
  /quit"""

STALE = "The masks are left out: they are stale, the encoder trained on after their decoder."


def refuse_file(path: str | Path) -> Path:
    """Raises UserError for a transcript that would replace something or has no folder that it can be written into."""
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} is there already; name a file that is not")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is no folder; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"{path.parent} may not be written into; name a file elsewhere")
    return path


def free_file(path: Path) -> Path:
    """The file for a transcript at the end, with a number where one of its name came to be meanwhile."""
    names = (path.with_name(f"{name}{path.suffix}") for name in numbered(path.stem))
    return next(one for one in names if not one.exists())


def save(session: Session, path: str | Path) -> Path:
    """The transcript, into a file that was not there."""
    path = refuse_file(path)
    write_text(path, session.transcript())
    return path


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets; the second Ctrl-C interrupts as ever. Only the main thread hears it."""
    stop = threading.Event()

    def heard(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, heard)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def converse(
    session: Session, *, force: bool = False, read_line: Callable[[str], str] = input, save_to: Path | None = None
) -> None:
    """Questions from the keyboard, answers word by word, until /quit or the end of input. Wrong input is said, not
    fatal.
    """
    print(f"{BANNER}\n\n{HELP}\n")
    tell_point(session)
    try:
        while True:
            where = TITLES[session.current].lower() if len(session.places) > 1 and session.current else ""
            try:
                line = read_line(f"\n{where}> ").strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                print("\n/quit or Ctrl-D ends the conversation")
                continue
            if line in ("/quit", "/exit"):
                return
            try:
                if line.startswith("/"):
                    command(session, line, force=force)
                elif line:
                    with interruptible() as stop:
                        tell(session.ask(line, say=speak, stop=stop))
            except (UserError, OSError) as error:  # a file that cannot be written, say: the conversation is not lost
                print(f"error: {error}")
    finally:
        if save_to is not None:
            print(f"transcript: {save(session, free_file(save_to))}")


def command(session: Session, line: str, *, force: bool = False) -> None:
    """One line that begins with a slash."""
    word, _, rest = line[1:].partition(" ")
    rest = rest.strip()
    needs = {"image": "FILE", "both": "QUESTION", "maps": "DIR", "save": "FILE"}
    if word in needs and not rest:
        raise UserError(f"/{word} needs a word more: /{word} {needs[word]}")
    if word == "image":
        look_at(session, session.current or "photograph", rest, force=force)
    elif word in PLACES and rest:
        look_at(session, word, rest, force=force)
    elif word in PLACES:
        session.turn_to(word)
    elif word == "both":
        answers = {}
        with interruptible() as stop:
            for place, answer in session.ask_each(rest, say=speak, stop=stop):
                answers[place] = answer
                tell(answer, TITLES[place])
        print("\n".join(difference(answers)))
    elif word == "again":
        with interruptible() as stop:
            tell(session.again(say=speak, stop=stop))
    elif word == "maps":
        print("\n".join(map(str, maps(session, rest))))
        if session.predictor.model.config.stale_masks:
            print(STALE)
    elif word == "point":
        tell_point(session)
    elif word == "save":
        print(f"transcript: {save(session, rest)}")
    elif word == "reset":
        session.conversation.reset()
        print("forgotten; the photograph stays")
    else:
        print(HELP)


def look_at(session: Session, place: str, file: str, *, force: bool = False) -> None:
    """A photograph into a place, with what has to be said about it."""
    warnings = session.put(place, session.predictor.read(file, force=force))
    print(f"{TITLES[place]}: {file}")
    for warning in warnings:
        print(f"WARNING: {warning}")


def maps(session: Session, out: str | Path) -> list[Path]:
    """Pictures of what the last answer was read from, in the folder `out`."""
    from mdf.inference.explain import explain

    conversation = session.conversation
    if not conversation.answers:
        raise UserError("nothing was asked yet, so that there is nothing to show")
    answer = conversation.answers[-1]
    if not answer.history:
        raise UserError("that answer follows from a rule and was not read from the photograph: there is no map of it")
    return explain(
        session.predictor, conversation.photograph, answer.question, answer.text, out, history=list(answer.history)
    )


def speak(text: str) -> None:
    print(text, end="", flush=True)


def tell(answer: Answer, title: str = "") -> None:
    """What stands below an answer whose words are on the screen."""
    print(f"   [{title}]" if title else "")
    for line in describe(answer):
        print(f"  {line}")


def tell_point(session: Session) -> None:
    print("\n".join([*describe_point(session.point), describe_sampling(session.sampling)]))


def answer_once(session: Session, question: str) -> Answer:
    """One question: the answer alone on standard output, what stands beside it on the other."""
    with interruptible() as stop:
        answer = session.ask(question, stop=stop)
    print(answer.text)
    for line in describe(answer):
        print(line, file=sys.stderr)
    return answer
