"""The photographs of a stage: loaded, checked to be there, and sorted by whether its losses can learn from them."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from mdf import datasets
from mdf.batches import Batch, FundusDataset, Sample, can_be_asked, collate, label_id, person_of
from mdf.captions import can_be_aligned, caption, needed, tell_cut
from mdf.config import CaptionsConfig, Config, DataConfig
from mdf.dialogue import SMALL_LESIONS, Prompts, ask
from mdf.errors import UserError
from mdf.imaging.cache import PreparedCache
from mdf.imaging.mask_files import mask_file
from mdf.processor import MDFProcessor
from mdf.records import FundusRecord, Manifest
from mdf.resources import cache_dir
from mdf.training.devices import cores
from mdf.training.sampler import Key, Sampler, groups_of, pairs_of
from mdf.training.stages import BY_LABEL, Task
from mdf.training.stream import ShardDataset, streamed
from mdf.vocabulary import NORMAL

Say = Callable[[str], None]


@dataclass(frozen=True)
class StageData:
    manifest: Manifest
    train: list[FundusRecord]
    val: list[FundusRecord]


def load_manifests(cfg: Config) -> dict[str, Manifest]:
    """The manifest of each stage of the run; stages that read the same data share one."""
    manifests: dict[str, Manifest] = {}
    seen: list[tuple] = []
    for name in cfg.run.stages:
        wanted = getattr(cfg, name).data or cfg.data
        manifest = next((m for w, m in seen if w == wanted), None)
        if manifest is None:
            manifest = datasets.load(wanted, cfg.run.seed)
            seen.append((wanted, manifest))
        manifests[name] = manifest
    return manifests


def diagnoses_of(manifests: dict[str, Manifest]) -> tuple[str, ...]:
    """Every diagnosis among the training photographs, sorted: what the model is asked to choose from."""
    return tuple(sorted({d for m in manifests.values() for r in m.split("train") for d in r.diagnosis or ()}))


def data_of(cfg: Config, task: Task) -> DataConfig:
    """The settings of a stage's data: its own, or the run's."""
    return task.stage.data or cfg.data


def can_be_grounded(record: FundusRecord, prompts: Prompts, cfg: Config) -> bool:
    """Whether there may be an answer about a lesion or part whose mask is known."""
    known = set(record.masks) & set(cfg.unet.masks)
    kinds = [kind for kind, weight in cfg.dialogue.questions.items() if weight > 0 and known]
    asked = (ask(record, kind, prompts, (), finding=name) for kind in kinds for name in SMALL_LESIONS)
    return any(question is not None and question.finding in known for question in asked)


def lacks(record: FundusRecord, task: Task, cfg: Config, prompts: Prompts) -> dict[str, str]:
    """The losses of the stage that cannot learn from this record, and why."""
    lacking: dict[str, str] = {}
    for loss in task.weights:
        if loss == "mask" and not set(record.masks) & set(cfg.unet.masks):
            lacking[loss] = f"no mask of {', '.join(cfg.unet.masks)}"
        elif loss in task.contrasts and not can_be_aligned(record, cfg.captions):
            lacking[loss] = needed(cfg.captions)
        elif loss == "patient" and person_of(record) is None:
            lacking[loss] = "patient or eye not known"
        elif loss == "text" and not can_be_asked(record, prompts, cfg.dialogue):
            kinds = [kind for kind, weight in cfg.dialogue.questions.items() if weight > 0]
            lacking[loss] = f"no question of {', '.join(kinds)} can be answered"
        elif loss == "grounding" and not can_be_grounded(record, prompts, cfg):
            lacking[loss] = f"no answer about one of {', '.join(cfg.unet.masks)} that has a mask"
    return lacking


def suited(
    records: Iterable[FundusRecord], task: Task, cfg: Config, prompts: Prompts, what: str, say: Say
) -> list[FundusRecord]:
    """The records that at least one loss of the stage can learn from; says how many are left out, or serve only some.

    A loss that none of them serves is named aloud.
    """
    kept: list[FundusRecord] = []
    reasons: Counter[tuple[str, str]] = Counter()
    served: Counter[str] = Counter()
    for record in records:
        lacking = lacks(record, task, cfg, prompts)
        if len(lacking) < len(task.weights):
            kept.append(record)
            served.update(loss for loss in task.weights if loss not in lacking)
            reasons.update(("do not serve " + loss, reason) for loss, reason in lacking.items())
        else:
            reasons["left out", "; ".join(dict.fromkeys(lacking.values()))] += 1
    for (effect, reason), count in reasons.items():
        say(f"{task.name}: {count} {what} photographs {effect}: {reason}")
    for loss in task.weights if kept else ():
        if not served[loss]:
            say(f"{task.name}: WARNING: none of the {len(kept)} {what} photographs serves the loss {loss}")
    return kept


def chosen(cfg: Config, task: Task, manifest: Manifest, split: str, prompts: Prompts, say: Say) -> list[FundusRecord]:
    """The records that a stage trains on ("train") or is judged by ("val"), of all that the manifest has of them."""
    what = {"train": "training", "val": "validation"}[split]
    found = suited(weighted(manifest, split, data_of(cfg, task)), task, cfg, prompts, what, say)
    return some_of(found, task, cfg) if split == "val" else found


def stage_data(cfg: Config, task: Task, manifest: Manifest, prompts: Prompts, say: Say) -> StageData:
    """Training and validation records of a stage. Raises UserError where nothing is left or a file is missing."""
    masks = cfg.unet.masks if task.wants_masks else ()
    found: dict[str, list[FundusRecord]] = {}
    for split in ("train", "val"):
        found[split] = chosen(cfg, task, manifest, split, prompts, say)
        if split == "train" and not found[split]:
            records = weighted(manifest, split, data_of(cfg, task))
            raise UserError(
                f"{task.name}: none of the {len(records)} training photographs has what {', '.join(task.weights)} "
                f"needs; take {task.name} out of run.stages or give it other {task.name}.data"
            )
    sharded = "shards" in manifest.meta  # whose files were looked at when the index was read
    missing = [] if sharded else missing_files(manifest, found["train"] + found["val"], masks)
    if missing:
        first = "".join(f"\n  {manifest.path(path)}" for path in missing[:5]) + ("\n  …" if len(missing) > 5 else "")
        text = f"{len(missing)} files of the data are missing:{first}"
        if data_of(cfg, task).missing == "stop":
            raise UserError(f"{text}\nCheck data.root or leave the records out, or set data.missing=skip")
        # they stay in the order of the stage, which would be another one if they came back before a --resume
        say(f"{task.name}: {text}\nThey are left out wherever they are drawn, as data.missing=skip says")
    refuse_one_class(found["train"], task, cfg, prompts)
    say(f"{task.name}: {len(found['train'])} training and {len(found['val'])} validation photographs")
    if task.by_patient:
        say(f"{task.name}: {len(pairs_in(found['train'], cfg))} times both eyes of a patient to train on, side by side")
    if weights := data_of(cfg, task).weights:
        drawn = sorted({r.source or "" for r in found["train"]})
        total = sum(weights[name] for name in drawn)
        say(f"{task.name}: drawn from " + ", ".join(f"{name or '-'} {weights[name] / total:.1%}" for name in drawn))
    return StageData(manifest, found["train"], found["val"])


def some_of(records: list[FundusRecord], task: Task, cfg: Config) -> list[FundusRecord]:
    """`eval_photographs` of them, in their order; with the loss patient both eyes or none, which come first."""
    pairs = pairs_in(records, cfg) if task.by_patient else ()
    paired = {place for pair in pairs for place in pair}
    units = [*pairs, *((place,) for place in range(len(records)) if place not in paired)]
    order = np.random.default_rng([cfg.run.seed, 1]).permutation(len(units))
    before = np.cumsum([0, *(len(units[i]) for i in order)])[:-1]
    return [records[place] for i in sorted(order[before < task.stage.eval_photographs]) for place in units[i]]


def refuse_one_class(records: list[FundusRecord], task: Task, cfg: Config, prompts: Prompts) -> None:
    """Raises UserError where all photographs are the same to a contrastive loss."""
    # reports may begin with the same sentence: compared are whole ones
    whole = CaptionsConfig({"text" if k == "sentences" else k: weight for k, weight in cfg.captions.weights.items()})
    for loss in task.contrasts:
        able = [r for r in records if can_be_aligned(r, cfg.captions)]
        serving = [r for r in able if loss != "patient" or person_of(r)]
        shown = "diagnosis" if loss in BY_LABEL else "caption"
        of = label_id if loss in BY_LABEL else partial(caption, prompts=prompts, cfg=whole)
        if serving and all(of(record) == of(serving[0]) for record in serving):
            what = ", ".join(serving[0].diagnosis or ("none",)) if loss in BY_LABEL else of(serving[0])
            raise UserError(
                f"{task.name}.losses.{loss}: the {len(serving)} training photographs that serve it have one {shown}, "
                f"{what!r}, so that there is nothing to contrast; give the stage data with several ({task.name}.data), "
                f"or leave the loss out ({task.name}.losses.{loss}=null)"
            )


def refuse_small_batch(task: Task, processes: int) -> None:
    """Raises UserError where the photographs that are compared at once are one, or all of one patient."""
    needed = 4 if task.by_patient else 2
    size = task.stage.batch_size * processes
    if task.contrasts and size < needed:
        one = "one patient" if task.by_patient else "one photograph"
        raise UserError(
            f"{task.name}.batch_size: {task.stage.batch_size} on {processes} process{'es' if processes > 1 else ''} is "
            f"{one} at a time, which {', '.join(task.contrasts)} can compare with nothing (accumulation adds no "
            f"comparison); at least {task.name}.batch_size={-(-needed // processes)}, and better far more"
        )


def weighted(manifest: Manifest, split: str, data: DataConfig) -> list[FundusRecord]:
    """The records of a split whose source has a weight above 0. Raises UserError where a source has none at all."""
    if not data.weights:
        return manifest.split(split)
    sources = {r.source or "" for r in manifest.records}
    without, unknown = sorted(sources - set(data.weights)), sorted(set(data.weights) - sources)
    if without or unknown:
        raise UserError(
            f"data.weights: the data's sources are {', '.join(map(repr, sorted(sources)))}"
            + (f"; no weight is given to {', '.join(map(repr, without))} (0 leaves a source out)" if without else "")
            + (f"; there is no {', '.join(map(repr, unknown))}" if unknown else "")
        )
    return [r for r in manifest.split(split) if data.weights[r.source or ""] > 0]


def sampler_of(cfg: Config, task: Task, records: list[FundusRecord], rank: int = 0, processes: int = 1) -> Sampler:
    """The order in which a stage draws its training photographs. Raises UserError where a batch can compare nothing."""
    refuse_small_batch(task, processes)
    weights = data_of(cfg, task).weights
    sources = tuple(r.source or "" for r in records) if weights else None
    pairs = pairs_in(records, cfg) if task.by_patient else None
    diagnoses = [r.diagnosis for r in records]
    for right, left in pairs or ():  # balanced by what either eye has: normal is a patient whose eyes both are
        either = {*(diagnoses[right] or ()), *(diagnoses[left] or ())}
        diagnoses[right] = diagnoses[left] = tuple(either - {NORMAL} or either)
    return Sampler(
        len(records),
        cfg.run.seed,
        task.stage.batch_size,
        task.stage.accumulation,
        rank,
        processes,
        groups_of(diagnoses) if task.stage.balance else None,
        sources,
        tuple((name, weights[name]) for name in sorted(set(sources))) if sources else (),
        pairs,
        bucket=task.stage.bucket,
    )


def pairs_in(records: list[FundusRecord], cfg: Config) -> tuple[tuple[int, int], ...]:
    """(right, left) places of photographs of one patient's eyes, of one visit as far as they go (see `pairs_of`)."""
    people = (
        (person_of(r), r.study, r.eye) if can_be_aligned(r, cfg.captions) and person_of(r) else None for r in records
    )
    return pairs_of(list(people))


