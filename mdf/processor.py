"""MDFProcessor: what stands between a photograph or a question and the model's tensors; saved with a checkpoint."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdf.caption_tokenizer import CaptionTokenizer
from mdf.captions import cut, is_empty, tell_cut
from mdf.dialogue import Encoded, Prompts, Turn, encode, encode_apart
from mdf.errors import UserError
from mdf.files import read_json
from mdf.imaging.decode import load_image
from mdf.imaging.preprocess import Prepared, Preprocessing

# An existing, otherwise unused token of each tokenizer, so that embeddings are never resized.
IMAGE_TOKENS = ("<filename>", "<|image|>", "<|reserved_special_token_0|>")
PAD_TOKENS = ("<|finetune_right_pad_id|>", "<|endoftext|>", "<pad>", "<unk>")


INPUTS = ("pixel_values", "unet_pixels", "field")


def choose_token(tokenizer: Any, names: tuple[str, ...], purpose: str) -> str:
    """The first of `names` that the tokenizer holds as one token and that is not its end token."""
    vocabulary = tokenizer.get_vocab()
    for name in names:
        if name in vocabulary and name != tokenizer.eos_token:
            return name
    raise UserError(
        f"the tokenizer holds none of {', '.join(names)} to serve as {purpose}; "
        "this language model is not supported yet"
    )


class Inputs(dict):
    """Tensors of one or more prepared photographs: pixel_values [N,3,S,S], unet_pixels [N,3,U,U], field [N,1,U,U]; and
    after `MDFModel.look` what the language model reads of them: prefix [N,P,d], memory_kv [N,A,2,n,G²+1,64].
    """

    @classmethod
    def of(cls, prepared: list[Prepared]) -> "Inputs":
        """Prepared photographs side by side."""
        return cls({name: torch.stack([getattr(p, name) for p in prepared]) for name in INPUTS})

    def to(self, device: torch.device | str) -> "Inputs":
        return Inputs({k: v.to(device) for k, v in self.items()})

    def blank(self) -> "Inputs":
        """The same shapes with every pixel at the mean colour: no difference to a model that ignores the photograph."""
        pixels = {k: torch.zeros_like(self[k]) for k in ("pixel_values", "unet_pixels")}
        return Inputs({**pixels, "field": self["field"]})

    def select(self, rows: list[int]) -> "Inputs":
        """The photographs `rows`, in that order, repetitions allowed."""
        return Inputs({k: v[rows] for k, v in self.items()})


class MDFProcessor:
    """Tokenizer, preprocessing, prompts and candidate diagnoses of one model.

    `image_tokens` is the number of prefix tokens that a photograph takes in the language model's input.
    """

    def __init__(
        self,
        tokenizer: Any,
        preprocessing: Preprocessing,
        prompts: Prompts,
        *,
        image_tokens: int,
        context_length: int = 77,
        diagnoses: tuple[str, ...] = (),
        captions: CaptionTokenizer | None = None,
    ):
        self.tokenizer, self.preprocessing, self.prompts = tokenizer, preprocessing, prompts
        self.image_tokens, self.context_length, self.diagnoses = image_tokens, context_length, tuple(diagnoses)
        self.image_token = choose_token(tokenizer, IMAGE_TOKENS, "the image placeholder")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        pad = choose_token(tokenizer, PAD_TOKENS, "padding that differs from the end token")
        self.pad_id = tokenizer.convert_tokens_to_ids(pad)
        self.caption_tokenizer = captions or CaptionTokenizer(context_length)

    def __call__(self, images: Any) -> Inputs:
        """Photographs (path, PIL image or uint8 [H,W,3] array; one or a list) as tensors."""
        prepared = [
            self.preprocessing.prepare(self.decode(i)) for i in (images if isinstance(images, list) else [images])
        ]
        return Inputs.of(prepared)

    @staticmethod
    def decode(image: Any) -> np.ndarray:
        """uint8 [H,W,3] from a path, a PIL image or an array of that kind."""
        if isinstance(image, str | Path):
            return load_image(image)
        array = np.array(image.convert("RGB")) if hasattr(image, "convert") else np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise UserError(
                f"a photograph is a path, a PIL image or a uint8 array [H,W,3], not {array.dtype} {array.shape}"
            )
        return array

    def encode(self, turns: list[Turn], *, max_length: int = 0, generate: bool = False) -> Encoded:
        """A conversation as token ids (see `mdf.dialogue.encode`)."""
        return encode(
            turns, self.tokenizer, self.image_token, self.image_tokens, max_length=max_length, generate=generate
        )

    def encode_apart(self, turns: list[Turn], *, max_length: int = 0) -> Encoded:
        """Questions that do not see each other as token ids (see `mdf.dialogue.encode_apart`)."""
        return encode_apart(turns, self.tokenizer, self.image_token, self.image_tokens, max_length=max_length)

    def caption_length(self, text: str) -> int:
        """Tokens of a caption, its start and end among them."""
        return self.caption_tokenizer.length(text)

    def caption_ids(self, texts: list[str]) -> Tensor:
        """int64 [B,C] of captions that fit (see `fit_caption`); an empty one is for rows that serve no loss."""
        return self.caption_tokenizer(texts)

    @property
    def caption_pad(self) -> int:
        """What `caption_ids` fills rows with behind the end of a caption."""
        return self.caption_tokenizer.pad

    def fit_caption(self, text: str) -> str:
        """The caption, or of one longer than the C tokens of the text tower what stands before the cut, see
        `mdf.captions.cut`.
        """

        def fits(part: str) -> bool:
            return self.caption_length(part) <= self.context_length

        return text if fits(text) else cut(text, fits)

    def tokenize_captions(self, texts: list[str]) -> Tensor:
        """int64 [B,C] for the text tower. A caption longer than C is cut, which is said.

        Raises UserError for an empty one.
        """
        for number, text in enumerate(texts, 1):
            if is_empty(text):
                raise UserError(f"text {number} of {len(texts)} is empty ({text[:10]!r}): there is nothing to embed")
        fitted = [self.fit_caption(text) for text in texts]
        if fitted != list(texts):
            tell_cut()
        return self.caption_ids(fitted)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer/, captions/, preprocessing.json and prompts/ into a checkpoint directory."""
        folder = Path(folder)
        self.tokenizer.save_pretrained(folder / "tokenizer")
        (folder / "preprocessing.json").write_text(
            json.dumps(
                {
                    **self.preprocessing.to_dict(),
                    "hash": self.preprocessing.hash(),
                    "image_tokens": self.image_tokens,
                    "context_length": self.context_length,
                    "diagnoses": list(self.diagnoses),
                },
                indent=1,
            )
        )
        self.caption_tokenizer.save(folder)
        shutil.copytree(self.prompts.folder, folder / "prompts", dirs_exist_ok=True)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "MDFProcessor":
        """Read what `save_pretrained` wrote; refuses a preprocessing whose hash is not the one it was trained with."""
        from transformers import AutoTokenizer

        folder = Path(folder)
        if not (folder / "preprocessing.json").is_file():
            raise UserError(f"{folder} is not an mdf checkpoint: preprocessing.json is missing")
        values = read_json(folder / "preprocessing.json")
        names = ("image_tokens", "context_length", "diagnoses", "hash")
        if lacking := [name for name in names if name not in values]:
            raise UserError(f"{folder / 'preprocessing.json'}: {', '.join(lacking)} is missing; restore the file")
        extra = {k: values.pop(k) for k in names}
        expected = extra.pop("hash")
        preprocessing = Preprocessing.from_dict(values)
        if preprocessing.hash() != expected:
            raise UserError(
                f"{folder / 'preprocessing.json'} was changed after training "
                f"(hash {preprocessing.hash()}, trained with {expected}); "
                "restore it, or the photographs would not look to the model as they did in training"
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{folder / 'tokenizer'} is missing or damaged ({reason}); take the checkpoint again from its run"
            ) from error
        captions = CaptionTokenizer.load(folder, extra["context_length"])
        return cls(tokenizer, preprocessing, Prompts(folder / "prompts"), captions=captions, **extra)
