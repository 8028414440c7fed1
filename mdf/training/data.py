"""The photographs of a stage: loaded, checked to be there, and sorted by whether its losses can learn from them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from mdf import datasets
from mdf.batches import Batch, FundusDataset, Sample, collate
from mdf.config import Config
from mdf.dialogue import Prompts, ask, report_text
from mdf.errors import UserError
from mdf.imaging.mask_files import mask_file
from mdf.processor import MDFProcessor
from mdf.records import FundusRecord, Manifest
from mdf.training.devices import cores
from mdf.training.sampler import Key
from mdf.training.stages import Task

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


def lacks(record: FundusRecord, task: Task, cfg: Config, prompts: Prompts) -> str | None:
    """Why the stage cannot learn from this record, or None."""
    if task.want == ("masks",) and not set(record.masks) & set(cfg.unet.masks):
        return f"no mask of {', '.join(cfg.unet.masks)}"
    if task.wants_captions and not (record.diagnosis or record.findings or report_text(record)):
        return "neither diagnosis, finding nor text"
    if "text" in task.want:
        kinds = [kind for kind, weight in cfg.dialogue.questions.items() if weight > 0]
        if all(ask(record, kind, prompts, (), np.random.default_rng(0)) is None for kind in kinds):
            return f"no question of {', '.join(kinds)} can be answered"
    return None


def suited(
    records: Iterable[FundusRecord], task: Task, cfg: Config, prompts: Prompts, what: str, say: Say
) -> list[FundusRecord]:
    """The records that the stage can learn from; says how many are left out and why."""
    kept, reasons = [], dict[str, int]()
    for record in records:
        reason = lacks(record, task, cfg, prompts)
        if reason is None:
            kept.append(record)
        else:
            reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in reasons.items():
        say(f"{task.name}: {count} {what} photographs left out: {reason}")
    return kept


def stage_data(cfg: Config, task: Task, manifest: Manifest, prompts: Prompts, say: Say) -> StageData:
    """Training and validation records of a stage. Raises UserError where nothing is left or a file is missing."""
    train = suited(manifest.split("train"), task, cfg, prompts, "training", say)
    if not train:
        raise UserError(
            f"{task.name}: none of the {len(manifest.split('train'))} training photographs has what "
            f"{', '.join(task.weights)} needs; take {task.name} out of run.stages or give it other {task.name}.data"
        )
    val = suited(manifest.split("val"), task, cfg, prompts, "validation", say)
    order = np.random.default_rng([cfg.run.seed, 1]).permutation(len(val))[: task.stage.eval_photographs]
    val = [val[i] for i in sorted(order)]
    check_files(manifest, train + val, cfg.unet.masks if "masks" in task.want else ())
    say(f"{task.name}: {len(train)} training and {len(val)} validation photographs")
    return StageData(manifest, train, val)


def check_files(manifest: Manifest, records: list[FundusRecord], masks: tuple[str, ...]) -> None:
    """Raises UserError that names the first files that are not there, before any step is spent."""
    wanted = [r.image for r in records] + [r.masks[name] for r in records for name in masks if name in r.masks]
    missing = [path for path in dict.fromkeys(wanted) if not mask_file(manifest.path(path)).is_file()]
    if missing:
        listed = "".join(f"\n  {manifest.path(path)}" for path in missing[:5])
        more = "\n  …" if len(missing) > 5 else ""
        raise UserError(
            f"{len(missing)} files of the data are missing:{listed}{more}\nCheck data.root or leave the records out"
        )


def dataset(cfg: Config, task: Task, data: StageData, processor: MDFProcessor, *, train: bool) -> FundusDataset:
    """The records of a stage as samples with what its losses need; only training photographs are augmented."""
    return FundusDataset(
        data.train if train else data.val,
        data.manifest,
        processor,
        cfg.dialogue,
        seed=cfg.run.seed,
        augment=cfg.augment if train and task.stage.augment else None,
        masks=cfg.unet.masks if "masks" in task.want else (),
        want_text="text" in task.want,
        want_caption=task.wants_captions,
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
    for batch in loaded:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def loading_workers(device: torch.device, local_processes: int) -> int:
    """Processes that decode photographs: none on a CPU, whose cores the model needs, else what is left of the cores."""
    return 0 if device.type == "cpu" else max(1, min(8, cores() // local_processes - 1))