def missing_files(manifest: Manifest, records: list[FundusRecord], masks: tuple[str, ...]) -> list[str]:
    """Relative paths of files that are not there, found before any step is spent."""
    wanted = dict.fromkeys((r.image, manifest.path(r.image)) for r in records)
    drawn = (r.masks[name] for r in records for name in masks if name in r.masks)
    wanted |= dict.fromkeys((path, mask_file(manifest.path(path))) for path in drawn)
    return [path for path, file in wanted if not file.is_file()]


@lru_cache(maxsize=4)
def cache_of(gigabytes: float, folder: Path) -> PreparedCache | None:
    """The cache of prepared photographs, where there is room for one; its size is counted once a process."""
    return PreparedCache(gigabytes, folder) if gigabytes else None


def dataset(cfg: Config, task: Task, data: StageData, processor: MDFProcessor, *, train: bool) -> FundusDataset:
    """The records of a stage as samples with what its losses need; only training photographs are augmented."""
    kind = ShardDataset if "shards" in data.manifest.meta else FundusDataset
    return kind(
        data.train if train else data.val,
        data.manifest,
        processor,
        cfg.dialogue,
        cfg.captions,
        seed=cfg.run.seed,
        augment=cfg.augment if train and task.stage.augment else None,
        masks=cfg.unet.masks if task.wants_masks else (),
        want_text="text" in task.want,
        want_caption=task.wants_captions,
        cache=cache_of(data_of(cfg, task).cache_gb, cache_dir() / "prepared"),
        skip_missing=data_of(cfg, task).missing == "skip",
    )


