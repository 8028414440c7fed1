"""The batch contract: what a training step receives, and how records become it.

Shapes: B rows, T text tokens, S encoder input side, U U-Net input side, K masks, C caption tokens.
"""

import dataclasses
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdf.captions import can_be_aligned, caption, templates
from mdf.config import AugmentConfig, CaptionsConfig, DialogueConfig
from mdf.dialogue import IGNORED, Encoded, Prompts, Turn, ask, converse, encode
from mdf.errors import UserError
from mdf.imaging.augment import Transform, flip_record, sample
from mdf.imaging.cache import PreparedCache, file_of
from mdf.imaging.decode import load_image, load_mask
from mdf.imaging.preprocess import Crop, Prepared
from mdf.records import FundusRecord, Manifest
from mdf.tiles import cross_attention_mask
from mdf.vocabulary import entries


@dataclass
class Batch:
    """One micro-batch. What a stage does not need is None."""

    sample_ids: list[str]
    patient_ids: list[str | None]
    eyes: list[str | None]
    pixel_values: Tensor  # float32 [B,3,S,S], normalised for the encoder; [B,1,S,S] where that is grey
    unet_pixels: Tensor  # float32 [B,3,U,U], normalised for the U-Net
    field: Tensor  # bool [B,1,U,U], inside the field of view
    image_index: Tensor  # int64 [B], row that a photograph belongs to
    masks: Tensor | None = None  # float32 {0,1} [B,K,U,U] in the order of unet.masks
    mask_known: Tensor | None = None  # bool [B,K]; False = that mask was never drawn for this photograph
    input_ids: Tensor | None = None  # int64 [B,T], right padded
    attention_mask: Tensor | None = None  # int64 {0,1} [B,T]
    branch: Tensor | None = None  # int64 [B,T], see `branches`; None = every row is one conversation
    labels: Tensor | None = None  # int64 [B,T], -100 = not supervised
    prompt_mask: Tensor | None = None  # bool [B,T], before the first supervised token
    focus: Tensor | None = None  # int64 [B,T], row of `masks` that the next token speaks of; -1 = none known
    caption_ids: Tensor | None = None  # int64 [B,C] for the CLIP text tower
    caption_group: Tensor | None = None  # int64 [B], equal for equal caption_ids; -1 = there is nothing to align with
    cut: int = 0  # captions that were longer than the text tower's context
    label_ids: Tensor | None = None  # int64 [B], equal for equal diagnoses; -1 likewise
    label_sets: Tensor | None = None  # bool [B,D], which of the vocabulary's D names the diagnosis holds
    patients: Tensor | None = None  # int64 [P,2], rows of each patient's left and right eye (`eyes_of`); -1 = none here
    missing: list[str] = dataclasses.field(default_factory=list)  # files that are gone; their rows serve no loss
    # the language model's own image tensors: those of `mdf.tiles.TILES` and cross_attention_mask int64 [B,T,1,tiles]
    backbone: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with every tensor on `device`."""
        moved = {f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        backbone = {name: tensor.to(device) for name, tensor in self.backbone.items()}
        return Batch(**{**{f.name: getattr(self, f.name) for f in fields(self)}, **moved, "backbone": backbone})

    @property
    def supervised(self) -> int:
        """Tokens with a label: the number that the step's cross-entropy is divided by."""
        assert self.labels is not None
        return int((self.labels[:, 1:] != IGNORED).sum())


@dataclass
class Sample:
    record: FundusRecord
    prepared: Prepared
    conversation: Encoded | None  # None = not wanted
    caption: str | None  # None = not wanted, "" = the record has nothing to align with
    focus: list[int] | None = None  # one a token, see Batch
    silent: bool = False  # the conversation is a bare prompt, since the record knows no answer
    missing: str | None = None  # file that is gone: nothing of the photograph is known


def stable_hash(text: str) -> int:
    """63-bit hash of a string, the same in every process and session (Python's own is salted)."""
    import hashlib

    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def can_be_asked(record: FundusRecord, prompts: Prompts, dialogue: DialogueConfig) -> bool:
    """Whether the record knows the answer to any kind of question that is asked."""
    kinds = [kind for kind, weight in dialogue.questions.items() if weight > 0]
    return any(ask(record, kind, prompts, (), np.random.default_rng(0)) is not None for kind in kinds)


