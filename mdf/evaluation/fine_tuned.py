"""A plainly fine-tuned CNN: an encoder's image tower and one linear layer, trained on the diagnosis alone.

What a fusion with a language model has to beat. Pixels come through the encoder's own preprocessing, so that both are
shown the same; cross-entropy is weighted by the inverse frequency of the classes, every epoch is judged on the
validation photographs, and the one with the best balanced accuracy is kept.

Shapes: B photographs of a batch, N of a split, S the encoder's side, C classes.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mdf.config import AugmentConfig
from mdf.errors import UserError
from mdf.evaluation.photographs import AHEAD, AT_ONCE, Progress, batches
from mdf.evaluation.probe import score
from mdf.imaging.augment import Transform, sample
from mdf.imaging.decode import load_image
from mdf.imaging.preprocess import Crop, Preprocessing
from mdf.models.fundus_encoder import FundusEncoder
from mdf.prototypes import truth_table
from mdf.records import FundusRecord, Manifest
from mdf.training.devices import choose_precision, cores
from mdf.training.optimizer import decays, share_of_peak
from mdf.training.saving import read_tensors, recover, write_folder, write_tensors

STATE = "state.pt"
KEPT = 4e9  # bytes of cut and scaled photographs held in memory; further ones are made anew each epoch
JUDGED_AT_ONCE = 64


@dataclass(frozen=True)
class Recipe:
    """How the CNN is trained; the settings of AdamW are usual ones for fine-tuning."""

    epochs: int = 6
    batch_size: int = 32
    lr: float = 5e-4  # peak, after the warm-up; then half a cosine to 0
    weight_decay: float = 0.05
    warmup: float = 0.1  # share of the steps
    dropout: float = 0.2  # before the linear layer
    seed: int = 0
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(flip=0.5))

    def check(self) -> None:
        """Raise UserError for what cannot be trained with."""
        if self.epochs < 1 or self.batch_size < 2 or not 0 < self.lr < 1:
            raise UserError("--epochs must be at least 1, --batch-size at least 2, --lr above 0 and below 1")


@dataclass(frozen=True)
class Labelled:
    """N photographs and their true classes, at least one of each."""

    records: Sequence[FundusRecord]
    truth: Sequence[Sequence[str]]


class CNN(nn.Module):
    """The mean of an encoder's patch tokens before its projection, and one linear layer."""

    def __init__(self, encoder: FundusEncoder, classes: int, dropout: float):
        super().__init__()
        self.encoder = encoder
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(encoder.width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def train(self, mode: bool = True) -> "CNN":
        """Unlike in our own stages BatchNorm learns the statistics of the photographs, as it is usual."""
        super().train(mode)
        self.encoder.clip.visual.train(mode)
        return self

    def forward(self, pixel_values: Tensor) -> Tensor:
        """float [B,3,S,S] -> logits float32 [B,C]."""
        pooled = self.encoder.features(pixel_values)[1].float().mean(dim=(2, 3))
        return self.head(self.dropout(pooled)).float()

    def tensors(self) -> dict[str, Tensor]:
        """What is saved: image tower and linear layer, without the encoder's text tower."""
        return {n: t for n, t in self.state_dict().items() if n.startswith(("encoder.clip.visual.", "head."))}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The reverse of `tensors`."""
        wanted = self.state_dict()
        assert tensors.keys() == self.tensors().keys()
        self.load_state_dict(wanted | tensors)


class Photographs:
    """Records as pixels for an encoder; what is the same in every epoch is kept in memory, as far as it fits."""

    def __init__(self, preprocessing: Preprocessing, manifest: Manifest, limit: float = KEPT):
        self.preprocessing, self.manifest, self.room = preprocessing, manifest, limit
        self.kept: dict[tuple[str, bool], Crop] = {}

    def __call__(self, record: FundusRecord, transform: Transform | None = None) -> Tensor:
        """float32 [3,S,S]. Raises UserError for a photograph that cannot be read."""
        key = record.id, transform is not None
        crop = self.kept.get(key)
        if crop is None:
            image = load_image(self.manifest.path(record.image))
            crop = self.preprocessing.crop(image, augmented=transform is not None)
            size = sum(part.nbytes for part in (*crop.pictures, crop.covers))
            if size <= self.room:
                self.room -= size
                self.kept[key] = crop
        return self.preprocessing.finish(crop, (), transform).pixel_values


def loaded(runs: Iterable[list[Any]], load: Callable[[Any], Tensor], device: torch.device) -> Iterator[Tensor]:
    """`load` of all keys of each run, stacked; a GPU's next ones are loaded meanwhile, a processor has no hand free."""
    if device.type == "cpu":
        for run in runs:
            yield torch.stack([load(key) for key in run])
        return
    waiting: deque[list[Future[Tensor]]] = deque()
    with ThreadPoolExecutor(min(AT_ONCE, cores())) as pool:
        try:
            for run in runs:
                waiting.append([pool.submit(load, key) for key in run])
                if len(waiting) > AHEAD:
                    yield torch.stack([one.result() for one in waiting.popleft()]).to(device)
            while waiting:
                yield torch.stack([one.result() for one in waiting.popleft()]).to(device)
        finally:
            pool.shutdown(cancel_futures=True)


@torch.inference_mode()
def probabilities(
    cnn: CNN, photographs: Photographs, records: Sequence[FundusRecord], precision: str, name: str = ""
) -> np.ndarray:
    """float [N,C] of records in eval mode; with a `name` progress is told."""
    cnn.eval()
    device = cnn.head.weight.device
    runs = [[records[i] for i in rows] for rows in batches(len(records), JUDGED_AT_ONCE)]
    found, progress = [], Progress(name, len(records))
    for pixels in loaded(runs, photographs, device):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = cnn(pixels)
        found.append(logits.double().softmax(dim=1).cpu().numpy())
        if name:
            progress.step(len(pixels))
    return np.concatenate(found)


class FineTuning:
    """Training of a CNN epoch by epoch, and where it stands; `folder` keeps the last whole epoch."""

    def __init__(
        self,
        encoder: FundusEncoder,
        photographs: Photographs,
        train: Labelled,
        val: Labelled,
        classes: Sequence[str],
        recipe: Recipe,
        folder: Path,
    ):
        """`encoder` is copied and stays as it is. An interrupted training that left its state in `folder` goes on."""
        recipe.check()
        self.photographs, self.train, self.val, self.recipe, self.folder = photographs, train, val, recipe, folder
        self.classes = list(classes)
        device = next(encoder.parameters()).device
        self.device, self.precision = device, choose_precision("auto", cuda=device.type == "cuda")[0]
        self.cnn = CNN(deepcopy(encoder), len(classes), recipe.dropout).to(device)
        for name, parameter in self.cnn.named_parameters():
            parameter.requires_grad_(name in self.cnn.tensors())
        targets = truth_table(train.truth, classes).astype(np.float32)
        targets /= targets.sum(axis=1, keepdims=True)  # of several true classes each has its share
        count = targets.sum(axis=0)
        weight = np.divide(len(targets), count * (count > 0).sum(), out=np.zeros_like(count), where=count > 0)
        self.targets = torch.from_numpy(targets * weight)  # [N,C]
        decaying: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in self.cnn.named_parameters():
            if parameter.requires_grad:
                decaying[decays(name, parameter)].append(parameter)
        groups = [{"params": p, "weight_decay": recipe.weight_decay * d} for d, p in decaying.items() if p]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, fused=True)
        self.steps = max(1, len(train.records) // recipe.batch_size)  # of an epoch; the rest is drawn in another one
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {"score": -1.0}
        recover(folder)
        if (folder / STATE).is_file():
            self.restore(read_tensors(folder / STATE))

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `save` was called."""
        self.cnn.load(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history, self.best = state["history"], state["best"]
        print(f"cnn: resumed after epoch {len(self.history)} of {self.recipe.epochs}", file=sys.stderr, flush=True)

    def save(self) -> None:
        """Keep the epochs so far, whole or not at all."""
        state = {
            "model": self.cnn.tensors(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "best": self.best,
        }
        write_folder(self.folder, lambda draft: write_tensors(draft / STATE, state))

    def fit(self, until: int | None = None) -> CNN:
        """Train up to the last epoch (or to epoch `until`) and return the CNN of the best one, in eval mode."""
        last = self.recipe.epochs if until is None else until
        progress = Progress("cnn", max(0, last - len(self.history)) * self.steps * self.recipe.batch_size)
        for epoch in range(len(self.history), last):
            loss = self.epoch(epoch, progress)
            table = probabilities(self.cnn, self.photographs, self.val.records, self.precision)
            line: dict[str, Any] = {"epoch": epoch + 1, "loss": loss}
            for name in ("balanced_accuracy", "macro_auroc"):
                line[name] = score(name, self.val.truth, table, self.classes)
            self.history.append(line)
            better = line["balanced_accuracy"] > self.best["score"]
            if better:
                model = {n: t.detach().clone().cpu() for n, t in self.cnn.tensors().items()}
                self.best = {"score": line["balanced_accuracy"], "epoch": epoch + 1, "model": model}
            self.save()
            print(
                f"cnn: epoch {epoch + 1}/{self.recipe.epochs}  loss {loss:.3f}  val balanced accuracy "
                f"{line['balanced_accuracy']:.3f}  macro AUROC {line['macro_auroc']:.3f}" + "  (best)" * better,
                file=sys.stderr,
                flush=True,
            )
        self.cnn.load(self.best["model"])
        return self.cnn.eval()

    def epoch(self, number: int, progress: Progress) -> float:
        """One pass over the training photographs; returns the mean loss. A pure function of the state and `number`."""
        recipe, size = self.recipe, self.recipe.batch_size
        order = np.random.default_rng([recipe.seed, number]).permutation(len(self.train.records)).tolist()
        runs = [order[step * size : (step + 1) * size] for step in range(self.steps)]

        def load(row: int) -> Tensor:
            transform = sample(recipe.augment, np.random.default_rng([recipe.seed, number, row]))
            return self.photographs(self.train.records[row], transform)

        self.cnn.train()
        losses = []
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # dropout
            torch.manual_seed(int(np.random.SeedSequence([recipe.seed, number]).generate_state(1)[0]))
            for step, pixels in enumerate(loaded(runs, load, self.device)):
                at = number * self.steps + step
                for group in self.optimizer.param_groups:
                    group["lr"] = recipe.lr * share_of_peak(at, recipe.epochs * self.steps, recipe.warmup)
                targets = self.targets[runs[step]].to(self.device)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    logits = self.cnn(pixels)
                loss = -(targets * logits.log_softmax(dim=1)).sum() / targets.sum()
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
                losses.append(loss.detach())
                progress.step(len(pixels))
        mean = float(torch.stack(losses).mean())
        if not np.isfinite(mean):
            raise UserError(
                f"cnn: the loss of epoch {number + 1} is not finite; take a smaller --lr than {recipe.lr:g}"
            )
        return mean