class Guarded(torch.utils.data.Dataset):
    """Samples, or the UserError in a sample's place: raised in a worker it would arrive wrapped in a traceback."""

    def __init__(self, samples: FundusDataset):
        self.samples = samples

    def __getitem__(self, key: Key) -> Sample | UserError:
        try:
            return self.samples[key]
        except UserError as error:
            return error


def loader(samples: FundusDataset, batches: Iterable[list[Key]], *, workers: int) -> Iterator[Batch]:
    """Batches in the order of `batches`; the loader draws its own random numbers, so that it leaves torch's alone.

    Raises UserError for a photograph that cannot be read, whichever process read it.
    """

    def together(rows: list[Sample | UserError]) -> Batch | UserError:
        try:
            return next((r for r in rows if isinstance(r, UserError)), None) or collate(rows, samples.processor)  # type: ignore[arg-type]
        except UserError as error:
            return error

    loaded = torch.utils.data.DataLoader(
        Guarded(samples),
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=together,
        num_workers=workers,
        generator=torch.Generator(),
        persistent_workers=False,
        prefetch_factor=2 if workers else None,
    )
    return whole(loaded)


def whole(batches: Iterable[Batch | UserError]) -> Iterator[Batch]:
    """The batches, naming what is missing from them and saying once that captions are cut.

    Raises the UserError that stands in a batch's place.
    """
    for batch in batches:
        if isinstance(batch, UserError):
            raise batch
        for path in batch.missing:
            print(f"note: {path} is gone; it is left out, as data.missing=skip says", file=sys.stderr)
        if batch.cut:
            tell_cut()
        yield batch


def training_batches(
    samples: FundusDataset, sampler: Sampler, *, done: int, total: int, workers: int
) -> Iterator[Batch]:
    """The micro-batches of this process for the optimiser steps after `done` up to `total`."""
    if isinstance(samples, ShardDataset):
        start = done * sampler.accumulation
        share = (sampler.batch_size, sampler.rank, sampler.processes)
        return whole(streamed(samples, sampler.seed, *share, start=start, workers=workers))
    sampler = replace(sampler, length=samples.length)
    count = (total - done) * sampler.accumulation
    return loader(samples, FirstOf(sampler.after(done), count), workers=workers)


class FirstOf:
    """The first `count` batches of a sampler that never ends."""

    def __init__(self, sampler: Sampler, count: int):
        self.sampler, self.count = sampler, count

    def __iter__(self) -> Iterator[list[Key]]:
        return (batch for _, batch in zip(range(self.count), self.sampler, strict=False))

    def __len__(self) -> int:
        return self.count


def loading_workers(device: torch.device, local_processes: int) -> int:
    """Processes that decode photographs: none on a CPU, whose cores the model needs, else what is left of the cores."""
    return 0 if device.type == "cpu" else max(1, min(8, cores() // local_processes - 1))