class FundusDataset(torch.utils.data.Dataset):
    """Photographs of a manifest as samples; `dataset[(epoch, index)]`, so that augmentation and questions depend on
    (seed, epoch, sample id) alone and never on the order or the number of workers.

    With `train` the questions are drawn and the photograph is augmented (`augment` not None); without, epoch 0 is used
    for all. A photograph or mask that is gone is an error, or with `skip_missing` a row that serves no loss.
    """

    def __init__(
        self,
        records: list[FundusRecord],
        manifest: Manifest,
        processor: Any,
        dialogue: DialogueConfig,
        captions: CaptionsConfig = CaptionsConfig(),  # noqa: B008 (frozen)
        *,
        seed: int = 0,
        augment: AugmentConfig | None = None,
        masks: tuple[str, ...] = (),
        want_text: bool = True,
        want_caption: bool = False,
        cache: PreparedCache | None = None,
        skip_missing: bool = False,
    ):
        self.records, self.manifest, self.processor = records, manifest, processor
        self.dialogue, self.captions = dialogue, captions
        self.seed, self.augment, self.masks = seed, augment, masks
        self.want_text, self.want_caption = want_text, want_caption
        self.cache, self.skip_missing = cache, skip_missing
        if want_caption:
            templates(processor.prompts)  # a mistake in them is told before any work

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        record = self.records[index]
        try:
            crop = self.crop(record)
        except UserError:
            gone = next((str(path) for name, path in self.files(record) if not file_of(name, path).exists()), None)
            if not self.skip_missing or gone is None:
                raise
            return self.nothing(record, gone)
        return self.sample(record, epoch, crop)

    def files(self, record: FundusRecord) -> list[tuple[str, Path]]:
        """Name and path of the photograph and of those of its masks that are wanted."""
        return [(name, self.manifest.path(path)) for name, path in self.paths(record)]

    def paths(self, record: FundusRecord) -> list[tuple[str, str]]:
        """The same, relative to the manifest's root."""
        return [("", record.image), *((name, record.masks[name]) for name in self.masks if name in record.masks)]

    def crop(self, record: FundusRecord) -> Crop:
        """What is the same in every epoch, from the cache where there is one. Raises UserError for a bad file."""
        (_, image), *masks = self.files(record)
        preprocessing, augmented = self.processor.preprocessing, self.augment is not None

        def make() -> Crop:
            pixels = load_image(image)
            drawn = {name: load_mask(path) for name, path in masks}
            return preprocessing.crop(pixels, drawn, augmented=augmented)

        return self.cache.get(preprocessing, self.files(record), make, augmented) if self.cache else make()

    def sample(self, record: FundusRecord, epoch: int, crop: Crop) -> Sample:
        """The sample of this epoch: augmented, with a conversation and a caption where they are wanted."""
        processor, prompts = self.processor, self.processor.prompts
        record, transform, conversation, silent, rng = self.drawn(record, epoch)
        prepared = processor.preprocessing.finish(crop, self.masks, transform)
        text = None
        if self.want_caption:
            drawn = rng if self.augment is not None else None
            alignable = can_be_aligned(record, self.captions)
            text = caption(record, prompts, self.captions, drawn) if alignable else ""
        return Sample(record, prepared, conversation, text, self.focus(record, conversation), silent)

    def drawn(
        self, record: FundusRecord, epoch: int
    ) -> tuple[FundusRecord, Transform | None, Encoded | None, bool, np.random.Generator]:
        """What chance decides in an epoch, without the photograph: the record (flipped), how it is augmented, its
        conversation and whether that is a bare prompt; and the random numbers that follow.
        """
        processor, prompts = self.processor, self.processor.prompts
        rng = np.random.default_rng([self.seed, epoch, stable_hash(record.id) % 2**32])
        transform = sample(self.augment, rng) if self.augment is not None else None
        if transform is not None and transform.flip:
            record = flip_record(record)
        if not self.want_text:
            return record, transform, None, False, rng
        if not can_be_asked(record, prompts, self.dialogue):
            return record, transform, self.bare_prompt(), True, rng
        turns = converse(record, prompts, self.dialogue, processor.diagnoses, rng)
        encode = processor.encode_apart if rng.random() < self.dialogue.apart else processor.encode
        return record, transform, encode(turns, max_length=self.dialogue.max_length), False, rng

    def length(self, key: tuple[int, int]) -> int:
        """Tokens of a conversation; needs neither its photograph nor its masks."""
        conversation = self.drawn(self.records[key[1]], key[0])[2]
        return 0 if conversation is None else len(conversation.input_ids)

    def focus(self, record: FundusRecord, conversation: Encoded | None) -> list[int] | None:
        """One number a token, see Batch; None where no masks or no conversation are wanted."""
        if conversation is None or not self.masks:
            return None
        rows = {name: row for row, name in enumerate(self.masks) if name in record.masks}
        return [rows.get(name, -1) if name else -1 for name in (*conversation.findings[1:], None)]

    def bare_prompt(self) -> Encoded:
        """A question without an answer: keeps a row in step with those that have one."""
        prompts = self.processor.prompts
        turns = [Turn("system", prompts.system), Turn("user", prompts.questions["diagnosis"]["ask"][0])]
        return self.processor.encode(turns, generate=True)

    def nothing(self, record: FundusRecord, gone: str) -> Sample:
        """A sample that serves no loss, in the place of one whose file is gone: batches keep their size."""
        sizes = self.processor.preprocessing
        count, side = len(self.masks), sizes.unet_size
        prepared = Prepared(
            pixel_values=torch.zeros(sizes.channels, sizes.encoder_size, sizes.encoder_size),
            unet_pixels=torch.zeros(3, side, side),
            field=torch.zeros(1, side, side, dtype=torch.bool),
            masks=torch.zeros(count, side, side),
            mask_known=torch.zeros(count, dtype=torch.bool),
            picture=torch.zeros(3, own, own, dtype=torch.uint8) if (own := sizes.language_size) else None,
        )
        conversation = self.bare_prompt() if self.want_text else None
        text, focus = "" if self.want_caption else None, self.focus(record, conversation)
        return Sample(record, prepared, conversation, text, focus, True, gone)


