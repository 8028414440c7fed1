"""A released encoder's file fills its towers, whole, or nothing is loaded; what was loaded is written down."""

import re
from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdf.errors import UserError
from mdf.models import depth, weight_files, zoo, zoo_identify
from mdf.models.weight_files import Content
from mdf.models.weights import fingerprint
from mdf.models.zoo_towers import resample

POSITIONS = re.compile(r"visual\..*(pos_embed|positional_embedding)$")
OURS = ("encoder.clip.", "fusion.", "unet.net.")  # names in a checkpoint of mdf itself


def load(clip: Any, release: zoo.Release, file: Path, *, interpolate: bool = False) -> dict[str, Any]:
    """Fill the towers of `clip`, in place, and return where their weights are from, with a fingerprint and norms.

    Raises UserError, loads nothing, where a tensor is missing, not known, of another shape, or not a number.
    """
    return fill(clip, release, weight_files.read(file), interpolate=interpolate)


def fill(clip: Any, release: zoo.Release, content: Content, *, interpolate: bool = False) -> dict[str, Any]:
    """`load` with a file that was read."""
    ours = clip.state_dict()
    wanted = zoo.of_release(release, ours)
    found = converted(release, content, ours)
    said = []
    for name in [n for n in found.tensors if interpolate and POSITIONS.fullmatch(n) and n in wanted]:
        if found.tensors[name].shape != wanted[name].shape:
            old = list(found.tensors[name].shape)
            found.tensors[name] = positions(name, found.tensors[name], wanted[name], content.path)
            said.append(f"position embeddings interpolated from {old} to {list(wanted[name].shape)}")
    refuse(release, content, found, wanted)
    tensors = {name: tensor.to(wanted[name].dtype) for name, tensor in found.tensors.items()}
    refuse_values(content.path, tensors)
    halves = Counter(str(t.dtype).removeprefix("torch.") for t in found.tensors.values() if t.is_floating_point())
    said += [f"{n} tensors of {kind} converted to float32" for kind, n in halves.items() if kind != "float32"]
    clip.load_state_dict(tensors, strict=False)
    if release.logit_scale and "logit_scale" not in tensors:
        torch.nn.init.constant_(clip.logit_scale, torch.tensor(release.logit_scale).log().item())
    return {
        "file": content.path.name,
        "tensors": len(found.used) or len(tensors),
        "dropped": dict(Counter(found.dropped.values())),
        "fresh": sorted(set(release.fresh.values())),
        "said": said,
        **record(clip, release),
    }


def record(clip: Any, release: zoo.Release) -> dict[str, Any]:
    """A fingerprint of what the release fills, and the norm of the tensors of each layer of its image tower."""
    state = zoo.of_release(release, clip.state_dict())
    return {"fingerprint": fingerprint(state), "norms": norms(state)}


def norms(state: Mapping[str, Tensor]) -> dict[str, float]:
    """The L2 norm over the tensors of each layer (see `mdf.models.depth`) of an image tower, to six digits."""
    names = [f"clip.{n}" for n, t in state.items() if n.startswith("visual.") and t.is_floating_point()]
    squares: Counter[int] = Counter()
    for name, layer in depth.of_tower(names).items():
        squares[layer] += float(state[name.removeprefix("clip.")].double().pow(2).sum())  # type: ignore[assignment]
    return {f"layer {layer}": float(f"{value**0.5:.6g}") for layer, value in sorted(squares.items())}


def describe(architecture: Mapping[str, Any]) -> list[str]:
    """Lines on a released encoder: whose it is, what does not apply, and what was loaded."""
    if "release" not in architecture:
        return []
    release = zoo.named(architecture["release"])
    text = ", encoder.text" if release.text is not None else ""
    lines = [
        f"{release.title} ({release.name}; {release.licence}) brings its own architecture and preprocessing: "
        f"encoder.model, image, size, resize, mean, std{text} do not apply"
    ]
    if release.text is None:
        lines.append("it has no text tower: encoder.text or encoder.model gives one, whose projection starts random")
    weights = architecture.get("weights")
    if weights is None:
        return [*lines, f"no weights: give {release.name}:FILE ({release.source})"]
    dropped = "; ".join(f"{count} dropped: {why}" for why, count in weights["dropped"].items())
    lines.append(
        f"weights {weights['file']}: {weights['tensors']} tensors used, {dropped or 'none dropped'}; "
        f"fingerprint {weights['fingerprint']}"
    )
    return [*lines, *(f"  fresh: {why}" for why in weights["fresh"]), *(f"  {line}" for line in weights["said"])]


