"""Conversations with a given answer each as one batch, and which positions the answers and questions are read at.

Shapes: R rows, T tokens, N answer tokens of all rows together, K tiles at most a photograph.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mdf.batches import pad
from mdf.dialogue import IGNORED, Turn
from mdf.losses.text import shift
from mdf.processor import Inputs
from mdf.tiles import cross_attention_mask

if TYPE_CHECKING:
    from mdf.models.fusion import MDFModel


@dataclass(frozen=True)
class AnswerRows:
    """What `MDFModel.forward` is given of the words, right padded, and what to look at in them."""

    words: dict[str, Tensor]  # input_ids, attention_mask int64 [R,T], prompt_mask bool [R,T]
    reads: Tensor  # bool [R,T]: the next token is one of the answer, its end token included
    targets: Tensor  # int64 [N], those tokens, row by row
    question: Tensor  # bool [R,T]: the words of the last question
    answers: list[list[int]]  # the answers' tokens with their end token

    def of_photographs(self, model: "MDFModel", seen: Inputs) -> dict[str, Any]:
        """Arguments of `MDFModel.forward` for these rows about photographs [R,…], one a row."""
        given = {k: v for k, v in seen.items() if k != "field"}
        if "aspect_ratio_mask" in given:  # of a language model with a vision tower of its own
            image, tiles = model.processor.image_token_id, given["aspect_ratio_mask"]
            given["cross_attention_mask"] = cross_attention_mask(self.words["input_ids"], image, tiles)
        return {**self.words, **given}


def answer_rows(model: "MDFModel", conversations: Sequence[list[Turn]], answers: Sequence[str]) -> AnswerRows:
    """One row for each conversation, which ends with a user turn, and its answer. An answer that was generated is
    tokenised anew, as it would be in training.
    """
    ids, masks, labels, asked, tokens = [], [], [], [], []
    for turns, answer in zip(conversations, answers, strict=True):
        prompt = model.processor.encode(turns, generate=True).input_ids
        whole = model.processor.encode([*turns, Turn("assistant", answer)])
        if whole.input_ids[: len(prompt)] != prompt:
            raise ValueError("the answer changes the tokens of the prompt")
        own = [IGNORED] * len(prompt) + whole.labels[len(prompt) :]
        ids.append(whole.input_ids)
        masks.append([int(m) for m in whole.prompt_mask])
        labels.append(own)
        asked.append(question_words(model, turns, prompt))
        tokens.append([label for label in own if label != IGNORED])
    device = model.device
    words = {
        "input_ids": pad(ids, model.processor.pad_id).to(device),
        "attention_mask": pad([[1] * len(i) for i in ids], 0).to(device),
        "prompt_mask": pad(masks, 0).bool().to(device),
    }
    reads, targets = shift(pad(labels, IGNORED).to(device))
    question = torch.zeros_like(reads)
    for row, (start, stop) in enumerate(asked):
        question[row, start:stop] = True
    return AnswerRows(words, reads, targets, question, tokens)


def question_words(model: "MDFModel", turns: list[Turn], prompt: list[int]) -> tuple[int, int]:
    """Start and stop of the last question in the prompt's tokens: what another question would change."""
    other = model.processor.encode([*turns[:-1], Turn("user", "\u00a7")], generate=True).input_ids
    start = same(prompt, other)
    return start, len(prompt) - same(prompt[start:][::-1], other[start:][::-1])


def same(a: list[int], b: list[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def spell(model: "MDFModel", tokens: list[int]) -> list[tuple[str, range]]:
    """The words of an answer, punctuation with the word before it, and the places of their tokens.

    The end token belongs to none.
    """
    words: list[tuple[str, int, int]] = []
    text = ""
    for place in range(len(tokens)):
        longer = model.processor.tokenizer.decode(tokens[: place + 1], skip_special_tokens=True)
        piece, text = longer[len(text) :], longer
        if not piece:
            continue
        if not words or piece[:1].isspace():
            words.append((piece, place, place + 1))
        else:
            word, start, _ = words[-1]
            words[-1] = (word + piece, start, place + 1)
    return [(word.strip(), range(start, stop)) for word, start, stop in words if word.strip()]
