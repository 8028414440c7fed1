"""A conversation about one photograph at a time, in the terminal."""

from collections.abc import Callable
from typing import Any

from mdf.dialogue import Turn
from mdf.errors import UserError
from mdf.inference.gate import BANNER
from mdf.inference.predictor import Photograph, Predictor

HELP = "/image FILE another photograph   /reset forget the conversation   /quit"


class Conversation:
    """The photograph and what was said about it so far."""

    def __init__(self, predictor: Predictor, photograph: Photograph):
        self.predictor = predictor
        self.look_at(photograph)

    def look_at(self, photograph: Photograph) -> None:
        """Another photograph; what was said about the last one is forgotten."""
        self.photograph = photograph
        self.reset()

    def reset(self) -> None:
        """Forget everything said, keep the photograph."""
        self.history: list[Turn] = [self.predictor.model.system_turn()]

    def say(self, question: str, *, streamer: Any = None, limit: int = 160) -> str:
        """Ask with all that was said before and remember both sides. A refused question (UserError) is not
        remembered.
        """
        answer = self.predictor.ask(self.photograph, question, self.history, streamer=streamer, limit=limit)
        self.history += [Turn("user", question), Turn("assistant", answer)]
        return answer


def converse(
    predictor: Predictor,
    photograph: Photograph,
    *,
    force: bool = False,
    read_line: Callable[[str], str] = input,
    limit: int = 160,
) -> None:
    """Questions from the keyboard, answers word by word, until /quit or the end of input. Wrong input is said, not
    fatal.
    """
    from transformers import TextStreamer

    conversation = Conversation(predictor, photograph)
    print(f"{BANNER}\n{HELP}")
    if photograph.warning:
        print(f"WARNING: {photograph.warning}")
    while True:
        try:
            line = read_line("\n> ").strip()
        except EOFError:
            return
        command, _, rest = line.partition(" ")
        try:
            if not line:
                continue
            if command in ("/quit", "/exit"):
                return
            if command == "/reset":
                conversation.reset()
                print("forgotten; the photograph stays")
            elif command == "/image":
                if not rest.strip():
                    raise UserError("/image needs a file: /image FILE")
                conversation.look_at(predictor.read(rest.strip(), force=force))
                print(f"now looking at {conversation.photograph.path}")
                if conversation.photograph.warning:
                    print(f"WARNING: {conversation.photograph.warning}")
            elif command.startswith("/"):
                print(HELP)
            else:
                streamer = TextStreamer(predictor.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
                conversation.say(line, streamer=streamer, limit=limit)
        except UserError as error:
            print(f"error: {error}")
