"""How well photographs and captions find each other in the shared embedding space.

Shapes: N photographs, M different captions, Q queries, G gallery entries, E embedding width.

A query may have many right answers: photographs with the same caption are all right answers to it, photographs of other
patients with the same diagnoses to a photograph. The captions ranked are the M different ones, so copies of one cannot
fill the first five places. A tie counts against the model: one that embeds everything alike finds nothing.
"""

from collections.abc import Sequence

import numpy as np

from mdf.evaluation.bootstrap import RESAMPLES, put, resample, weighted_mean

PLACES = (1, 5, 10)
CHUNK = 512  # queries worked on at once, which bounds the memory


def rank_positives(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_label: np.ndarray,
    gallery_label: np.ndarray,
    query_group: np.ndarray | None = None,
    gallery_group: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """How many wrong answers rank at or above the best right one, float [Q], and the average precision, float [Q].

    `queries` [Q,E] and `gallery` [G,E] are unit vectors. An answer is right where its label (int) is the query's;
    entries of the query's own group are left out of the gallery. NaN for a query without a right answer.
    """
    ranks, precisions = [], []
    for start in range(0, len(queries), CHUNK):
        rows = slice(start, start + CHUNK)
        similarity = queries[rows].astype(float) @ gallery.T.astype(float)
        right = query_label[rows, None] == gallery_label[None]
        if query_group is not None and gallery_group is not None:
            out = query_group[rows, None] == gallery_group[None]
            similarity, right = np.where(out, -np.inf, similarity), right & ~out
        # from the most similar on; among equals the wrong ones first
        order = np.lexsort((right, -similarity), axis=1)
        hits = np.take_along_axis(right, order, axis=1)
        count = hits.sum(axis=1)
        found = np.cumsum(hits, axis=1)
        precision = (hits * found / np.arange(1, hits.shape[1] + 1)).sum(axis=1) / np.maximum(count, 1)
        ranks.append(np.where(count > 0, hits.argmax(axis=1), np.nan))
        precisions.append(np.where(count > 0, precision, np.nan))
    return np.concatenate(ranks), np.concatenate(precisions)


def retrieval_metrics(
    image_embeds: np.ndarray,
    text_embeds: np.ndarray,
    caption_of: np.ndarray,
    groups: Sequence[str],
    *,
    label_of: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """R@1, R@5, R@10 and mean average precision of `image_to_text`, `text_to_image` and `image_to_image`, each with
    `NAME_ci`, one query a photograph; `captions` is M.

    `image_embeds` [N,E] and `text_embeds` [M,E] unit vectors; `caption_of` int [N] the row of each photograph's
    caption; `label_of` int [N] says which photographs are alike (default: those with the same caption). Photographs are
    searched among other patients' (`groups`); a query without a right answer is left out. The interval is
    over the queries, by patient; the gallery stays as it is.
    """
    weights = resample(groups, resamples=resamples, seed=seed)
    metrics: dict = {"n": len(caption_of), "captions": len(text_embeds)}
    captions = np.arange(len(text_embeds))
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    label = caption_of if label_of is None else label_of
    by_caption = rank_positives(text_embeds, image_embeds, captions, caption_of)
    directions = {
        "image_to_text": rank_positives(image_embeds, text_embeds, caption_of, captions),
        "text_to_image": tuple(values[caption_of] for values in by_caption),
        "image_to_image": rank_positives(image_embeds, image_embeds, label, label, group, group),
    }
    for name, (rank, precision) in directions.items():
        for k in PLACES:
            put(metrics, f"{name}_r{k}", weighted_mean(np.where(np.isnan(rank), np.nan, rank < k)), weights)
        put(metrics, f"{name}_map", weighted_mean(precision), weights)
    return metrics
