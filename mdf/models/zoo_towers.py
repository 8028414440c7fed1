"""Image towers of released encoders (mdf/data/zoo.yaml, `image`), with each release's own way to make one vector.

`image` is one of
- {open_clip: NAME, ...}: open_clip's architecture, with its values changed as the rest says;
- {timm: NAME, args: {...}, patch: P, pool: POOL, proj: E, bias: true}: a timm trunk made with these arguments, whose
  position embeddings (where P is given) follow the side; POOL is one of POOLS; with E a linear projection follows,
  without a bias or with one;
- the same with `beside`: {open_clip: NAME, side: S}, whose unit embedding is added (VisionUnite).

Shapes: B photographs, C channels, S side, N patches of width d, E embedding width.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# own: as timm pools the trunk; token: the class token; mean: the mean of the patch tokens; mean+token: one after the
# other; tokens4: the class tokens of the last four blocks, each through the final norm, one after the other; branch:
# the mean of the patch tokens of the last MLP alone, without the stream that it is added to, then LayerNorm
POOLS = ("own", "token", "mean", "mean+token", "tokens4", "branch")


class ReleasedTower(nn.Module):
    """A timm trunk, one of POOLS, and a projection where the release has one."""

    def __init__(self, image: Mapping[str, Any], side: int, pooled: str = ""):
        """Build it with random weights.

        Args:
            image: as in the table.
            side: S.
            pooled: the pooling in words.
        """
        import timm

        super().__init__()
        args = dict(image.get("args") or {})
        if image.get("patch"):
            args["img_size"] = side
        self.trunk = timm.create_model(image["timm"], num_classes=0, **args)
        self.pool, self.pooled = image.get("pool", "own"), pooled
        assert self.pool in POOLS, self.pool
        width = getattr(self.trunk, "head_hidden_size", self.trunk.num_features)
        proj = image.get("proj")
        bias = bool(image.get("bias"))
        self.head = nn.Sequential(OrderedDict(proj=nn.Linear(width, proj, bias=bias)) if proj else OrderedDict())
        self.image_size = (side, side)

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """[B,C,S,S] -> embedding [B,E], not normalised, and patch tokens [B,N,d] or a map [B,d,h,w]."""
        trunk = self.trunk
        if self.pool == "tokens4":
            out = trunk.forward_intermediates(
                pixels, indices=4, norm=True, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
            )
            return self.head(torch.cat([prefix[:, 0] for _, prefix in out], dim=-1)), out[-1][0]
        if self.pool == "branch":
            last = trunk.blocks[-1]
            x = trunk.forward_intermediates(
                pixels, indices=[len(trunk.blocks) - 2], return_prefix_tokens=True, output_fmt="NLC",
                intermediates_only=True, stop_early=True,
            )[0]  # fmt: skip
            x = torch.cat([x[1], x[0]], dim=1)
            x = x + last.attn(last.norm1(x))
            patches = last.mlp(last.norm2(x))[:, 1:]
            return self.head(trunk.fc_norm(patches.mean(1))), patches
        x = trunk.forward_features(pixels)
        patches = x[:, getattr(trunk, "num_prefix_tokens", 0) :] if x.ndim == 3 else x
        pooled = {
            "own": lambda: trunk.forward_head(x),
            "token": lambda: x[:, 0],
            "mean": lambda: patches.mean(1),
            "mean+token": lambda: torch.cat([patches.mean(1), x[:, 0]], dim=-1),
        }[self.pool]()
        return self.head(pooled), patches

    def forward(self, pixels: Tensor) -> Tensor:
        """[B,C,S,S] -> [B,E], not normalised."""
        return self.features(pixels)[0]


class SummedTower(ReleasedTower):
    """A trunk whose embedding gets the unit embedding of a second tower added, which sees a smaller photograph."""

    def __init__(self, image: Mapping[str, Any], side: int, pooled: str = ""):
        super().__init__(image, side, pooled)
        beside = image["beside"]
        config = open_clip_config(beside)
        self.beside = open_clip_tower(config)
        self.small = config["vision_cfg"]["image_size"]

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        pooled, patches = super().features(pixels)
        small = F.interpolate(pixels, (self.small, self.small), mode="bilinear")  # without antialiasing, as theirs
        return pooled + F.normalize(self.beside(small), dim=-1), patches


def open_clip_config(image: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's configuration of an `image`, with what else it says put in."""
    import open_clip

    config = open_clip.get_model_config(image["open_clip"])
    changed = {k: v for k, v in image.items() if k not in ("open_clip", "embed_dim", "side")}
    vision = dict(config["vision_cfg"]) | changed
    vision.setdefault("image_size", 224)
    return config | {"vision_cfg": vision, "embed_dim": image.get("embed_dim", config["embed_dim"])}


def open_clip_tower(config: Mapping[str, Any]) -> nn.Module:
    """The image tower alone of an open_clip configuration, random."""
    import open_clip

    text = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
    keys = ("embed_dim", "vision_cfg", "quick_gelu")
    return open_clip.CLIP(**{k: config[k] for k in keys if k in config}, text_cfg=text).visual


def build(vision: Mapping[str, Any]) -> ReleasedTower:
    """The tower of a `vision_cfg` that holds an `image` of the table under `release`."""
    image, side = vision["release"], vision["image_size"]
    made = SummedTower if "beside" in image else ReleasedTower
    return made(image, side[0] if isinstance(side, tuple | list) else side, vision.get("pooled", ""))


def resample(positions: Tensor, wanted: Tensor, prefix: int) -> Tensor:
    """Position embeddings [1,P+N,d] (or without the first dimension) on the grid of `wanted`, after P of them.

    Bicubic without antialiasing, as the loaders of MAE and DINO and of what was made from them do it.
    """
    table = positions.reshape(-1, positions.shape[-1]).float()
    first, grid = table[:prefix], table[prefix:]
    old, new = round(len(grid) ** 0.5), round((wanted.numel() // wanted.shape[-1] - prefix) ** 0.5)
    if old * old != len(grid) or wanted.shape[-1] != positions.shape[-1]:
        raise ValueError("they are not those of a square grid of that width")
    square = grid.T.reshape(1, -1, old, old)
    scaled = F.interpolate(square, (new, new), mode="bicubic", align_corners=False)
    return torch.cat([first, scaled.flatten(2)[0].T]).reshape(wanted.shape).to(positions.dtype)
