"""What a stage optimises: from a batch to the sums of its loss terms and the numbers that they are divided by.

Shapes: B photographs of a micro-batch, P patients among them, K masks.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mdf.batches import Batch, branches
from mdf.checking import CONTRASTS
from mdf.config import Config, StageConfig
from mdf.errors import UserError
from mdf.losses.contrastive import contrastive_loss
from mdf.losses.gather import gather, sizes_of
from mdf.losses.grounding import grounding_loss
from mdf.losses.label_aware import label_aware_contrastive_loss
from mdf.losses.masks import mask_loss
from mdf.losses.patient import patient_contrastive_loss
from mdf.losses.sigmoid import sigmoid_loss
from mdf.losses.text import shift, text_loss_by_rows
from mdf.models.features import Look, Remembered

ON_PROCESSORS = 2.0  # GB of main memory for features, where features_gb is -1
HASH = 6364136223846793005  # odd and large; int64 products wrap around
Terms = dict[str, tuple[Tensor, float]]  # name -> sum over what is counted, count
WANT = {"text": "text", "grounding": "text", "mask": "masks"} | dict.fromkeys(CONTRASTS, "contrastive")
BY_LABEL = ("label_aware", "label_overlap")  # whose classes are diagnoses; those of the other CONTRASTS are captions


class Task:
    """The weighted losses of one stage.

    `text` counts supervised tokens, `grounding` those of answers about a lesion with a mask, and `mask` known
    (photograph, mask) pairs, so that a step weighs each the same however it is cut into micro-batches and processes.
    The contrastive terms are means over the photographs (`patient`: patients) that are compared with each other,
    weighted by their number: processes enlarge the set of negatives, accumulation does not.
    A photograph takes part in the losses that it can serve; its row is there for the others, and counts nothing.
    """

    def __init__(self, cfg: Config, name: str):
        self.name, self.stage = name, stage_of(cfg, name)
        self.weights = {loss: weight for loss, weight in self.stage.losses.items() if weight > 0}
        self.want = tuple(dict.fromkeys(WANT[loss] for loss in self.weights))
        self.contrasts = [loss for loss in self.weights if loss in CONTRASTS]
        self.can_balance = not self.stage.balance and (self.stage.data or cfg.data).name != "shards"
        self.reads_skips, self.grid = bool(cfg.fusion.depths), cfg.fusion.grid
        self.look: Look | None = None  # what stands in for a frozen encoder and U-Net, see `remember`

    @property
    def wants_captions(self) -> bool:
        return "contrastive" in self.want

    @property
    def by_patient(self) -> bool:
        """Whether both eyes of a patient have to be in one micro-batch."""
        return "patient" in self.weights

    @property
    def wants_masks(self) -> bool:
        return bool({"mask", "grounding"} & set(self.weights))

    def counts(self, batch: Batch) -> dict[str, float]:
        """What each term of this batch is a sum over; needs no forward."""
        number: dict[str, int] = {}
        if "contrastive" in self.want:
            assert batch.caption_group is not None and batch.patients is not None
            number = dict.fromkeys(CONTRASTS, int((batch.caption_group >= 0).sum())) | {"patient": len(batch.patients)}
        if "text" in self.weights:
            number["text"] = batch.supervised
        if "grounding" in self.weights:
            assert batch.focus is not None
            number["grounding"] = int((batch.focus >= 0).sum())
        if "mask" in self.weights:
            assert batch.mask_known is not None
            number["mask"] = int(batch.mask_known.sum())
        return {loss: float(number[loss]) for loss in self.weights}

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Keyword arguments of the model's forward."""
        given: dict[str, Any] = {"want": self.want}
        if "text" in self.want or "contrastive" in self.want:
            given["pixel_values"] = batch.pixel_values
        if "masks" in self.want or ("text" in self.want and self.reads_skips):
            given["unet_pixels"] = batch.unet_pixels
        if "contrastive" in self.want:
            given |= {"caption_ids": batch.caption_ids, "chunk": self.stage.chunk}
        if "text" in self.want:
            assert batch.labels is not None
            keep, targets = shift(batch.labels)
            given |= {
                "input_ids": batch.input_ids,
                "attention_mask": batch.attention_mask,
                "prompt_mask": batch.prompt_mask,
                "keep": keep,
                "reduce": partial(text_loss_by_rows, targets=targets),
                "look": self.look,
                "use_cache": False,
                **batch.backbone,
            }
            if batch.branch is not None:
                assert batch.attention_mask is not None
                sees, positions = branches(batch.branch, batch.attention_mask)
                given |= {"attention_mask": sees, "position_ids": positions}
        if "grounding" in self.weights:
            assert batch.focus is not None
            given["grounded"] = batch.focus >= 0
        return given

    def __call__(self, model: Any, batch: Batch) -> tuple[Terms, Any]:
        """Run the forward and return each term's (sum, count), and the model's output.

        `model` may be wrapped for several processes: only its forward is called, since any other method would train
        without averaging gradients.
        """
        out = model(**self.inputs(batch))
        terms: Terms = {}
        for loss, count in self.counts(batch).items():
            if loss == "text":
                terms[loss] = (out.reduced, count)
            elif loss == "grounding":
                terms[loss] = (grounding_loss(out.attention, self.patches(batch)), count)
            elif loss == "mask":
                assert batch.masks is not None and batch.mask_known is not None
                terms[loss] = (mask_loss(out.mask_logits, batch.masks, batch.mask_known, batch.field), count)
            else:
                terms[loss] = (self.contrast(loss, batch, out) * count, count)
        return terms, out

    def contrast(self, loss: str, batch: Batch, out: Any) -> Tensor:
        """One of CONTRASTS over the micro-batches of all processes, the same number on each."""
        images, texts, scale = out.image_embeds, out.text_embeds, out.logit_scale
        if loss == "contrastive":
            return contrastive_loss(images, texts, scale, batch.caption_group, local=True)
        if loss == "sigmoid":
            if out.logit_bias is None:
                raise UserError(
                    f"{self.name}.losses.sigmoid: the encoder has no logit bias; set encoder.init_logit_bias=-10"
                )
            return sigmoid_loss(images, texts, scale, out.logit_bias, batch.caption_group, local=True)
        assert batch.label_ids is not None and batch.label_sets is not None and batch.patients is not None
        if loss == "label_aware":
            return label_aware_contrastive_loss(images, texts, scale, label_ids=batch.label_ids, local=True)
        if loss == "label_overlap":
            known = batch.label_ids >= 0
            sets = batch.label_sets[known]
            return label_aware_contrastive_loss(images[known], texts[known], scale, label_sets=sets, local=True)
        eyes, classes = batch.patients, self.classes(loss, batch)
        return patient_contrastive_loss(images[eyes], texts[eyes], scale, eyes >= 0, positives=classes, local=True)

    def classes(self, loss: str, batch: Batch) -> Tensor:
        """What one of CONTRASTS takes for the same: int64 [B,1] of photographs, [P,3] of left eyes, right eyes, both.

        Equal numbers are positives of each other, -1 takes no part.
        """
        assert batch.label_ids is not None and batch.caption_group is not None and batch.patients is not None
        if loss in BY_LABEL:
            return batch.label_ids[:, None]
        if loss != "patient":
            return batch.caption_group[:, None]
        eyes = batch.caption_group[batch.patients].masked_fill(batch.patients < 0, -1)
        both = (eyes[:, :1] * HASH + eyes[:, 1:]) & (2**63 - 1)  # equal for equal captions left and right
        return torch.cat([eyes, both], 1)

    def of_one_class(self, batch: Batch) -> list[str]:
        """The losses to which all that this micro-batch of all processes shows them is the same."""
        found = []
        for loss in self.contrasts:
            own = self.classes(loss, batch)
            levels = gather(own, sizes_of(own)).T
            if (levels >= 0).any() and all(len(level[level >= 0].unique()) <= 1 for level in levels):
                found.append(loss)
        return found

    def one_class_note(self, losses: list[str]) -> str:
        """What a user is told at the first batch of one class."""
        rare = f"{self.name}.balance=true or a larger" if self.can_balance else "a larger"
        return (
            f"a batch holds one class only, so that {', '.join(losses)} cannot contrast anything: no gradient of it is "
            "used, but for sigmoid, whose positives alone draw photographs and texts together. metrics.jsonl counts "
            f"such batches as one_class_batches; {rare} {self.name}.batch_size makes them rare"
        )

    def patches(self, batch: Batch) -> Tensor:
        """bool [N,G²]: for each position of `focus` the patches with the lesion that it speaks of."""
        assert batch.masks is not None and batch.focus is not None
        held = F.adaptive_max_pool2d(batch.masks, self.grid).flatten(2) > 0  # [B,K,G²]
        rows = (batch.focus >= 0).nonzero()[:, 0]
        return held[rows, batch.focus[batch.focus >= 0]]

    def total(self, terms: Terms, totals: dict[str, float], processes: int) -> Tensor:
        """The scalar to differentiate: Σ weight · sum / total · processes, `totals` being the counts of the whole step.

        The factor undoes the mean over processes that gradients go through.
        """
        parts = [self.weights[loss] * processes * value / max(totals[loss], 1.0) for loss, (value, _) in terms.items()]
        return torch.stack(parts).sum()


