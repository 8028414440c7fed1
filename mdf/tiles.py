"""What a vision language model's own image processor makes of photographs, and which tokens look at them.

Shapes: N photographs, one a row of B; T text tokens; K tiles at most a photograph (Llama 3.2 Vision: 4), of which the
first are real and the rest padding; h x w pixels a tile.

transformers calls the first of these `pixel_values`, which here is the encoder's input.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mdf.errors import UserError

TILES = ("tiles", "aspect_ratio_ids", "aspect_ratio_mask")


def load_image_processor(folder: str | Path, revision: str | None = None) -> Any:
    """The image processor in the folder of a vision language model. Raises UserError where there is none."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(folder, revision=revision)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{folder} holds no image processor that can be read ({reason}); take the folder whole"
        ) from error


def cut_tiles(image_processor: Any, pictures: Sequence[Tensor]) -> dict[str, Tensor]:
    """uint8 [3,H,W] a photograph -> tiles float32 [N,1,K,3,h,w], aspect_ratio_ids [N,1], aspect_ratio_mask [N,1,K]."""
    made = image_processor([[picture] for picture in pictures], return_tensors="pt")
    return {
        "tiles": made["pixel_values"],
        "aspect_ratio_ids": made["aspect_ratio_ids"],
        "aspect_ratio_mask": made["aspect_ratio_mask"],
    }


def cross_attention_mask(input_ids: Tensor, image_token_id: int, aspect_ratio_mask: Tensor) -> Tensor:
    """int64 {0,1} [B,T,1,K], which tiles a token reads: from the image token on all real ones, before it none.

    For one photograph a row exactly what transformers' MllamaProcessor makes, padding on either side included.
    """
    after = (input_ids == image_token_id).cumsum(1) > 0
    return after[:, :, None, None] * aspect_ratio_mask[:, None]


def read_on(aspect_ratio_mask: Tensor, length: int) -> Tensor:
    """int64 {0,1} [B,length,1,K] for tokens that all stand behind the image token."""
    return aspect_ratio_mask[:, None].expand(-1, length, -1, -1)


def refuse_unseen(input_ids: Tensor, image_token_id: int, states: Tensor | None) -> None:
    """Raises ValueError where not every row has one image token for its photograph, or none where there is none."""
    counts = (input_ids == image_token_id).sum(1)
    if states is None and counts.any():
        raise ValueError(f"rows hold {counts.tolist()} image tokens and no photograph for the language model's tower")
    if states is not None and (counts != 1).any():
        raise ValueError(
            f"rows hold {counts.tolist()} image tokens where each has one photograph: "
            "rows with and without a photograph do not go into one batch"
        )