def branches(branch: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """What makes questions of one row blind to each other: bool [B,1,T,T] who sees whom, position_ids int64 [B,T].

    A token sees the earlier ones of its own branch and of branch 0, which all share; each branch's positions go on
    where branch 0 ends.
    """
    query, key = branch[:, :, None], branch[:, None, :]
    causal = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool, device=branch.device).tril()
    sees = causal & ((key == query) | (key == 0)) & attention_mask[:, None, :].bool()
    sees = sees | torch.eye(branch.shape[1], dtype=torch.bool, device=branch.device)  # padding sees itself
    return sees[:, None], sees.sum(-1) - 1


def pad(rows: list[list[int]], value: int, *, left: bool = False) -> Tensor:
    """int64 [B,T] from lists of unequal length."""
    length = max(map(len, rows))
    if left:
        return torch.tensor([[value] * (length - len(r)) + r for r in rows])
    return torch.tensor([r + [value] * (length - len(r)) for r in rows])


def label_id(record: FundusRecord) -> int:
    """Equal for equal diagnoses; without one each photograph is its own."""
    return stable_hash("|".join(sorted(record.diagnosis or ("?" + record.id,))))


def text_id(ids: list[int], pad: int) -> int:
    """Equal for captions that the tower reads as one: cut to the same words, or in lower case the same.

    However far a batch is padded: processes compare these numbers with each other.
    """
    length = max((place for place, token in enumerate(ids, 1) if token != pad), default=0)
    return stable_hash(str(ids[:length]))


@cache
def columns() -> dict[str, int]:
    """The place of each diagnosis in `Batch.label_sets`: the same in every process and for all data."""
    return {name: place for place, name in enumerate(entries())}


def label_sets(records: list[FundusRecord]) -> Tensor:
    """bool [B,D], the diagnosis of each; one that is not known is an empty set."""
    sets = torch.zeros(len(records), len(columns()), dtype=torch.bool)
    for row, record in enumerate(records):
        sets[row, [columns()[name] for name in record.diagnosis or ()]] = True
    return sets


