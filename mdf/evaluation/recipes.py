"""How much does it matter how photographs are prepared? Of an encoder's recipe one setting is changed at a time.

Of each change: how far the features turn, what a probe that was fitted on the right preparation still reaches with the
wrong one (a mistake at inference), and what a probe reaches that was fitted on the wrong one, too (a mistake
throughout).

Shapes: N photographs, D width of the features, S the encoder's side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, patient_groups
from mdf.evaluation.classification import ROBUST, classification_metrics
from mdf.evaluation.layers import layer_report, parts_of, shown
from mdf.evaluation.photographs import Progress, batches, embed, load_images
from mdf.evaluation.probe import fit_probe, paired_difference
from mdf.evaluation.task import draw
from mdf.files import write_json
from mdf.imaging.preprocess import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from mdf.imaging.recipe import INTERPOLATIONS, RULES, Recipe
from mdf.processor import Inputs
from mdf.prototypes import truths
from mdf.records import FundusRecord, Manifest

OWN = "as it is"
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "CLIP": (CLIP_MEAN, CLIP_STD),
    "ImageNet": (IMAGENET_MEAN, IMAGENET_STD),
    "0.5": ((0.5,) * 3, (0.5,) * 3),
    "none": ((), ()),
}
SCALERS = {
    "PIL": {"backend": "pil", "antialias": True},
    "torchvision, uint8": {"backend": "tensor", "antialias": True},
    "torchvision, float": {"backend": "float", "antialias": True},
    "without antialiasing": {"backend": "float", "antialias": False},
}
CROP = 8 / 7  # shorter side over side of most releases: 256 over 224


def recipe_of(settings: Preprocessing) -> Recipe:
    """An encoder's recipe; where it has none, mdf's own preparation as one, equal but for a value's last bit."""
    if settings.recipe is not None:
        return settings.recipe
    return Recipe(
        side=settings.encoder_size,
        rule=settings.resize,
        backend="tensor",
        mean=settings.encoder_mean,
        std=settings.encoder_std,
    )


