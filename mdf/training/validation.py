"""How a stage does on validation photographs while it trains: its losses, Dice, zero-shot quality, how its embeddings
are spread, and answers to read.

Shapes: B photographs of a micro-batch, N of a validation, K masks, U U-Net input side, E embedding width.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mdf.batches import Batch, FundusDataset
from mdf.config import Config
from mdf.dialogue import Prompts, Question, Turn, ask
from mdf.errors import UserError
from mdf.imaging.preprocess import Prepared
from mdf.prototypes import class_embeddings, class_texts, mean_recall, truths
from mdf.records import FundusRecord
from mdf.training.data import StageData, dataset, loader
from mdf.training.health import alignment, effective_rank, uniformity
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
    """val_loss, val_loss_NAME for each term; for masks val_dice_NAME and their mean val_dice; and where photographs are
    compared with captions what `embedding_figures` says.

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
    pairs: list[Tensor] = []
    captions: list[Tensor] = []
    for batch in loader(dataset(cfg, task, data, processor, train=False), batches, workers=workers):
        batch = batch.to(accelerator.device)
        terms, out = task(model, batch)
        sums += torch.tensor([[float(terms[n][0]) for n in names], [terms[n][1] for n in names]], dtype=torch.float64)
        if masks:
            pixels += overlap(out.mask_logits, batch).cpu()
        if "contrastive" in task.want:
            pairs.append(torch.stack([out.image_embeds, out.text_embeds], 1).float())
            assert batch.caption_group is not None
            captions.append(batch.caption_group)
    both = accelerator.reduce(torch.cat([sums, pixels], 1).to(accelerator.device), "sum").cpu()
    sums, pixels = both[:, : len(names)], both[:, len(names) :]
    losses = {n: float(sums[0, i] / sums[1, i].clamp(min=1)) for i, n in enumerate(names)}
    found = {"val_loss": sum(task.weights[n] * value for n, value in losses.items())}
    found |= {f"val_loss_{n}": value for n, value in losses.items()}
    dice = {m: float(pixels[0, k] / pixels[1, k]) for k, m in enumerate(masks) if pixels[1, k] > 0}
    if dice:
        found["val_dice"] = float(np.mean(list(dice.values())))
        found |= {f"val_dice_{m}": value for m, value in dice.items()}
    if pairs:
        rows = torch.tensor([index for keys in batches for _, index in keys], device=accelerator.device)
        together = [accelerator.gather(x).cpu() for x in (rows, torch.cat(pairs), torch.cat(captions))]
        found |= embedding_figures(accelerator, model, data, processor, *together)
    model.train()
    return found


def embedding_figures(
    accelerator: Any, model: Any, data: StageData, processor: Any, rows: Tensor, pairs: Tensor, captions: Tensor
) -> dict[str, float]:
    """val_zero_shot_balanced_accuracy; val_rank, val_alignment and val_uniformity (see `mdf.training.health`); and
    val_captions, how many different ones there are. All over the photographs that have a caption: {} with fewer than
    two of them, no zero-shot quality with fewer than two classes.

    One process computes and all get its numbers: they decide together by them.

    Args:
        rows: int64 [N], the place of each photograph among the validation records.
        pairs: float32 [N,2,E], embeddings of the photograph and of its caption.
        captions: int64 [N], negative where there is none.
    """
    from accelerate.utils import broadcast_object_list

    found: dict[str, float] = {}
    order = rows.argsort()
    order = order[captions[order] >= 0]
    if accelerator.is_main_process and len(order) > 1:
        images, texts = F.normalize(pairs[order].double(), dim=-1).unbind(1)  # under bf16 they are not quite units
        records = [data.val[i] for i in rows[order].tolist()]
        quality = zero_shot_quality(accelerator, model, images.numpy(), records, classes_of(data, processor), processor)
        found = {} if quality is None else {"val_zero_shot_balanced_accuracy": quality}
        found["val_rank"] = effective_rank(images)
        found["val_alignment"] = alignment(images, texts)
        found["val_uniformity"] = uniformity(images)
        found["val_captions"] = len(captions[order].unique())
    return broadcast_object_list([found])[0]


def classes_of(data: StageData, processor: Any) -> tuple[str, ...]:
    """The candidate diagnoses that occur in the data of the stage; () where they are fewer than two."""
    there = {name for names in truths(data.train + data.val, processor.diagnoses) for name in names}
    classes = tuple(name for name in processor.diagnoses if name in there)
    return classes if len(classes) > 1 else ()


def zero_shot_quality(
    accelerator: Any,
    model: Any,
    images: np.ndarray,
    records: list[FundusRecord],
    classes: tuple[str, ...],
    processor: Any,
) -> float | None:
    """Balanced accuracy of the nearest of `classes`, each the mean of its texts without descriptions, on the records
    that have one of them; None where none has. `images` are their unit embeddings [N,E].
    """
    truth = truths(records, classes)
    judged = [i for i, names in enumerate(truth) if names]
    if not judged:
        return None
    bare = accelerator.unwrap_model(model)

    def embed(texts: Any) -> np.ndarray:
        return F.normalize(bare.embed_text(list(texts)).double(), dim=-1).cpu().numpy()

    with accelerator.autocast():
        prototypes = class_embeddings(class_texts(processor.prompts, classes, "names"), embed)
    predicted = (images[judged] @ prototypes.T).argmax(axis=1)
    return mean_recall([truth[i] for i in judged], predicted, classes)


def best_by(task: Task, data: StageData, processor: Any) -> str:
    """What the best checkpoint of a stage is chosen by: "loss", "dice" or "zero_shot".

    Raises UserError where the validation photographs cannot tell.
    """
    best, patience = task.stage.best, task.stage.patience
    labelled = any(truths(data.val, classes_of(data, processor)))
    if patience and not data.val:
        raise UserError(
            f"{task.name}.patience: {patience}, but there is no validation photograph to see an improvement on; set "
            f"{task.name}.patience=0 or keep some, for example data.val=0.1"
        )
    if best == "zero_shot" and not labelled:
        raise UserError(
            f"{task.name}.best: zero_shot, but no validation photograph has a diagnosis of two or more that the data "
            f"know; set {task.name}.best=loss"
        )
    if best != "auto":
        return best
    if task.want == ("masks",):
        return "dice"
    # on few photographs the loss of a contrast turns long before what is learnt does
    aligns = "contrastive" in task.want and "text" not in task.want
    return "zero_shot" if aligns and labelled else "loss"


def score_of(found: dict[str, float], by: str) -> float:
    """The number that the best checkpoint is chosen by, higher is better; `by` as `best_by` says."""
    if by == "zero_shot":
        if "val_zero_shot_balanced_accuracy" not in found:
            raise UserError("none of the validation photographs with a diagnosis is there any more; bring them back")
        return found["val_zero_shot_balanced_accuracy"]
    return found["val_dice"] if by == "dice" and "val_dice" in found else -found["val_loss"]


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
        inputs = processor.inputs([prepared for *_, prepared in asked]) if asked else None
        answers = model.generate_answers(inputs, turns, max_new_tokens=64) if asked else []
    for (record, question, _), answer in zip(asked, answers, strict=True):
        if record is not last:
            lines += ["", f"## {record.id}", ""]
        lines += [f"- **{question.text}**", f"  - reference: {question.answer}", f"  - answer: {answer}"]
        last = record
    model.train()
    return "\n".join([*lines, ""])
