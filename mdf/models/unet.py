"""UNet: a segmentation-models-pytorch U-Net whose skip maps are also handed to the language model.

Shapes: B photographs, U input side, F_l [B,C_l,H_l,W_l] skip at depth l (stride 2^l), K masks.
"""

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from mdf.config import UNetConfig
from mdf.errors import UserError
from mdf.models import unet_weights
from mdf.models.depthwise import depthwise_in_float32
from mdf.models.normalization import batchnorm_to_groupnorm, freeze_statistics

DEPTHS = 4  # skips handed out: strides 2, 4, 8, 16


class UNet(nn.Module):
    """U-Net with a pretrained encoder (its BatchNorm keeps its statistics) or one from scratch (GroupNorm).

    The decoder always trains from scratch and uses GroupNorm. It reads the skips before FiLM, so masks never depend on
    a prompt.
    """

    def __init__(self, cfg: UNetConfig, load: bool = True):
        """Build the U-Net; `load` False leaves the named weights to a checkpoint."""
        super().__init__()
        self.loaded = ""  # what is to be said of weights that were read
        name = unet_weights.encoder_name(cfg)
        unet_weights.check(name)
        self.net = smp.Unet(
            name,
            encoder_weights=None,
            decoder_channels=cfg.decoder_channels,
            classes=max(1, len(cfg.masks)),
        )
        batchnorm_to_groupnorm(self.net.decoder)
        if not cfg.weights:
            batchnorm_to_groupnorm(self.net.encoder)
        elif load:
            state, self.loaded = unet_weights.encoder_state(cfg)
            self.net.encoder.load_state_dict(state, strict=True)
        # most pixels belong to no mask: start there, not at one half
        nn.init.constant_(self.net.segmentation_head[0].bias, -2.0)
        self.masks = cfg.masks
        self.size = cfg.size
        self.channels: tuple[int, ...] = tuple(self.net.encoder.out_channels[1 : DEPTHS + 1])  # C_1..C_4
        if 0 in self.channels:
            raise UserError(
                f"unet.encoder: {name} has no map at stride {2 ** (self.channels.index(0) + 1)}; "
                "the skips are those at strides 2, 4, 8 and 16, as of a ResNet"
            )
        depthwise_in_float32(self.net.encoder)
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "UNet":
        super().train(mode)
        freeze_statistics(self)
        return self

    def encode(self, unet_pixels: Tensor) -> list[Tensor]:
        """[B,3,U,U] -> feature maps at strides 1 (the input itself), 2, 4, 8, 16, 32."""
        return self.net.encoder(unet_pixels.contiguous(memory_format=torch.channels_last))

    def decode(self, features: list[Tensor]) -> Tensor:
        """The maps of `encode` -> mask logits [B,K,U,U]."""
        return self.net.segmentation_head(self.net.decoder(features))

    def forward(self, unet_pixels: Tensor) -> Tensor:
        """[B,3,U,U] -> mask logits [B,K,U,U]."""
        return self.decode(self.encode(unet_pixels))
