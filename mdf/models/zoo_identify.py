"""Which release a file of weights is of, told by the names and shapes of its tensors alone."""

import json
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from mdf.config import EncoderConfig
from mdf.models import towers, zoo
from mdf.models.weight_files import Content


def identify(content: Content) -> list[str]:
    """Names of the releases that a file fits, [] where it fits none; several where releases share a layout."""
    written = content.metadata.get(zoo.RELEASE)
    if written in zoo.releases():
        return [written]
    return [name for name, release in zoo.releases().items() if fits(release, content)]


def fits(release: zoo.Release, content: Content) -> bool:
    """Whether every tensor of a file has its place in a release's towers, and every one of theirs is there.

    Position embeddings may be of another grid.
    """
    tensors = zoo.unwrap(release, content)
    if tensors is None or any(zoo.first_match(release, name)[0] is None for name in tensors):
        return False
    ours = shapes(release.name)
    wanted = zoo.of_release(release, ours)
    found = zoo.convert(release, {n: torch.empty_like(t, device="meta") for n, t in tensors.items()}, ours)
    return (
        not found.wrong
        and found.tensors.keys() == wanted.keys()
        and all(alike(name, tensor, wanted[name]) for name, tensor in found.tensors.items())
    )


def alike(name: str, tensor: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor has the shape of ours, position embeddings their width."""
    if name.startswith("visual.") and name.endswith(("pos_embed", "positional_embedding")):
        return tensor.shape[-1] == wanted.shape[-1] and tensor.ndim == wanted.ndim
    return tensor.shape == wanted.shape


def shapes(name: str) -> Mapping[str, Tensor]:
    """Our tensors of a release, of its true size and without content."""
    return built(json.dumps(towers.resolve(EncoderConfig(weights=name), at_hand=False)))


@cache
def built(architecture: str) -> Mapping[str, Tensor]:
    with torch.device("meta"):
        return towers.build(json.loads(architecture)).state_dict()
