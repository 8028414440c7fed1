"""A processor without a model: enough for conversations, samples and batches, in a fraction of the time."""

from pathlib import Path

from mdf.dialogue import Prompts
from mdf.imaging.preprocess import Preprocessing
from mdf.processor import MDFProcessor
from mdf.resources import bundled
from tests.tiny import tiny_language

DIAGNOSES = ("normal", "diabetic_retinopathy", "amd", "glaucoma")
QUESTIONS = ("presence", "count")


def tiny_processor(folder: Path, *, image_tokens: int = 4) -> MDFProcessor:
    """The tokenizer of `tiny_language`, both inputs 64 pixels wide, the prompts that come with mdf."""
    from transformers import AutoTokenizer

    return MDFProcessor(
        AutoTokenizer.from_pretrained(tiny_language(folder)),
        Preprocessing(encoder_size=64, unet_size=64),
        Prompts(bundled("prompts")),
        image_tokens=image_tokens,
        diagnoses=DIAGNOSES,
        questions=QUESTIONS,
    )
