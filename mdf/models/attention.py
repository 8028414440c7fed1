"""Where the adapters look in the photograph while an answer is read off it, word by word and depth by depth.

The conversation with its answer runs once more through the one forward: these are the weights that the adapters read
with, not an estimate of them.

Shapes: B conversations, W words of an answer, A adapters asked for, G patches a side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mdf.dialogue import Turn
from mdf.models.answer_rows import answer_rows, spell
from mdf.models.answers import look
from mdf.processor import Inputs

if TYPE_CHECKING:
    from mdf.models.fusion import MDFModel

SENTENCE_END = (".", "!", "?")


@dataclass(frozen=True)
class AttentionMaps:
    """Attention of each adapter, the mean over its heads, at the moment in which each word was chosen.

    Over the patches and nothing the attention of a word sums to 1: `maps.sum((2, 3)) + nothing == 1`.
    """

    words: tuple[str, ...]
    tokens: tuple[int, ...]  # of each word
    maps: Tensor  # float32 [W,A,G,G], of a word the mean over its tokens; row 0 is the upper edge
    nothing: Tensor  # float32 [W,A], what went to the null key
    question: Tensor  # float32 [A,G,G], the mean over the tokens of the question
    layers: tuple[int, ...]  # of the language model, in front of which each adapter stands
    depths: tuple[int, ...]  # of the U-Net, that each adapter reads

    def of(self, words: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Map [A,G,G] and share of nothing [A] of several words, the mean over their tokens."""
        weight = torch.tensor([float(self.tokens[w]) for w in words])
        weight = weight / weight.sum()
        at = list(words)
        return torch.einsum("w,wagh->agh", weight, self.maps[at]), weight @ self.nothing[at]

    @property
    def answer(self) -> Tensor:
        """[A,G,G] of the whole answer."""
        return self.of(range(len(self.words)))[0]

    def sentences(self) -> list[range]:
        """The words of each sentence."""
        ends = [w + 1 for w, word in enumerate(self.words) if word.endswith(SENTENCE_END)]
        if not ends or ends[-1] < len(self.words):
            ends.append(len(self.words))
        return [range(start, stop) for start, stop in zip([0, *ends], ends, strict=False)]


@torch.no_grad()
def attention_maps(
    model: "MDFModel",
    inputs: Inputs,
    conversations: Sequence[list[Turn]],
    answers: Sequence[str],
    *,
    rows: Sequence[int] | None = None,
    adapters: Sequence[int] | None = None,
) -> list[AttentionMaps]:
    """The maps of an answer to each conversation, which ends with a user turn.

    Args:
        inputs: photographs, as the processor or `MDFModel.look` returns them.
        answers: generated or given; none is empty.
        rows: for each conversation the photograph of `inputs` it is about; None = its own number.
        adapters: numbers of the adapters wanted; None = all.
    Raises ValueError for a model without adapters and for an answer without words.
    """
    fusion = model.fusion
    if not fusion.layers:
        raise ValueError("the model has no adapters: nothing looks at patches")
    chosen = list(range(len(fusion.layers))) if adapters is None else list(adapters)
    photographs = list(range(len(conversations))) if rows is None else list(rows)
    was, _ = model.training, model.eval()
    batch = answer_rows(model, conversations, answers)
    seen = look(model, inputs).to(model.device).select(photographs)
    grounded = batch.reads | batch.question
    with model.precision():
        out = model(**batch.of_photographs(model, seen), grounded=grounded, keep=batch.reads)
    model.train(was)
    attention = out.attention[:, chosen].float().cpu()  # [N,A,G²], row by row
    layers = tuple(fusion.layers[i] for i in chosen)
    depths = tuple(fusion.depths[fusion.depth_of(i)] for i in chosen)
    found = []
    for row, part in enumerate(attention.split(grounded.sum(1).tolist())):
        at = grounded[row].cpu()
        part = part.unflatten(-1, (fusion.grid, fusion.grid))
        question = part[batch.question[row].cpu()[at]].mean(0)
        part = part[batch.reads[row].cpu()[at]]
        words = spell(model, batch.answers[row])
        if not words:
            raise ValueError(f"the answer {answers[row]!r} has no words")
        maps = torch.stack([part[places.start : places.stop].mean(0) for _, places in words])
        found.append(
            AttentionMaps(
                tuple(word for word, _ in words), tuple(len(places) for _, places in words), maps,
                (1 - maps.sum((2, 3))).clamp(min=0), question, layers, depths,
            )
        )  # fmt: skip
    return found
