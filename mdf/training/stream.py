"""Training photographs out of WebDataset shards: each process reads its own from front to back.

The order is a pure function of (seed, epoch, process, worker), so that a run that is resumed on as many processes and
workers goes on with the very next photograph; it reads again, without decoding, what it had passed in that epoch's
shards. Each process goes through epochs of its own shards: where these hold unequal numbers, a process with fewer
begins its next epoch earlier.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import torch

from mdf.batches import Batch, FundusDataset, Sample, collate
from mdf.config import load_config
from mdf.datasets import shards
from mdf.errors import UserError
from mdf.imaging.preprocess import Crop
from mdf.models.fusion import preprocessing_of
from mdf.records import FundusRecord


def prepare_for(config: str) -> shards.Prepare:
    """Prepared for a configuration: augmented where any of its stages augments. Raises ConfigError."""
    cfg = load_config(config)
    augmented = {getattr(cfg, stage).augment for stage in cfg.run.stages}
    if len(augmented) > 1:
        raise UserError(f"{config}: some stages augment and some do not; each kind needs shards of its own")
    return shards.Prepare(preprocessing_of(cfg), cfg.unet.masks, augmented.pop())


class ShardDataset(FundusDataset):
    """The samples of `FundusDataset`, their files lying in shards. One by one only where few are wanted."""

    def __init__(self, *args: Any, **kwargs: Any):
        """Raises UserError where the shards hold photographs that were prepared for another model or stage."""
        super().__init__(*args, **kwargs)
        prepared = self.manifest.meta["shards"]["prepared"]
        if not prepared:
            return
        own = self.processor.preprocessing.hash()
        if prepared["hash"] != own:
            raise UserError(
                f"{self.manifest.root} holds photographs prepared for other sizes or colours than this model's "
                f"({prepared['hash']}, the model's is {own}); write them again with this configuration"
            )
        if lacking := set(self.masks) - set(prepared["masks"]):
            raise UserError(f"{self.manifest.root} was prepared without the masks {', '.join(sorted(lacking))}")

    def crop(self, record: FundusRecord) -> Crop:
        wanted = [path for _, path in self.paths(record)]
        root = self.manifest.root
        members = {shards.field_of(path): shards.read_member(root, path) for path in dict.fromkeys(wanted)}
        return self.crop_of(record, members)

    def crop_of(self, record: FundusRecord, members: dict[str, bytes]) -> Crop:
        """The crop from what a shard holds of the record."""
        augmented = self.augment is not None
        crop = shards.crop_of(record, members, self.processor.preprocessing, self.masks, augmented)
        if crop.augmented != augmented:
            made, wanted = (("to be augmented" if a else "without augmentation") for a in (crop.augmented, augmented))
            raise UserError(f"{record.image} was prepared {made} and is wanted {wanted}; write the shards again for it")
        return crop


class ShardStream(torch.utils.data.IterableDataset):
    """Batches of a process's training photographs without end, the first `skip` of each worker left out.

    Yields a UserError in the place of a batch that cannot be made.
    """

    def __init__(self, samples: ShardDataset, seed: int, batch_size: int, rank: int, processes: int, skip: int):
        self.samples, self.seed, self.batch_size = samples, seed, batch_size
        self.rank, self.processes, self.skip = rank, processes, skip
        self.by_key = {shards.key_of(r.image): r for r in samples.records}
        self.served = Counter(shards.shard_of(r.image) for r in samples.records)  # photographs of each shard

    def __iter__(self) -> Iterator[Batch | UserError]:
        rows: list[Sample] = []
        try:
            for record, epoch, members in self.photographs():
                rows.append(self.samples.sample(record, epoch, self.samples.crop_of(record, members)))
                if len(rows) == self.batch_size:
                    yield collate(rows, self.samples.processor)
                    rows = []
        except UserError as error:
            yield error

    def photographs(self) -> Iterator[tuple[FundusRecord, int, dict[str, bytes]]]:
        """Record, epoch and bytes of every photograph that serves the stage, epoch after epoch.

        Epochs that were passed before are counted, not read; within an epoch what was passed is read again.
        """
        passed = self.skip * self.batch_size
        for epoch in count():
            share = {"seed": self.seed, "rank": self.rank, "processes": self.processes, "epoch": epoch}
            size = sum(self.served[name] for name in shards.own_shards(self.samples.manifest, "train", **share))
            if passed >= size:  # also where none of these shards serves the stage: the next epoch gives others
                passed -= size
                continue
            for key, members in shards.stream(self.samples.manifest, "train", **share):
                if key not in self.by_key:
                    continue
                if passed:
                    passed -= 1
                else:
                    yield self.by_key[key], epoch, members


def streamed(
    samples: ShardDataset, seed: int, batch_size: int, rank: int, processes: int, *, start: int, workers: int
) -> Iterator[Batch | UserError]:
    """The batches of this process from number `start` on, read by as many of `workers` as have shards of their own."""
    own = len(samples.manifest.meta["shards"]["splits"]["train"]) // processes
    workers = min(workers, own)
    turns = max(workers, 1)  # batch number n is made by worker n % turns
    stream = ShardStream(samples, seed, batch_size, rank, processes, start // turns)
    loaded = torch.utils.data.DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),
        prefetch_factor=2 if workers else None,
    )
    batches = iter(loaded)
    for _ in range(start % turns):
        next(batches)
    yield from batches