def variants(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe, and those that differ from it in one setting, by what that is."""
    made = {OWN: recipe}
    for rule in RULES:
        shorter = round(recipe.side * CROP) if rule == "crop" and recipe.rule != "crop" else None
        made[f"rule {rule}"] = replace(recipe, rule=rule, shorter=recipe.shorter if rule == recipe.rule else shorter)
    if recipe.backend != "scipy":
        for way in INTERPOLATIONS:
            made[way] = replace(recipe, interpolation=way)
        for name, how in SCALERS.items():
            made[name] = replace(recipe, **how)  # type: ignore[arg-type]
    if recipe.channels == 3:
        for name, (mean, std) in STATISTICS.items():
            made[f"mean and std {name}"] = replace(recipe, mean=mean, std=std)
        for colour in ("rgb", "visionunite"):
            made[f"colours {colour}"] = replace(recipe, colour=colour)
    return {name: other for name, other in made.items() if name == OWN or other != recipe}


def framed(image: np.ndarray, aspect: float) -> np.ndarray:
    """uint8 [H,W,3] in the middle of a black frame of W/H = `aspect`, as a camera gives it; 0 = as it is."""
    height, width = image.shape[:2]
    if not aspect:
        return image
    wide, high = max(width, round(height * aspect)), max(height, round(width / aspect))
    out = np.zeros((high, wide, 3), dtype=np.uint8)
    top, left = (high - height) // 2, (wide - width) // 2
    out[top : top + height, left : left + width] = image
    return out


@torch.inference_mode()
def recipe_features(
    model: Any,
    records: Sequence[FundusRecord],
    manifest: Manifest,
    recipes: Mapping[str, Recipe],
    *,
    features: str = "pooled",
    aspect: float = 0.0,
    batch_size: int = 32,
    name: str = "recipes",
) -> dict[str, np.ndarray]:
    """{name of a recipe: float32 unit vectors [N,D]}, each photograph decoded once; `features` as in `embed`."""
    found: dict[str, list[np.ndarray]] = {recipe: [] for recipe in recipes}
    progress = Progress(name, len(records))
    for rows in batches(len(records), batch_size):
        images = [framed(image, aspect) for image in load_images([records[i] for i in rows], manifest)]
        for recipe, settings in recipes.items():
            pixels = torch.stack([settings.apply(image) for image in images]).to(model.device)
            found[recipe].append(embed(model, Inputs(pixel_values=pixels), features))
        progress.step(len(rows))
    return {recipe: np.concatenate(parts) for recipe, parts in found.items()}


def recipe_report(
    model: Any,
    manifest: Manifest,
    out: str | Path,
    *,
    classes: Sequence[str] = (),
    split: str = "test",
    limit: int = 0,
    features: str = "pooled",
    aspect: float = 0.0,
    batch_size: int = 32,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """{setting: figures} under `recipes`, written to OUT/recipes.json; of each of train, val and `split`, see
    `layers.parts_of`, at most `limit` photographs with one of `classes` (default: all of the train split).

    Figures: `cosine` to the features of the encoder's own recipe, mean and `lowest`; balanced accuracy and macro AUROC
    of the probe of that recipe (`fixed`) and of one fitted anew (`anew`), each with intervals and, minus those of the
    encoder's own recipe on the same resamples of patients, `against`. Raises UserError where a split has no such
    photograph.
    """
    names = list(classes) or sorted({n for r in manifest.split("train") for n in r.diagnosis or ()})
    kept: dict[str, list[FundusRecord]] = {}
    found: dict[str, tuple[dict[str, np.ndarray], list[tuple[str, ...]]]] = {}
    for part, own in parts_of(manifest, split, seed).items():
        known = [r for r, true in zip(own, truths(own, names), strict=True) if true]
        if not known:
            raise UserError(
                f"no photograph of the {split if part == 'judged' else part} split has one of the diagnoses "
                f"{', '.join(names) or '(none)'}"
            )
        kept[part] = draw(known, limit, seed)
    recipes = variants(recipe_of(model.processor.preprocessing))
    for part, records in kept.items():
        made = recipe_features(
            model, records, manifest, recipes,
            features=features, aspect=aspect, batch_size=batch_size, name=f"recipes, {part}",
        )  # fmt: skip
        found[part] = made, truths(records, names)
    judged, truth = found["judged"]
    groups = patient_groups(kept["judged"])
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    anew = layer_report(found, judged, truth, names, groups, **options)
    probe = fit_probe(found["train"][0][OWN], found["train"][1], found["val"][0][OWN], found["val"][1], names)
    right = probe.probabilities(judged[OWN])
    rows = {}
    for setting, vectors in judged.items():
        cosine = (vectors * judged[OWN]).sum(1)
        table = probe.probabilities(vectors)
        fixed = classification_metrics(truth, table, names, groups, only=ROBUST, **options)
        fixed["against"] = paired_difference(truth, right, table, names, groups, **options)
        rows[setting] = {
            "recipe": recipes[setting].to_dict(),
            "cosine": float(cosine.mean()),
            "lowest": float(cosine.min()),
            "fixed": fixed,
            "anew": anew[setting],
        }
    report = {
        "n": len(truth),
        "train": len(kept["train"]),
        "val": len(kept["val"]),
        "classes": names,
        "features": features,
        "aspect": aspect,
        "dataset": manifest.meta.get("dataset"),
        "data_sha256": manifest.sha256,
        "recipes": rows,
    }
    write_json(Path(out) / "recipes.json", report)
    return report


def table_of(report: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows of `recipe_report` as a Markdown table."""
    lines = [
        "| changed | cosine (lowest) | fixed probe: balanced accuracy | minus own | AUROC | fitted anew | AUROC |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting, row in report.items():
        fixed, anew = row["fixed"], row["anew"]
        less = "" if setting == OWN else shown(fixed["against"], ROBUST[0], sign="+")
        cells = [f"{row['cosine']:.4f} ({row['lowest']:.3f})", f"{fixed[ROBUST[0]]:.3f}", less]
        cells += [f"{fixed[ROBUST[1]]:.3f}", f"{anew[ROBUST[0]]:.3f}", f"{anew[ROBUST[1]]:.3f}"]
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    return "\n".join(lines)