def remember(task: Task, model: Any, device: torch.device, photographs: int, say: Callable[[str], None]) -> None:
    """Let the stage compute what encoder and U-Net make of a photograph once, where both are frozen, no other loss
    needs more of them, nothing augments, and all fit into `features_gb`. `model` is the bare MDFModel.
    """
    limit = task.stage.features_gb
    limit = (0.0 if device.type == "cuda" else ON_PROCESSORS) if limit < 0 else limit
    frozen = not any(p.requires_grad for part in (model.encoder, model.unet) for p in part.parameters())
    if not limit or not frozen or task.stage.augment or task.want != ("text",):
        return

    def tell(size: int, fits: bool) -> None:
        what = f"what the frozen encoder and U-Net make of {photographs} photographs"
        need = f"{size * photographs / 1e9:.2f} GB"
        say(
            f"{task.name}: {what} is kept in memory, {need}"
            if fits
            else f"{task.name}: {what} would take {need} of memory and is computed anew in every epoch; "
            f"{task.name}.features_gb={math.ceil(size * photographs / 1e9)} keeps it"
        )

    pooled = getattr(model.fusion.prefix, "side", (1, 1))
    task.look = Remembered(model.features, photographs, limit, depths=model.fusion.depths, pooled=pooled, say=tell)


def stage_of(cfg: Config, name: str) -> StageConfig:
    """The settings of the stage `name`."""
    return getattr(cfg, name)


def freeze_unreached(accelerator: Any, model: Any, task: Task, batch: Batch) -> list[str]:
    """Freeze what trains by configuration but gets no gradient from this stage's losses; returns the names.

    Several processes wait for the gradient of every tensor that trains, so one that never comes would be an error
    there. `model` is not yet prepared; it is run in eval mode, and its gradients are dropped.
    """
    was, _ = model.training, model.eval()
    with accelerator.autocast():
        terms, _ = task(model, batch.to(accelerator.device))
    task.total(terms, task.counts(batch), 1).backward()
    model.train(was)
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    for name, parameter in model.named_parameters():
        parameter.grad = None
        if name in idle:
            parameter.requires_grad_(False)
    return idle
