"""Photographs of a manifest as the model's inputs, and as embeddings.

Shapes: N photographs, K masks, U the U-Net's input side, E embedding width, C width of a patch token.
"""

import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mdf.errors import UserError
from mdf.evaluation.classification import BROKEN
from mdf.imaging.decode import load_image, load_mask
from mdf.imaging.preprocess import Prepared
from mdf.processor import Inputs
from mdf.records import FundusRecord, Manifest
from mdf.training.devices import cores

AHEAD = 2  # batches decoded while the model works
AT_ONCE = 8  # photographs decoded at once for a GPU


class Progress:
    """A line on stderr at most every `every` seconds: what is done, what is left."""

    def __init__(self, name: str, total: int, every: float = 10.0):
        self.name, self.total, self.every = name, total, every
        self.done, self.start = 0, time.monotonic()
        self.said = self.start

    def step(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.said >= self.every and self.done < self.total:
            self.said, each = now, (now - self.start) / self.done
            left = each * (self.total - self.done)
            print(
                f"{self.name}: {self.done}/{self.total}, {each:.2f} s each, {left / 60:.1f} min left",
                file=sys.stderr,
                flush=True,
            )


def batches(count: int, size: int) -> Iterator[range]:
    """0..count in runs of `size`."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def load_images(records: Sequence[FundusRecord], manifest: Manifest) -> list[np.ndarray]:
    """The photographs themselves, uint8 [H,W,3]."""
    return [load_image(manifest.path(record.image)) for record in records]


def load_inputs(
    model: Any,
    records: Sequence[FundusRecord],
    manifest: Manifest,
    mask_names: Sequence[str] = (),
    images: Sequence[np.ndarray] | None = None,
) -> tuple[Inputs, Any]:
    """The photographs as inputs on the model's device, and [(masks [K,U,U], known [K])] of each. `images` are those of
    `load_images`, where they are at hand.
    """
    prepared = []
    for record, image in zip(records, images or load_images(records, manifest), strict=True):
        masks = {n: load_mask(manifest.path(record.masks[n])) for n in mask_names if n in record.masks}
        prepared.append(model.processor.preprocessing.prepare(image, masks=masks, mask_names=tuple(mask_names)))
    return model.processor.inputs(prepared).to(model.device), [
        (p.masks.numpy(), p.mask_known.numpy()) for p in prepared
    ]


def embed(model: Any, inputs: Inputs, features: str = "embedding") -> np.ndarray:
    """float32 unit vectors: `embedding` [N,E] as the contrastive loss sees them, `pooled` [N,C], the mean of the
    patch tokens before the projection (of a convolutional trunk: its pooled features), which need no text tower, or
    `patches` [N,2C], mean and maximum of the patch tokens, of the photograph and its mirror image, at twice the time.

    Raises UserError where they are not numbers.
    """
    if features == "embedding":
        return known(model.embed_image(inputs))
    return embed_both(model, inputs, features)[1]


def embed_both(model: Any, inputs: Inputs, features: str) -> tuple[np.ndarray, np.ndarray]:
    """`embed` as `embedding` and as other `features`, which share a pass through the encoder."""
    pixels = inputs["pixel_values"].to(model.device)
    embeds, tokens = (part.float() for part in model.encoder(pixels))
    embedding = known(embeds)
    if features == "pooled":
        return embedding, known(F.normalize(tokens.mean(dim=(2, 3)), dim=-1))
    mirrored = model.encoder(pixels.flip(-1))[1].float()
    parts = [tokens.mean(dim=(2, 3)) + mirrored.mean(dim=(2, 3)), tokens.amax(dim=(2, 3)) + mirrored.amax(dim=(2, 3))]
    return embedding, known(torch.cat([F.normalize(part, dim=-1) for part in parts], dim=-1).div(2**0.5))


def known(features: torch.Tensor) -> np.ndarray:
    """float32 [N,·] of a batch. Raises UserError where some are not numbers."""
    found = features.float().cpu().numpy()
    if wrong := int((~np.isfinite(found).all(axis=1)).sum()):
        raise UserError(f"the features of {wrong} of {len(found)} photographs of a batch are not numbers. {BROKEN}")
    return found


@torch.inference_mode()
def embed_records(
    model: Any,
    records: Sequence[FundusRecord],
    manifest: Manifest,
    *,
    batch_size: int = 32,
    features: str = "embedding",
    name: str = "embeddings",
    bad: dict[str, str] | None = None,
) -> np.ndarray:
    """`embed` of all records, float32 [N,·]; the next batches are decoded while the model works on this one.

    With `bad`, photographs that cannot be read are left out and noted there, id -> reason, instead of ending it all.
    """
    found, progress = [], Progress(name, len(records))
    runs = list(batches(len(records), batch_size))
    waiting: deque[list[Future[Prepared | None]]] = deque()

    def prepare(record: FundusRecord) -> Prepared | None:
        try:
            return model.processor.preprocessing.prepare(load_image(manifest.path(record.image)))
        except UserError as error:
            if bad is None:
                raise
            bad[record.id] = str(error)
            return None

    # a GPU waits for decoding; a processor's cores are busy with the model already
    with ThreadPoolExecutor(1 if torch.device(model.device).type == "cpu" else min(AT_ONCE, cores())) as pool:
        try:
            for number, run in enumerate(runs):
                for ahead in runs[number + len(waiting) : number + 1 + AHEAD]:
                    waiting.append([pool.submit(prepare, records[i]) for i in ahead])
                prepared = [ready for one in waiting.popleft() if (ready := one.result()) is not None]
                if prepared:
                    found.append(embed(model, Inputs.of(prepared).to(model.device), features))
                progress.step(len(run))
        finally:
            pool.shutdown(cancel_futures=True)
    return np.concatenate(found) if found else np.zeros((0, 0), dtype=np.float32)


@torch.inference_mode()
def embed_texts(model: Any, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
    """float32 unit vectors [N,E] of texts; a text that stands twice is embedded once."""
    different = sorted(set(texts))
    pieces = [model.embed_text(different[r.start : r.stop]) for r in batches(len(different), batch_size)]
    place = {text: row for row, text in enumerate(different)}
    return torch.cat(pieces).float().cpu().numpy()[[place[text] for text in texts]]
