"""The language model's own chat template: how a conversation with a photograph becomes its text."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mdf.errors import UserError

if TYPE_CHECKING:
    from mdf.dialogue import Turn

DATE = "26 Jul 2024"  # Llama 3's own default; its templates write today's where they can, and no run could be repeated


def render(turns: list["Turn"], tokenizer: Any, *, generate: bool = False, image_token: str = "") -> str:
    """The conversation in the language model's own chat template.

    A turn that begins with `image_token` goes to a template that writes this token itself as what such templates know
    as an image. Raises UserError where there is no template.
    """
    messages: list[dict[str, Any]] = [{"role": t.role, "content": t.content} for t in turns]
    for message in messages:
        if image_token and message["content"].startswith(image_token) and writes_images(tokenizer, image_token):
            words = message["content"].removeprefix(image_token)
            message["content"] = [{"type": "image"}, {"type": "text", "text": words}]
    if not tokenizer.chat_template:
        raise UserError(
            "the language model's tokenizer has no chat template; take an instruction-tuned model (Instruct)"
        )
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate, date_string=DATE)


def control_tokens(tokenizer: Any) -> list[str]:
    """The tokens that structure a conversation, which no text may hold."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def writes_images(tokenizer: Any, image_token: str) -> bool:
    """Whether the chat template itself puts the image token where a message holds an image, as Llama 3.2 Vision's."""
    return image_token in str(tokenizer.chat_template)


def with_photograph(turns: list["Turn"], tokenizer: Any, image_token: str, image_tokens: int) -> list["Turn"]:
    """The conversation with the placeholder at the head of the first user turn.

    A template that writes images itself may allow no system prompt beside one (Llama 3.2 Vision's): then the system
    prompt opens the user's turn, a blank line before the question.
    """
    from jinja2 import TemplateError

    first = next(i for i, t in enumerate(turns) if t.role == "user")
    own = bool(image_tokens) and writes_images(tokenizer, image_token)
    placeholder = image_token * image_tokens + ("\n" if image_tokens and not own else "")
    shown = [replace(t, content=placeholder + t.content) if i == first else t for i, t in enumerate(turns)]
    if own and first:
        try:
            render(shown[: first + 1], tokenizer, image_token=image_token)
        except TemplateError:
            words = "\n\n".join(t.content for t in turns[: first + 1])
            shown = [replace(turns[first], content=placeholder + words), *turns[first + 1 :]]
    return shown
