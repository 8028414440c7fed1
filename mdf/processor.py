"""MDFProcessor: what stands between a photograph or a question and the model's tensors; saved with a checkpoint."""

import hashlib
import json
import shutil
from functools import cached_property
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
from mdf.tiles import TILES, cut_tiles, load_image_processor

# An existing, otherwise unused token of each tokenizer, so that embeddings are never resized.
IMAGE_TOKENS = ("<filename>", "<|reserved_special_token_0|>")
OWN_IMAGE_TOKEN = "<|image|>"  # of a language model with a vision tower of its own
PAD_TOKENS = ("<|finetune_right_pad_id|>", "<|endoftext|>", "<pad>", "<unk>")
TILING = "image_processor"  # a checkpoint's folder, and a key of its preprocessing.json
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
    """Tensors of one or more prepared photographs: pixel_values [N,3,S,S], unet_pixels [N,3,U,U], field [N,1,U,U].

    For a language model with a vision tower of its own what TILES names, too; and after `MDFModel.look` what the
    language model reads of them: prefix [N,P,d] or cross_attention_states [N,·,d], memory_kv [N,A,2,n,G²+1,64].
    """

    @classmethod
    def of(cls, prepared: list[Prepared]) -> "Inputs":
        """Prepared photographs side by side."""
        return cls({name: torch.stack([getattr(p, name) for p in prepared]) for name in INPUTS})

    def to(self, device: torch.device | str) -> "Inputs":
        return Inputs({k: v.to(device) for k, v in self.items()})

    def blank(self) -> "Inputs":
        """The same shapes with every pixel at the mean colour: no difference to a model that ignores the photograph."""
        blank = {k: torch.zeros_like(self[k]) for k in ("pixel_values", "unet_pixels", "tiles") if k in self}
        return Inputs({**{k: self[k] for k in ("field", *TILES) if k in self}, **blank})

    def select(self, rows: list[int]) -> "Inputs":
        """The photographs `rows`, in that order, repetitions allowed."""
        return Inputs({k: v[rows] for k, v in self.items()})


def hash_of(folder: Path) -> str:
    """12 hexadecimal digits over the settings of the image processor saved in `folder`, as they stand in its files."""
    content = b"".join(file.read_bytes() for file in sorted(folder.glob("*.json")))
    return hashlib.sha256(content).hexdigest()[:12]


