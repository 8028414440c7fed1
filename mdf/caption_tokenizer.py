"""CaptionTokenizer: captions as the token ids that the encoder's text tower was made for.

Shapes: B captions, C the longest that the text tower reads, T the longest of the batch.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from mdf.errors import UserError
from mdf.files import read_json
from mdf.hub import quick_to_fail

OPTIONS = "captions.json"
# how a text is cleaned first, beyond open_clip's ways (which also turn full-width Chinese punctuation into ASCII)
CLEAN: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "chinese": lambda text: text.lower().replace("“", '"').replace("”", '"'),  # as Chinese-CLIP and RET-CLIP do
}


class CaptionTokenizer:
    """CLIP's byte pairs, or the tokenizer of a text model, which a checkpoint keeps in captions/.

    Its files are read when it is first used.
    """

    def __init__(self, context_length: int = 77, source: str | None = None, *, trim: bool = False, **options: Any):
        """Nothing is read yet.

        Args:
            context_length: C.
            source: folder or hub id of a transformers tokenizer; None = CLIP's byte pairs.
            trim: whether a batch is padded to T only, for text towers that do not mind; else to C.
            options: of open_clip.HFTokenizer: clean (also one of CLEAN), strip_sep_token, tokenizer_mode.
        """
        self.context_length, self.source, self.trim, self.options = context_length, source, trim, options
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """open_clip's SimpleTokenizer or HFTokenizer."""
        if self._tokenizer is None:
            import open_clip

            if self.source is None:
                self._tokenizer = open_clip.SimpleTokenizer(context_length=self.context_length)
            else:
                clean = CLEAN.get(self.options.get("clean", ""))
                options = {k: v for k, v in self.options.items() if k != "clean" or clean is None}
                try:
                    with quick_to_fail(self.source):
                        made = open_clip.tokenizer.HFTokenizer(
                            self.source, context_length=self.context_length, **options
                        )
                except (OSError, ValueError, KeyError) as error:
                    reason = str(error).splitlines()[0]
                    raise UserError(
                        f"the tokenizer of the text tower, {self.source}, could not be read ({reason}); "
                        "put its files on disk where there is no model hub"
                    ) from error
                made.tokenizer.padding_side = "right"
                made.clean_fn = clean or made.clean_fn
                self._tokenizer = made
        return self._tokenizer

    def __call__(self, texts: list[str]) -> Tensor:
        """int64 [B,C], or [B,T] with `trim`; padding on the right. What is longer than C is cut: ask `length` first."""
        ids = self.tokenizer(texts)
        if self.trim:
            return ids[:, : int((ids != self.pad).sum(1).max())]
        return ids

    def length(self, text: str) -> int:
        """Tokens of a caption, its start and end among them."""
        if self.source is None:
            return len(self.tokenizer.encode(text)) + 2
        return len(self.tokenizer.tokenizer(self.tokenizer.clean_fn(text), verbose=False).input_ids)

    @property
    def pad(self) -> int:
        """The token that fills rows behind the end of a caption."""
        return 0 if self.source is None else self.tokenizer.tokenizer.pad_token_id

    def save(self, folder: Path) -> None:
        """Write captions/ into a checkpoint directory, unless it is CLIP's own, which open_clip brings along."""
        if self.source is None:
            return
        self.tokenizer.save_pretrained(folder / "captions")
        (folder / "captions" / OPTIONS).write_text(json.dumps({"trim": self.trim, **self.options}, indent=1))

    @classmethod
    def load(cls, folder: Path, context_length: int) -> "CaptionTokenizer":
        """What `save` wrote."""
        if not (folder / "captions").is_dir():
            return cls(context_length)
        options = read_json(folder / "captions" / OPTIONS)
        return cls(context_length, str(folder / "captions"), **options)