def person_of(record: FundusRecord) -> tuple[str, str] | None:
    """Whose eye this is, or None where patient or eye are not known; numbers of patients are their source's own."""
    return (record.source or "", record.patient) if record.patient and record.eye else None


def eyes_of(samples: list[Sample]) -> list[list[int]]:
    """[left, right] rows of each patient, -1 for an eye that is not there; a right eye and the left one of the same
    patient right after it are one, as the sampler lays them. A row with nothing to align with takes no part.
    """
    found: list[list[int]] = []
    for row, own in enumerate(samples):
        if not own.caption or person_of(own.record) is None:
            continue
        if own.record.eye == "right":
            found.append([-1, row])
        elif found and found[-1] == [-1, row - 1] and person_of(samples[row - 1].record) == person_of(own.record):
            found[-1][0] = row
        else:
            found.append([row, -1])
    return found


def collate(samples: list[Sample], processor: Any) -> Batch:
    """Samples of one micro-batch as tensors."""
    prepared = [s.prepared for s in samples]
    records = [s.record for s in samples]
    batch = Batch(
        sample_ids=[r.id for r in records],
        patient_ids=[r.patient for r in records],
        eyes=[r.eye for r in records],
        pixel_values=torch.stack([p.pixel_values for p in prepared]),
        unet_pixels=torch.stack([p.unet_pixels for p in prepared]),
        field=torch.stack([p.field for p in prepared]),
        image_index=torch.arange(len(samples)),
        label_ids=torch.tensor([-1 if s.caption == "" else label_id(s.record) for s in samples]),
        missing=[s.missing for s in samples if s.missing is not None],
    )
    if prepared[0].masks is not None:
        batch.masks = torch.stack([p.masks for p in prepared])
        batch.mask_known = torch.stack([p.mask_known for p in prepared])
    conversations = [s.conversation for s in samples if s.conversation is not None]
    if conversations:
        batch.input_ids = pad([c.input_ids for c in conversations], processor.pad_id)
        batch.labels = pad([c.labels for c in conversations], IGNORED)
        batch.prompt_mask = pad([[int(m) for m in c.prompt_mask] for c in conversations], 0).bool()
        if all(s.focus is not None for s in samples):
            batch.focus = pad([s.focus for s in samples if s.focus is not None], -1)
        # from the lengths, never from the ids: a pad id inside the text must stay visible
        lengths = torch.tensor([len(c.input_ids) for c in conversations])
        batch.attention_mask = (torch.arange(batch.input_ids.shape[1])[None] < lengths[:, None]).long()
        if any(c.branch is not None for c in conversations):
            one = [c.branch if c.branch is not None else [0] * len(c.input_ids) for c in conversations]
            batch.branch = pad(one, 0)
        counts = (batch.labels[:, 1:] != IGNORED).sum(1).tolist()
        empty = [s.record.id for s, count in zip(samples, counts, strict=True) if not count and not s.silent]
        if empty:
            raise UserError(
                f"no supervised token in {', '.join(empty)}: the conversation holds no answer; "
                "leave the record out of the data"
            )
        if (batch.labels == processor.image_token_id).any():
            raise UserError(f"an answer of {', '.join(batch.sample_ids)} holds {processor.image_token}: remove it")
        batch.backbone = processor.tiles(prepared)
        if batch.backbone:
            batch.backbone["cross_attention_mask"] = cross_attention_mask(
                batch.input_ids, processor.image_token_id, batch.backbone["aspect_ratio_mask"]
            )
    captions = [s.caption for s in samples if s.caption is not None]
    if captions:
        fitted = [processor.fit_caption(c) for c in captions]
        batch.cut = sum(f != c for f, c in zip(fitted, captions, strict=True))
        batch.caption_ids = processor.caption_ids(fitted)
        rows = zip(captions, batch.caption_ids.tolist(), strict=True)
        batch.caption_group = torch.tensor([text_id(ids, processor.caption_pad) if c else -1 for c, ids in rows])
        batch.label_sets = label_sets(records)
        batch.patients = torch.tensor(eyes_of(samples), dtype=torch.int64).reshape(-1, 2)
    return batch


__all__ = ["Batch", "FundusDataset", "Sample", "collate", "encode", "pad", "stable_hash"]
