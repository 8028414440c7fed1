"""Pretrained encoders of U-Nets: bundled ones, files of an encoder or of a whole U-Net, and released U-Nets.

Of a whole segmentation-models-pytorch (or torchseg) model the encoder is taken, whole; decoder and head are left out,
since ours is made for the masks of the configuration. Every other tensor is refused.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import yaml
from torch import Tensor

from mdf.config import UNetConfig
from mdf.errors import UserError
from mdf.models import weights
from mdf.resources import DATA

TABLE = DATA / "unets.yaml"
# after what training code puts before it
ENCODER = re.compile(r"((?:(?:module|_orig_mod|model|net|unet)\.)*)encoder\.")
DROPPED = re.compile(r"(decoder|segmentation_head|classification_head)\.")
WHY = "ours is made for the masks of this configuration"
# timm's encoders (tu-NAME) that a file is compared with to name the one that fits; there are over a thousand
COMMON = (
    *("resnet18", "resnet34", "resnet50", "resnet50d", "resnext50_32x4d", "seresnet50", "seresnext50_32x4d"),
    *("resnest26d", "resnest50d", "efficientnet_b0", "efficientnet_b3", "tf_efficientnetv2_s", "mobilenetv3_large_100"),
)


@dataclass(frozen=True)
class Release:
    """One published U-Net, see mdf/data/unets.yaml."""

    title: str
    licence: str
    cite: str
    source: str  # where the user gets it
    files: list[str]
    megabytes: int
    encoder: str
    side: int
    mean: list[float]
    std: list[float]
    classes: list[str]
    trained_on: list[str]
    notes: str


@cache
def releases() -> dict[str, Release]:
    """All of mdf/data/unets.yaml by name."""
    return {name: Release(**values) for name, values in yaml.safe_load(TABLE.read_text(encoding="utf-8")).items()}


def reference(name: str | None) -> tuple[Release | None, str | None]:
    """`unet.weights` as a release, where it names one, and the file: NAME:FILE, NAME, FILE or a bundled name."""
    head, _, file = (name or "").partition(":")
    release = releases().get(head)
    return (release, file or None) if release else (None, name)


def encoder_name(cfg: UNetConfig) -> str:
    """The encoder that a U-Net has: its release's, else the configuration's."""
    release, _ = reference(cfg.weights)
    return release.encoder if release else cfg.encoder


def statistics(cfg: UNetConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that photographs are normalised with: the configuration's, else the weights'."""
    release, file = reference(cfg.weights)
    mean, std = (tuple(release.mean), tuple(release.std)) if release else weights.normalisation(file)
    return tuple(cfg.mean) or mean, tuple(cfg.std) or std


def encoder_state(cfg: UNetConfig) -> tuple[dict[str, Tensor], str]:
    """Weights with exactly the names and shapes of the encoder's own, and what is to be said of them.

    Raises UserError for a release without its file, and listing names that are missing or too many, with the encoder
    that they fit, if any.
    """
    release, file = reference(cfg.weights)
    if file is None:
        assert release is not None
        raise UserError(
            f"unet.weights: {cfg.weights} is a release and names no file; get {release.source} "
            f"({release.licence}, {release.megabytes} MB) and set unet.weights={cfg.weights}:FILE"
        )
    name = encoder_name(cfg)
    if file in weights.BUNDLED:
        return weights.unet_encoder_state(file, name), f"U-Net encoder {name}: {file}"
    state = weights.read_state(file, "unet.weights")
    whole = stripped(state)
    if whole is None:
        return one_encoder(state, name, file), f"U-Net encoder {name}: all {len(state)} tensors of {file}"
    found = {k.removeprefix("encoder."): v for k, v in whole.items() if k.startswith("encoder.")}
    rest = [k for k in whole if not k.startswith("encoder.")]
    if other := [k for k in rest if not DROPPED.match(k)]:
        raise UserError(
            f"unet.weights '{file}': {len(other)} tensors belong to no encoder, decoder or head of a U-Net: "
            f"{weights.some(other)}. Nothing loaded."
        )
    taken = one_encoder(found, name, file)
    said = f"U-Net encoder {name}: {len(found)} tensors of {file}; {len(rest)} of its decoder and head left out: {WHY}"
    if release and cfg.size != release.side:
        said += f"; trained at {release.side} px, here unet.size is {cfg.size}"
    return taken, said


def stripped(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors of a whole U-Net without what stands before their names; None where they are of no U-Net."""
    before = next((found[1] for name in state if (found := ENCODER.match(name))), None)
    if before is None or not any(DROPPED.match(name.removeprefix(before)) for name in state):
        return None
    return {name.removeprefix(before): value for name, value in state.items()}


def one_encoder(state: dict[str, Tensor], name: str, file: str) -> dict[str, Tensor]:
    """The tensors of an encoder, `name`'s to the last; a classifier is dropped, absent counters are filled in."""
    wanted = shapes(name)
    try:
        return weights.fit(
            state, wanted, f"unet.weights '{file}' do not fit the encoder '{name}'", ("fc", "classifier")
        )
    except UserError as error:
        near = fitting(state)
        advice = f" They fit unet.encoder={' or '.join(near[:3])}." if near else ""
        raise UserError(f"{error}{advice}") from None


def shapes(name: str) -> dict[str, Tensor]:
    """The state dict of an encoder without content. Raises UserError for an encoder that there is not."""
    from segmentation_models_pytorch.encoders import get_encoder

    check(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                return get_encoder(name, weights=None).state_dict()
        except RuntimeError:  # a few read numbers of their own as they are built
            return get_encoder(name, weights=None).state_dict()


def check(name: str) -> None:
    """Raise UserError where segmentation-models-pytorch has no such encoder, and timm neither (tu-NAME)."""
    import difflib

    import segmentation_models_pytorch as smp
    import timm

    if name in smp.encoders.get_encoder_names() or (name.startswith("tu-") and timm.is_model(name[3:])):
        return
    known = [*smp.encoders.get_encoder_names(), *(f"tu-{n}" for n in timm.list_models())]
    raise UserError(
        f"unet.encoder: segmentation-models-pytorch has no encoder {name!r}; nearest: "
        f"{', '.join(difflib.get_close_matches(name, known, 5)) or 'none'}"
    )


def fitting(state: Mapping[str, Tensor]) -> list[str]:
    """The encoders whose tensors these are, by names and shapes."""
    own = {k: tuple(v.shape) for k, v in state.items() if not k.startswith(("fc.", "classifier."))}
    own = {k: v for k, v in own.items() if not k.endswith("num_batches_tracked")}
    out = []
    for family in _families(timm=all(name.startswith("model.") for name in own)):
        for name in family:
            found = {k: tuple(v.shape) for k, v in shapes(name).items() if not k.endswith("num_batches_tracked")}
            if not found.keys() & own.keys():
                break  # nor do its sisters have such names
            if found == own:
                out.append(name)
        if out:
            break
    return out


def _families(timm: bool) -> Iterator[list[str]]:
    """Names of encoders that are built by one class each; timm's, or segmentation-models-pytorch's own."""
    from segmentation_models_pytorch.encoders import encoders

    if timm:
        yield from ([f"tu-{name}"] for name in COMMON)
        return
    groups: dict[Any, list[str]] = {}
    for name, spec in encoders.items():
        groups.setdefault(spec["encoder"], []).append(name)
    yield from groups.values()
