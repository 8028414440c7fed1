"""What `prepare.py weights` prints, writes and draws of a released encoder.

Shapes: h x w the grid of patch tokens, d their width.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mdf import __version__
from mdf.config import EncoderConfig
from mdf.errors import UserError
from mdf.files import write_bytes
from mdf.imaging.decode import load_image
from mdf.imaging.recipe import Recipe
from mdf.models import zoo, zoo_identify, zoo_weights
from mdf.models.fundus_encoder import FundusEncoder
from mdf.models.weight_files import Content

SHOWN = 448  # pixels, of each part of the picture


def every() -> str:
    """A line a release."""
    rows = [(r.name, r.title, f"{r.side} px", f"{r.width}", "yes" if r.text is not None else "-", r.licence)
            for r in zoo.releases().values()]  # fmt: skip
    rows.insert(0, ("name", "what", "side", "width", "text", "licence"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]) for row in rows)


def row(release: zoo.Release) -> str:
    """All that is known of one release."""
    used = zoo.of_release(release, zoo_identify.shapes(release.name))
    image = release.image
    kind = f"open_clip {image['open_clip']}" if "open_clip" in image else f"timm {image['timm']}"
    args = ", ".join(f"{k}={v}" for k, v in (image.get("args") or {}).items())
    recipe = {k: v for k, v in release.recipe.items() if k not in ("side", "mean", "std")}
    mean, std = (", ".join(f"{x:.4g}" for x in values) for values in zoo.colours(release.recipe))
    lines = {
        "what": release.title,
        "cite": release.cite,
        "licence": release.licence,
        "from": release.source,
        "files": ", ".join(release.files),
        "size": f"{sum(t.numel() for t in used.values()) / 1e6:.1f} million numbers in {len(used)} tensors are used",
        "image tower": f"{kind}{' with ' + args if args else ''}, {release.activation}, {release.side} px",
        "embedding": f"{release.width} numbers: {release.pooled}",
        "text tower": "none that can be used" if release.text is None else "yes",
        "photographs": ", ".join(f"{k} {v}" for k, v in recipe.items()) + f"; mean {mean}, standard deviation {std}",
        "notes": release.notes,
    }
    return f"{release.name}\n" + "\n".join(f"  {k:<12}{v}" for k, v in lines.items() if v)


def checked(release: zoo.Release, content: Content, *, interpolate: bool = False) -> FundusEncoder:
    """The encoder of a file that was read. Raises UserError where it does not fit."""
    encoder = FundusEncoder(EncoderConfig(weights=f"{release.name}:{content.path}"), load=False)
    provenance = zoo_weights.fill(encoder.clip, release, content, interpolate=interpolate)
    encoder.architecture["weights"] = provenance
    return encoder.eval()


def loaded(encoder: FundusEncoder) -> str:
    """What was loaded, and its norms."""
    lines = zoo_weights.describe(encoder.architecture)[1:]
    norms = encoder.architecture["weights"]["norms"]
    table = ", ".join(f"{layer.removeprefix('layer ')}: {value:g}" for layer, value in norms.items())
    return "\n".join([*(f"  {line}" for line in lines), f"  norms of the image tower's layers {table}"])


def convert(release: zoo.Release, encoder: FundusEncoder, target: Path) -> None:
    """Write the tensors that the release fills, under our names, with what is known of them."""
    from safetensors.torch import save

    if target.suffix != ".safetensors":
        raise UserError(f"--out: {target} has to end in .safetensors")
    weights = encoder.architecture["weights"]
    metadata = {
        zoo.RELEASE: release.name,
        "format": "pt",
        "mdf_version": __version__,
        "title": release.title,
        "licence": release.licence,
        "cite": release.cite,
        "source": weights["file"],
        "fingerprint": weights["fingerprint"],
        "recipe": json.dumps(dict(release.recipe)),
    }
    state = zoo.of_release(release, encoder.clip.state_dict())
    write_bytes(target, save({n: t.contiguous() for n, t in state.items()}, metadata))


@torch.no_grad()
def look(encoder: FundusEncoder, photograph: str | None, target: Path) -> str:
    """Draw what the encoder is shown beside its patch tokens' three principal components and their norms.

    Returns the same in numbers.
    """
    recipe = Recipe.from_dict(encoder.architecture["recipe"])
    image = load_image(photograph) if photograph else drawn()
    pixels = recipe.apply(image)
    pooled, tokens = encoder.features(pixels[None])
    mean, std = (torch.tensor(values)[:, None, None] for values in encoder.statistics)
    shown = (pixels * std + mean).clamp(0, 1).expand(3, -1, -1)
    lengths = tokens[0].norm(dim=0)
    parts = [shown, principal(tokens[0]), scaled(lengths)[None].expand(3, -1, -1)]
    tiles = [np.array(tile(part, smooth=number == 0)) for number, part in enumerate(parts)]
    gap = np.full((SHOWN, 8, 3), 255, np.uint8)
    made = Image.fromarray(np.concatenate([tiles[0], gap, tiles[1], gap, tiles[2]], axis=1))
    target.parent.mkdir(parents=True, exist_ok=True)
    made.save(target)
    low, middle, high = (float(lengths.quantile(q)) for q in (0.0, 0.5, 1.0))
    h, w = encoder.grid
    return (
        f"features of {photograph or 'a drawn photograph'}: embedding of norm {float(pooled.norm()):.4g}, {h} x {w} "
        f"patches of width {encoder.width} with norms {low:.4g} to {high:.4g}, median {middle:.4g}. Left what it is "
        "shown, middle the patches' first three principal components as colours, right their norms"
    )


def drawn() -> Any:
    """A phantom photograph, uint8 [H,W,3]."""
    from mdf.imaging.phantom import draw

    return draw(0, 512).image


def principal(tokens: Tensor) -> Tensor:
    """[d,h,w] -> [3,h,w] in 0..1: the first three principal components over the patches."""
    rows = tokens.flatten(1).T.double()
    rows = rows - rows.mean(0)
    parts = torch.linalg.svd(rows, full_matrices=False)
    kept = (parts.U * parts.S)[:, :3]
    kept = torch.nn.functional.pad(kept, (0, 3 - kept.shape[1]))
    sign = torch.where(kept.abs().amax(0) == kept.amax(0), 1.0, -1.0)  # the same colours every time
    return torch.stack([scaled(part) for part in (kept * sign).T]).unflatten(1, tokens.shape[1:]).float()


def scaled(values: Tensor) -> Tensor:
    """To 0..1."""
    low, high = values.min(), values.max()
    return ((values - low) / (high - low).clamp(min=1e-12)).float()


def tile(part: Tensor, *, smooth: bool) -> Image.Image:
    """[3,h,w] in 0..1 as a square picture."""
    array = (part.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(array).resize(
        (SHOWN, SHOWN), Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    )
