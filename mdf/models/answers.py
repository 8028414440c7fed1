"""Answers without gradients: batched generation, and the likelihood of given answers from one prefix.

Shapes: B conversations, T prompt tokens, n candidates, R answer tokens, V vocabulary.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mdf.batches import pad
from mdf.dialogue import IGNORED, Turn
from mdf.models.configuration import CACHE
from mdf.models.language import bare, decode
from mdf.models.mllama import see_tiles
from mdf.processor import Inputs
from mdf.tiles import cross_attention_mask, read_on

if TYPE_CHECKING:
    from mdf.models.fusion import MDFModel


def prompts(model: "MDFModel", conversations: list[list[Turn]]) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Left-padded input_ids, attention_mask, prompt_mask [B,T] of conversations that end with a user turn; bare ids."""
    encoded = [model.processor.encode(turns, generate=True) for turns in conversations]
    ids = [e.input_ids for e in encoded]
    device = model.device
    return {
        "input_ids": pad(ids, model.processor.pad_id, left=True).to(device),
        "attention_mask": pad([[1] * len(i) for i in ids], 0, left=True).to(device),
        "prompt_mask": pad([[int(m) for m in e.prompt_mask] for e in encoded], 0, left=True).bool().to(device),
    }, ids


@torch.no_grad()
def look(model: "MDFModel", inputs: Inputs) -> Inputs:
    """The photographs with what the language model reads of them, seen once for all calls that get the result.

    That is memory_kv and prefix [N,P,d], or cross_attention_states of a tower of its own. Where the memory depends on
    the prompt (film.condition image+prompt), unchanged.
    """
    if model.fusion.uses_prompt or {"prefix", "cross_attention_states"} & inputs.keys():
        return inputs
    was, _ = model.training, model.eval()
    inputs = inputs.to(model.device)
    with model.precision():
        _, prefix, memory, _ = model.see(inputs["pixel_values"], inputs["unet_pixels"])
        kv = None if memory is None else model.fusion.memory_kv(memory)
        states = see_tiles(bare(model.language), inputs).get("cross_attention_states")
    model.train(was)
    found = {"prefix": prefix, "memory_kv": kv, "cross_attention_states": states}
    return Inputs({**inputs, **{name: tensor for name, tensor in found.items() if tensor is not None}})


@torch.no_grad()
def generate_answers(
    model: "MDFModel",
    inputs: Inputs,
    conversations: list[list[Turn]],
    *,
    max_new_tokens: int = 96,
    num_beams: int = 1,
    streamer: Any = None,
    temperature: float = 0.0,
    stopping_criteria: Any = None,
) -> list[str]:
    """One answer for each conversation; row i is about photograph i of `inputs`.

    At temperature 0 greedily or by beams, above it drawn from all tokens. `stopping_criteria` are transformers'.
    """
    if len(inputs["pixel_values"]) != len(conversations):
        raise ValueError(f"{len(inputs['pixel_values'])} photographs for {len(conversations)} conversations")
    text, _ = prompts(model, conversations)
    seen = {k: v.to(model.device) for k, v in look(model, inputs).items() if k != "field"}
    drawn: dict[str, Any] = (
        {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0} if temperature else {}
    )
    out = model.generate(
        **text,
        **seen,
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        streamer=streamer,
        stopping_criteria=stopping_criteria,
        **(drawn or {"do_sample": False}),
    )
    answers = out[:, text["input_ids"].shape[1] :]
    return [a.strip() for a in model.processor.tokenizer.batch_decode(answers, skip_special_tokens=True)]


