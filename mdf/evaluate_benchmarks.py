"""What it costs to judge answers: all candidates of one question about each photograph, over the least that it takes.

Shapes: B photographs, C candidates, T prompt tokens, R answer tokens.
"""

from typing import Any

import torch

from mdf.benchmarks import Benchmarks, Row, interleave, pixels, tiles
from mdf.dialogue import Turn, diagnosis_answer
from mdf.evaluation.diagnosis import candidate_probabilities
from mdf.models.answers import prompts
from mdf.models.configuration import CACHE
from mdf.processor import Inputs
from mdf.tiles import cross_attention_mask, read_on

PHOTOGRAPHS = 32  # a batch, as evaluate.py takes it
DISEASES = (
    "normal", "diabetic_retinopathy", "glaucoma", "cataract", "amd", "hypertensive_retinopathy", "pathologic_myopia",
    "other",
)  # fmt: skip


def evaluate(benchmarks: Benchmarks, repeats: int) -> list[Row]:
    """Seconds of scoring eight diagnoses of each photograph of a batch, from its pixels and the question's words.

    The reference is one forward pass a photograph over the whole prompt, and one of the answers' tokens after it, with
    every tensor at hand: nothing tokenised, nothing found out, no likelihood taken.
    """
    cfg, device = benchmarks.cfg, benchmarks.device
    model: Any = benchmarks.build(cfg)
    model.fusion.lighten(benchmarks.dtype)  # as `mdf.inference` does
    model.eval()
    inputs = Inputs({**pixels(cfg, model, PHOTOGRAPHS), **tiles(cfg, model, PHOTOGRAPHS)}).to(device)
    question = model.processor.prompts.questions["diagnosis"]["ask"][0]
    answers = [diagnosis_answer(model.processor.prompts, (name,)) for name in DISEASES]
    turns = [model.system_turn(), Turn("user", question)]
    text, ids = prompts(model, [turns] * PHOTOGRAPHS)
    wholes = [
        model.processor.encode([*turns, Turn("assistant", answer)]).input_ids[len(ids[0]) :] for answer in answers
    ]
    length = max(map(len, wholes))
    rows = torch.tensor([w + [model.processor.pad_id] * (length - len(w)) for w in wholes], device=device)
    rows = rows.repeat(PHOTOGRAPHS, 1)  # [B*C,R]
    mask = torch.cat([text["attention_mask"].repeat_interleave(len(answers), 0), torch.ones_like(rows)], 1)
    real = inputs.get("aspect_ratio_mask")
    image = model.processor.image_token_id

    @torch.inference_mode()
    def forward() -> None:
        with model.precision():
            seen = model.see(inputs["pixel_values"], inputs["unet_pixels"])
            kv = model.fusion.memory_kv(seen[2])
        sees = None if real is None else cross_attention_mask(text["input_ids"], image, real)
        own = {k: v for k, v in inputs.items() if k not in ("pixel_values", "unet_pixels")}
        out = model(
            **text, prefix=seen[1], memory_kv=kv, use_cache=True, logits_to_keep=1, cross_attention_mask=sees, **own
        )
        cache = getattr(out, CACHE)
        cache.batch_repeat_interleave(len(answers))
        on = None if real is None else read_on(real.repeat_interleave(len(answers), 0), rows.shape[1])
        model(input_ids=rows, attention_mask=mask, memory_kv=kv, cache=cache, use_cache=True, cross_attention_mask=on)

    @torch.inference_mode()
    def score() -> None:
        candidate_probabilities(model, inputs, question, answers)

    benchmarks.say(
        f"evaluate: noise for {PHOTOGRAPHS} photographs, prompt of {len(ids[0])} tokens, {len(answers)} candidates "
        f"of at most {length} tokens"
    )
    measured, reference = interleave([score, forward], repeats, warm_up=1, device=device)
    name = "evaluate, eight candidate answers"
    return [Row(name, "forward of prompt and answers", "s", measured, reference, bar=1.3, at_least=False)]
