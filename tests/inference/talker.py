"""A predictor that talks, although its model learnt nothing."""

from typing import Any

from mdf.inference.predictor import Predictor


def talker(checkpoint: Any) -> Predictor:
    """That says nothing but letters, without end: left to itself such a model says only ends and blanks."""
    predictor = Predictor(checkpoint.run / "best", "cpu")
    tokenizer = predictor.processor.tokenizer
    letters = [i for i in range(len(tokenizer)) if tokenizer.decode([i], skip_special_tokens=True).strip().isalpha()]
    others = sorted(set(range(len(tokenizer))) - set(letters))
    predictor.model.generation_config.bad_words_ids = [[i] for i in others]
    return predictor