@torch.no_grad()
def score(
    model: "MDFModel",
    inputs: Inputs,
    conversations: list[list[Turn]],
    candidates: list[list[str]],
    *,
    rows: list[int] | None = None,
) -> list[list[float]]:
    """Log-likelihood of each candidate answer, summed over its tokens with the end token.

    What all conversations begin with (system prompt, photograph) runs once a photograph; its cache is repeated for the
    questions, and theirs for the candidates (never cropped: cropping cuts image keys in models that cache them).

    Args:
        conversations: B conversations, each ending with a user turn.
        candidates: for each conversation its possible answers.
        rows: for each conversation the photograph of `inputs` it is about; None = its own number.
    """
    was, _ = model.training, model.eval()
    rows = list(range(len(conversations))) if rows is None else rows
    n = max(map(len, candidates))
    text, prompt_ids = prompts(model, conversations)
    shared = min(_common(prompt_ids), min(map(len, prompt_ids)) - 1)
    if len(rows) > 1 and model.processor.image_token_id not in prompt_ids[0][:shared]:  # they differ before it
        one = [
            score(model, inputs, [c], [o], rows=[r]) for c, o, r in zip(conversations, candidates, rows, strict=True)
        ]
        model.train(was)
        return [row for rows_ in one for row in rows_]
    if model.fusion.uses_prompt:  # each conversation has its own memory
        at = list(range(len(rows)))  # of those whose memory is made, the one of each conversation
        pixels = inputs.select(rows).to(model.device)
        pooled = model.prompt_of(text["input_ids"], text["prompt_mask"])
        with model.precision():
            _, prefix, memory, _ = model.see(pixels["pixel_values"], pixels["unet_pixels"], pooled)
            kv = None if memory is None else model.fusion.memory_kv(memory)
            seen = Inputs({**pixels, **see_tiles(bare(model.language), pixels), "prefix": prefix})
    else:
        used = sorted(set(rows))
        at = [used.index(row) for row in rows]
        seen = look(model, inputs.select(used)).to(model.device)
        kv = seen.get("memory_kv")
    tiles = seen.get("aspect_ratio_mask")  # of a language model with a tower of its own, which all tokens read

    head = torch.tensor(prompt_ids[0][:shared], device=model.device).expand(len(seen["pixel_values"]), -1)
    out = model(
        input_ids=head, attention_mask=torch.ones_like(head), prefix=seen.get("prefix"), memory_kv=kv, use_cache=True,
        cross_attention_states=seen.get("cross_attention_states"), logits_to_keep=1,
        cross_attention_mask=(
            None if tiles is None else cross_attention_mask(head, model.processor.image_token_id, tiles)
        ),
    )  # fmt: skip
    cache = getattr(out, CACHE)
    choice = torch.tensor(at, device=model.device)
    cache.batch_select_indices(choice)
    kv = None if kv is None else kv[choice]
    tiles = None if tiles is None else tiles[choice]
    own = pad([ids[shared:] for ids in prompt_ids], model.processor.pad_id, left=True).to(model.device)
    own_mask = pad([[1] * (len(ids) - shared) for ids in prompt_ids], 0, left=True).to(model.device)
    before = torch.cat([own_mask.new_ones(len(own), shared), own_mask], 1)
    question = model(
        input_ids=own, attention_mask=before, position_ids=(before.cumsum(1) - 1)[:, shared:].clamp(min=0),
        cross_attention_mask=None if tiles is None else read_on(tiles, own.shape[1]),
        memory_kv=kv, cache=cache, use_cache=True, logits_to_keep=1,
    )  # fmt: skip
    cache.batch_repeat_interleave(n)

    answers: list[list[int]] = []
    for turns, ids, options in zip(conversations, prompt_ids, candidates, strict=True):
        for option in options:
            whole = model.processor.encode([*turns, Turn("assistant", option)])
            if whole.input_ids[: len(ids)] != ids:
                raise ValueError("the answer changes the tokens of the prompt")
            last = max(i for i, label in enumerate(whole.labels) if label >= 0)
            answers.append(whole.input_ids[len(ids) : last + 1])
        answers += [answers[-1]] * (n - len(options))
    tokens = pad(answers, model.processor.pad_id).to(model.device)  # [B*n,R]
    mask = pad([[1] * len(a) for a in answers], 0).to(model.device)
    before = before.repeat_interleave(n, 0)
    start = before.sum(1, keepdim=True)
    tail = model(
        input_ids=tokens, attention_mask=torch.cat([before, mask], 1),
        position_ids=start + torch.arange(tokens.shape[1], device=model.device),
        cross_attention_mask=None if tiles is None else read_on(tiles.repeat_interleave(n, 0), tokens.shape[1]),
        memory_kv=kv, cache=cache, use_cache=True,
    )  # fmt: skip
    first = question.logits[:, -1].repeat_interleave(n, 0)[:, None]
    logits = torch.cat([first, tail.logits[:, :-1]], 1).float()
    likelihood = logits.log_softmax(-1).gather(2, tokens[..., None])[..., 0]
    total = (likelihood * mask).sum(1).view(-1, n)
    model.train(was)
    return [row[: len(options)] for row, options in zip(total.tolist(), candidates, strict=True)]


@torch.no_grad()
def score_text(model: "MDFModel", question: str, candidates: list[str]) -> list[float]:
    """Log-likelihood of each candidate answer to a question that comes without a photograph: no image token, nothing
    for the adapters to read.
    """
    was, _ = model.training, model.eval()
    turns = [model.system_turn(), Turn("user", question)]
    encoded = [model.processor.encode([*turns, Turn("assistant", c)], photograph=False) for c in candidates]
    ids = pad([e.input_ids for e in encoded], model.processor.pad_id).to(model.device)
    labels = pad([e.labels for e in encoded], IGNORED).to(model.device)[:, 1:]
    mask = pad([[1] * len(e.input_ids) for e in encoded], 0).to(model.device)
    hidden, _ = decode(model.language, model.get_input_embeddings()(ids), None, 0, attention_mask=mask)
    logits = bare(model.language).lm_head(hidden[:, :-1]).float()
    likelihood = logits.log_softmax(-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    model.train(was)
    return (likelihood * (labels != IGNORED)).sum(1).tolist()


def _common(sequences: list[list[int]]) -> int:
    """How many tokens all of them begin with."""
    first, last = min(sequences), max(sequences)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


class AnsweringMixin:
    """The functions above as methods of `MDFModel`."""

    def system_turn(self: Any) -> Turn:
        """The system prompt that the model was trained with."""
        return Turn("system", self.processor.prompts.system)

    def look(self: Any, inputs: Inputs) -> Inputs:
        """Photographs seen once for several calls of `score` and `generate_answers`."""
        return look(self, inputs)

    def generate_answers(self: Any, inputs: Inputs, conversations: list[list[Turn]], **kwargs: Any) -> list[str]:
        """One answer a conversation."""
        return generate_answers(self, inputs, conversations, **kwargs)

    def score(
        self: Any, inputs: Inputs, conversations: list[list[Turn]], candidates: list[list[str]], **kwargs: Any
    ) -> list[list[float]]:
        """Summed log-likelihood of each candidate answer."""
        return score(self, inputs, conversations, candidates, **kwargs)

    def score_text(self: Any, question: str, candidates: list[str]) -> list[float]:
        """Log-likelihood of each candidate answer without a photograph."""
        return score_text(self, question, candidates)

    def ask(
        self: Any,
        image: Any,
        question: str,
        history: list[Turn] | None = None,
        max_new_tokens: int = 160,
        streamer: Any = None,
    ) -> str:
        """The answer to a question about a photograph (path, PIL image, array or the processor's output)."""
        inputs = image if isinstance(image, Inputs) else self.processor(image)
        turns = [*(history or [self.system_turn()]), Turn("user", question)]
        return self.generate_answers(inputs, [turns], max_new_tokens=max_new_tokens, streamer=streamer)[0]
