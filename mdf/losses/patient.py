"""Left, right and patient level contrast of RET-CLIP (Du et al. 2024, arXiv 2405.14137).

Shapes: P patients of this process, E embedding width of an eye, F of a patient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mdf.losses.contrastive import contrastive_loss, wide
from mdf.losses.gather import own_rows, sizes_of


def patient_contrastive_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor,
    eyes: Tensor,
    patient_images: Tensor | None = None,
    patient_texts: Tensor | None = None,
    positives: Tensor | None = None,
    *,
    local: bool = False,
) -> Tensor:
    """L = L_left + L_right + L_patient, each a `contrastive_loss` over those who have what it compares.

    A left eye is compared with left eyes only, and so on. Who has no left eye takes no part in L_left, and in L_patient
    by the other eye. A level that nobody takes part in adds 0.

    Args:
        image_embeds, text_embeds: unit vectors [P,2,E], left and right; what stands for a missing eye is not read.
        logit_scale: the multiplier, one for all or [3] for left, right and patient.
        eyes: bool [P,2], which eyes there are.
        patient_images, patient_texts: unit vectors [P,F] from heads of their own; None = both eyes' vectors one after
            the other, 0 for a missing one, scaled to length 1.
        positives: int64 [P,3], for each level as in `contrastive_loss`; None = each patient their own.
        local: compute the logits of this process's rows only.
    """
    if (patient_images is None) != (patient_texts is None):
        raise ValueError("give both patient_images and patient_texts [P,F], or neither")
    if patient_images is None or patient_texts is None:
        patient_images, patient_texts = both_eyes(image_embeds, eyes), both_eyes(text_embeds, eyes)
    levels = (
        (image_embeds[:, 0], text_embeds[:, 0]),
        (image_embeds[:, 1], text_embeds[:, 1]),
        (patient_images, patient_texts),
    )
    if positives is None:
        own = own_rows(sizes_of(image_embeds))
        positives = torch.arange(own.start, own.stop, device=eyes.device)[:, None].expand(-1, 3)
    there = torch.cat([eyes, eyes.any(1, keepdim=True)], 1)
    ids = positives.masked_fill(~there, -1)
    losses = [
        contrastive_loss(images, texts, scale, ids[:, level], local=local)
        for level, ((images, texts), scale) in enumerate(zip(levels, logit_scale.expand(3), strict=True))
    ]
    return torch.stack(losses).sum()


def both_eyes(embeds: Tensor, eyes: Tensor) -> Tensor:
    """[P,2,E] -> unit vectors [P,2·E] whose part of a missing eye is 0; all 0 for a patient without any."""
    return F.normalize(wide(embeds).masked_fill(~eyes[..., None], 0.0).flatten(1), dim=-1)