class MDFProcessor:
    """Tokenizer, preprocessing, prompts and candidate diagnoses of one model.

    `questions` are the kinds that it was trained on; () in a checkpoint from before they were written down.
    `image_tokens` is the number of tokens that a photograph takes in the language model's input; `image_processor`, of
    a language model with a vision tower of its own, cuts its pictures to tiles.
    """

    image_processor: Any = None  # of a language model with a vision tower of its own
    questions: tuple[str, ...] = ()  # kinds

    def __init__(
        self,
        tokenizer: Any,
        preprocessing: Preprocessing,
        prompts: Prompts,
        *,
        image_tokens: int,
        context_length: int = 77,
        diagnoses: tuple[str, ...] = (),
        questions: tuple[str, ...] = (),
        captions: CaptionTokenizer | None = None,
        image_processor: Any = None,
    ):
        self.tokenizer, self.preprocessing, self.prompts = tokenizer, preprocessing, prompts
        self.image_tokens, self.context_length, self.diagnoses = image_tokens, context_length, tuple(diagnoses)
        self.image_processor, self.questions = image_processor, tuple(questions)
        names = IMAGE_TOKENS if image_processor is None else (OWN_IMAGE_TOKEN,)
        self.image_token = choose_token(tokenizer, names, "the image placeholder")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        pad = choose_token(tokenizer, PAD_TOKENS, "padding that differs from the end token")
        self.pad_id = tokenizer.convert_tokens_to_ids(pad)
        self.caption_tokenizer = captions or CaptionTokenizer(context_length)

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens at which an answer ends: that which the chat template ends it with, learnt in training, and the
        tokenizer's own, which is another one in some fine-tunes.
        """
        turns = [Turn("user", "a"), Turn("assistant", "b")]
        labels = encode(turns, self.tokenizer, self.image_token, self.image_tokens).labels
        learnt = next(label for label in reversed(labels) if label >= 0)
        return tuple(dict.fromkeys((learnt, self.tokenizer.eos_token_id)))

    def __call__(self, images: Any) -> Inputs:
        """Photographs (path, PIL image or uint8 [H,W,3] array; one or a list) as tensors."""
        prepared = [
            self.preprocessing.prepare(self.decode(i)) for i in (images if isinstance(images, list) else [images])
        ]
        return self.inputs(prepared)

    def inputs(self, prepared: list[Prepared]) -> Inputs:
        """Prepared photographs side by side, with their tiles where the language model sees for itself."""
        return Inputs({**Inputs.of(prepared), **self.tiles(prepared)})

    def tiles(self, prepared: list[Prepared]) -> dict[str, Tensor]:
        """The tensors TILES of prepared photographs, from the language model's own image processor, or nothing."""
        if self.image_processor is None:
            return {}
        return cut_tiles(self.image_processor, [p.picture for p in prepared if p.picture is not None])

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

    def encode(
        self, turns: list[Turn], *, max_length: int = 0, generate: bool = False, photograph: bool = True
    ) -> Encoded:
        """A conversation as token ids (see `mdf.dialogue.encode`), about a photograph or without one."""
        count = self.image_tokens if photograph else 0
        return encode(turns, self.tokenizer, self.image_token, count, max_length=max_length, generate=generate)

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

    def tokens(self) -> dict[str, Any]:
        """What of the tokenizer a model was trained with: its special tokens with their ids, size, chat template."""
        names = {"image": self.image_token, "pad": self.tokenizer.convert_ids_to_tokens(self.pad_id)}
        names |= {"bos": self.tokenizer.bos_token, "eos": self.tokenizer.eos_token}
        found: dict[str, Any] = {k: [name, self.tokenizer.get_vocab().get(name)] for k, name in names.items()}
        template = hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()[:12]
        return {**found, "size": len(self.tokenizer), "template": template}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer/, image_processor/, captions/, preprocessing.json and prompts/ into a checkpoint."""
        folder = Path(folder)
        self.tokenizer.save_pretrained(folder / "tokenizer")
        own = {}
        if self.image_processor is not None:
            self.image_processor.save_pretrained(folder / TILING)
            own = {TILING: hash_of(folder / TILING)}
        (folder / "preprocessing.json").write_text(
            json.dumps(
                {
                    **self.preprocessing.to_dict(),
                    "hash": self.preprocessing.hash(),
                    "image_tokens": self.image_tokens,
                    "context_length": self.context_length,
                    "diagnoses": list(self.diagnoses),
                    "questions": list(self.questions),
                    "tokens": self.tokens(),
                    **own,
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
        extra, tokens, tiling = {k: values.pop(k) for k in names}, values.pop("tokens", None), values.pop(TILING, None)
        extra["questions"] = values.pop("questions", ())
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
        own = load_image_processor(folder / TILING) if preprocessing.language_size else None
        if tiling and hash_of(folder / TILING) != tiling:  # older checkpoints did not write it down
            raise UserError(
                f"{folder / TILING} is not what the checkpoint was trained with, and would cut other tiles; take the "
                "checkpoint again from its run"
            )
        made = cls(
            tokenizer, preprocessing, Prompts(folder / "prompts"), captions=captions, image_processor=own, **extra
        )
        had, has = tokens or {}, made.tokens()  # older checkpoints did not write them down
        if other := [f"{k} was {had[k]}, is {has[k]}" for k in had if had[k] != has[k]]:
            raise UserError(
                f"{folder / 'tokenizer'} is not the tokenizer that the checkpoint was trained with "
                f"({'; '.join(other)}); take the checkpoint again from its run"
            )
        return made