def converted(release: zoo.Release, content: Content, ours: Mapping[str, Tensor]) -> zoo.Converted:
    """The tensors of a file under our names. Raises UserError where they are not where the release has them."""
    written = content.metadata.get(zoo.RELEASE)
    if written == release.name:
        return zoo.Converted({n: t for n, t in content.entries.items() if isinstance(t, Tensor)})
    if written:
        raise UserError(
            f"encoder.weights: {content.path} was converted from {written}, not from {release.name}; set "
            f"encoder.weights={written}:{content.path}"
        )
    tensors = zoo.unwrap(release, content)
    if tensors is None:
        place = " or ".join(f"below the entry {w!r}" if w else "in the file itself" for w in release.wrapper)
        raise UserError(
            f"encoder.weights: {content.path} is no file of {release.name}, nothing loaded: its tensors would be "
            f"{place}, and the file holds {content}. {cause(release, content)}"
        )
    return zoo.convert(release, tensors, ours)


def refuse(release: zoo.Release, content: Content, found: zoo.Converted, wanted: Mapping[str, Tensor]) -> None:
    """Raise UserError with what does not fit and the likeliest cause, if anything does not."""
    missing = sorted(wanted.keys() - found.tensors.keys())
    extra = sorted(n for n in found.tensors.keys() - wanted.keys() if n not in found.unknown)
    shapes = {n: (list(t.shape), list(wanted[n].shape)) for n, t in found.tensors.items() if n in wanted}
    shapes = {n: (has, wants) for n, (has, wants) in shapes.items() if has != wants}
    parts = [
        f"{len(names)} {what}: {some(names)}"
        for what, names in (
            ("missing", missing),
            ("not known", found.unknown),
            ("too many", extra),
            ("of another shape", [f"{n} {has} instead of {wants}" for n, (has, wants) in shapes.items()]),
            ("that do not go together", found.wrong),
        )
        if names
    ]
    if not parts:
        return
    why = cause(release, content)
    if shapes and not missing and not extra and not found.unknown and all(POSITIONS.fullmatch(n) for n in shapes):
        why = f"Its positions are not those of {release.side} px; encoder.interpolate=true interpolates them"
    elif pairs := renamed([*found.unknown, *extra], found, missing, wanted):
        why = f"Renamed? {'; '.join(pairs)}. {why}"
    elif shapes and all(has == wants[::-1] for has, wants in shapes.values()):
        why = f"Transposed. {why}"
    raise UserError(
        f"encoder.weights: {content.path} does not fit {release.name} ({release.title}), nothing loaded: "
        f"{'; '.join(parts)}. {why}"
    )


def renamed(strange: list[str], found: zoo.Converted, missing: list[str], wanted: Mapping[str, Tensor]) -> list[str]:
    """Names that have no place, beside those of ours that they might be: alike, and of the same shape."""
    pairs = []
    for name in strange[:6]:
        shape = found.tensors[name].shape if name in found.tensors else None
        near = get_close_matches(name, [n for n in missing if shape in (None, wanted[n].shape)], 1, 0.4)
        if near:
            pairs.append(f"{name} for {near[0]} {list(wanted[near[0]].shape)}")
    return pairs


def cause(release: zoo.Release, content: Content) -> str:
    """The likeliest reason why a file does not fit."""
    names = {n for w in content.wrappers() for n in content.inside(w) or ()}
    if any(n.startswith(OURS) for n in names):
        return "It is a checkpoint of mdf, a whole model: name its folder as run.start_from or to from_pretrained"
    if fits := [name for name in zoo_identify.identify(content) if name != release.name]:
        choices = " or ".join(f"encoder.weights={name}:{content.path}" for name in fits[:3])
        return f"Its tensors are those of another release: set {choices}"
    inner = [w for w in content.wrappers() if w]
    if inner and not set(inner) & set(release.wrapper):
        return (
            f"It seems to be a whole training state, with tensors below {', '.join(map(repr, inner))}; no release of "
            "the table has this layout"
        )
    return "No release of the table has this layout: the file is damaged, was changed, or is of another architecture"


def positions(name: str, tensor: Tensor, wanted: Tensor, path: Path) -> Tensor:
    """Position embeddings on the grid of ours."""
    count, width = wanted.numel() // wanted.shape[-1], tensor.shape[-1]
    prefix = next((p for p in (0, 1, 5) if round((count - p) ** 0.5) ** 2 == count - p), 0)
    try:
        return resample(tensor, wanted, prefix)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"encoder.weights: {path}: {name} {list(tensor.shape)} (width {width}) cannot be interpolated to "
            f"{list(wanted.shape)}: {error}; nothing loaded"
        ) from error


def refuse_values(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError where weights are not numbers."""
    if wrong := [n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]:
        raise UserError(
            f"encoder.weights: {path}: {len(wrong)} tensors hold values that are no finite numbers ({some(wrong)}), "
            "nothing loaded; fetch the file again"
        )


def some(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")
