"""How a stage does on validation photographs while it trains: its losses, Dice, and answers to read.

Shapes: B photographs of a micro-batch, K masks, U U-Net input side.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mdf.batches import Batch, FundusDataset
from mdf.config import Config
from mdf.dialogue import Prompts, Question, Turn, ask
from mdf.imaging.preprocess import Prepared
from mdf.processor import Inputs
from mdf.records import FundusRecord
from mdf.training.data import StageData, dataset, loader
from mdf.training.stages import Task

SAMPLED_KINDS = ("diagnosis", "presence", "report")  # questions of which answers are written to samples/


def shares(
    photographs: int, batch_size: int, rank: int, processes: int, together: int = 1
) -> list[list[tuple[int, int]]]:
    """This process's batches of keys, as many and as large as every other's.

    Losses that compare the photographs of all processes need a batch on each at the same time, so a few (fewer than
    `processes` times `together`, how many stand side by side) may be left out; none on one process.
    """
    usable = photographs - photographs % (processes * together if processes > 1 else 1)
    batches = []
    for start in range(0, usable, batch_size * processes):
        size = min(batch_size * processes, usable - start) // processes
        batches.append([(0, start + rank * size + i) for i in range(size)])
    return batches


def overlap(mask_logits: Tensor, batch: Batch) -> Tensor:
    """[2,K]: twice the pixels that prediction (p > 0.5) and truth share, and their sum, inside the field."""
    assert batch.masks is not None and batch.mask_known is not None
    inside = (batch.field & batch.mask_known[..., None, None]).double()
    predicted, truth = (mask_logits > 0).double() * inside, batch.masks.double() * inside
    return torch.stack([2 * (predicted * truth).sum((0, 2, 3)), (predicted + truth).sum((0, 2, 3))])


@torch.no_grad()
def validate(
    accelerator: Any, model: Any, task: Task, cfg: Config, data: StageData, processor: Any, workers: int
) -> dict[str, float]:
    """val_loss, val_loss_NAME for each term, and for masks val_dice_NAME and their mean val_dice.

    Dice is of all validation pixels together (one number a mask), since most photographs hold no lesion of a given
    kind; a mask that no validation photograph shows has none. All processes return the same. {} without validation
    photographs.
    """
    own = accelerator.process_index, accelerator.num_processes
    batches = shares(len(data.val), task.stage.batch_size, *own, together=2 if task.by_patient else 1)
    if not batches:
        return {}
    model.eval()
    names, masks = list(task.weights), cfg.unet.masks if "mask" in task.weights else ()
    sums = torch.zeros(2, len(names), dtype=torch.float64)
    pixels = torch.zeros(2, len(masks), dtype=torch.float64)
    for batch in loader(dataset(cfg, task, data, processor, train=False), batches, workers=workers):
        batch = batch.to(accelerator.device)
        terms, out = task(model, batch)
        sums += torch.tensor([[float(terms[n][0]) for n in names], [terms[n][1] for n in names]], dtype=torch.float64)
        if masks:
            pixels += overlap(out.mask_logits, batch).cpu()
    model.train()
    both = accelerator.reduce(torch.cat([sums, pixels], 1).to(accelerator.device), "sum").cpu()
    sums, pixels = both[:, : len(names)], both[:, len(names) :]
    losses = {n: float(sums[0, i] / sums[1, i].clamp(min=1)) for i, n in enumerate(names)}
    found = {"val_loss": sum(task.weights[n] * value for n, value in losses.items())}
    found |= {f"val_loss_{n}": value for n, value in losses.items()}
    dice = {m: float(pixels[0, k] / pixels[1, k]) for k, m in enumerate(masks) if pixels[1, k] > 0}
    if dice:
        found["val_dice"] = float(np.mean(list(dice.values())))
        found |= {f"val_dice_{m}": value for m, value in dice.items()}
    return found


def score_of(found: dict[str, float], task: Task) -> float:
    """What the best checkpoint is chosen by, higher is better: mean Dice where only masks train, else -loss."""
    return found["val_dice"] if task.want == ("masks",) and "val_dice" in found else -found["val_loss"]


def questions(record: FundusRecord, prompts: Prompts, diagnoses: tuple[str, ...]) -> list[Question]:
    """What a validation photograph is asked for the samples; the same at every step."""
    drawn = {"presence": np.random.default_rng(0)}  # which lesion it asks about; the others have their first phrasing
    asked = (ask(record, kind, prompts, diagnoses, drawn.get(kind)) for kind in SAMPLED_KINDS)
    return [q for q in asked if q is not None]


@torch.no_grad()
def write_samples(accelerator: Any, model: Any, samples: FundusDataset, count: int, title: str) -> str:
    """Markdown with question, reference and answer of the first `count` photographs; `model` is the bare MDFModel."""
    model.eval()
    processor = model.processor
    asked: list[tuple[FundusRecord, Question, Prepared]] = []
    for number, record in enumerate(samples.records[:count]):
        shown = samples[0, number]
        if shown.missing is None:
            of_record = questions(record, processor.prompts, processor.diagnoses)
            asked += [(record, question, shown.prepared) for question in of_record]
    lines, last = [f"# {title}"], None
    turns = [[model.system_turn(), Turn("user", question.text)] for _, question, _ in asked]
    with accelerator.autocast():
        inputs = Inputs.of([prepared for *_, prepared in asked]) if asked else None
        answers = model.generate_answers(inputs, turns, max_new_tokens=64) if asked else []
    for (record, question, _), answer in zip(asked, answers, strict=True):
        if record is not last:
            lines += ["", f"## {record.id}", ""]
        lines += [f"- **{question.text}**", f"  - reference: {question.answer}", f"  - answer: {answer}"]
        last = record
    model.train()
    return "\n".join([*lines, ""])
