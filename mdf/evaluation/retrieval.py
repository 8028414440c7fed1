"""How well photograph and caption find each other in the shared embedding space.

Shapes: N photographs, M different captions, E embedding width. Several photographs may have the same caption: each of
them is a right answer to it. The captions ranked are the M different ones, so copies of one cannot fill the first five
places.
"""

from collections.abc import Sequence

import numpy as np

from mdf.evaluation.bootstrap import RESAMPLES, put, resample, weighted_mean


def ranks(image_embeds: np.ndarray, text_embeds: np.ndarray, caption_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int [N] image-to-text and int [N] text-to-image: how many wrong answers rank at or above the best right one.

    `image_embeds` [N, E] and `text_embeds` [M, E] unit vectors, `caption_of` int [N] the row of each photograph's
    caption. A tie counts against the model: one that embeds everything alike finds nothing.
    """
    similarity = image_embeds @ text_embeds.T
    right = caption_of[:, None] == np.arange(len(text_embeds))[None]
    own = similarity[np.arange(len(caption_of)), caption_of]
    image_to_text = ((similarity >= own[:, None]) & ~right).sum(axis=1)
    best = np.where(right, similarity, -np.inf).max(axis=0)
    text_to_image = ((similarity >= best[None]) & ~right).sum(axis=0)
    return image_to_text, text_to_image[caption_of]


def retrieval_metrics(
    image_embeds: np.ndarray,
    text_embeds: np.ndarray,
    caption_of: np.ndarray,
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """R@1 and R@5 in both directions, each with `NAME_ci`, one query a photograph; `captions` is M.

    The interval is over the queries (by patient); the gallery stays as it is.
    """
    weights = resample(groups, resamples=resamples, seed=seed)
    metrics: dict = {"n": len(caption_of), "captions": len(text_embeds)}
    directions = ranks(image_embeds, text_embeds, caption_of)
    for name, rank in zip(("image_to_text", "text_to_image"), directions, strict=True):
        for k in (1, 5):
            put(metrics, f"{name}_r{k}", weighted_mean((rank < k).astype(float)), weights)
    return metrics
