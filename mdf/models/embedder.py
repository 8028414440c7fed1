"""The encoder of a checkpoint, or one from an architecture and weights, without U-Net, fusion and language model.

Shapes: N photographs or texts, S the encoder's side, E embedding width.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mdf.caption_tokenizer import CaptionTokenizer
from mdf.config import EncoderConfig
from mdf.dialogue import Prompts
from mdf.errors import UserError
from mdf.imaging.preprocess import Preprocessing
from mdf.models.checkpoint import read_config, refuse, refuse_shapes
from mdf.models.configuration import MDFConfig
from mdf.models.fundus_encoder import FundusEncoder
from mdf.models.photographs import as_released
from mdf.models.towers import captions_of
from mdf.models.weights import fingerprint
from mdf.processor import Inputs, MDFProcessor
from mdf.resources import bundled

PREFIX = "encoder."


class EncoderProcessor(MDFProcessor):
    """Preprocessing, caption tokens and prompts of an encoder that no checkpoint belongs to."""

    def __init__(
        self, preprocessing: Preprocessing, captions: CaptionTokenizer
    ):  # no tokenizer: it answers no question
        self.preprocessing, self.context_length = preprocessing, captions.context_length
        self.prompts, self.diagnoses = Prompts(bundled("prompts")), ()
        self.caption_tokenizer = captions


class Embedder:
    """`embed_image` and `embed_text` as `MDFModel` has them, in eval mode, at a fraction of its memory."""

    def __init__(self, encoder: FundusEncoder, processor: MDFProcessor, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.encoder = encoder.eval().requires_grad_(False).to(self.device)
        side = processor.preprocessing.encoder_size
        # the U-Net's input is not looked at: as small as the encoder's; nor is the language model's own
        processor.preprocessing = replace(processor.preprocessing, unet_size=side, language_size=0)
        processor.image_processor = None
        self.processor = processor

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str = "cpu") -> "Embedder":
        """The encoder of a checkpoint directory. Raises UserError where its tensors do not fit."""
        from safetensors import SafetensorError, safe_open

        folder = Path(folder)
        config = read_config(MDFConfig, folder)
        encoder = FundusEncoder(config.sections()[0], load=False, architecture=config.encoder or None)
        path = folder / "model.safetensors"
        try:
            with safe_open(path, "pt") as file:
                names = list(file.keys())
                tensors = {n.removeprefix(PREFIX): file.get_tensor(n) for n in names if n.startswith(PREFIX)}
        except SafetensorError as error:
            raise UserError(f"{path} is damaged ({error}); take the checkpoint again from its run") from error
        wanted = encoder.state_dict()
        refuse(folder, path.name, sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys()))
        refuse_shapes(path, tensors, wanted)
        encoder.load_state_dict(tensors)
        return cls(encoder, MDFProcessor.from_pretrained(folder), device)

    @classmethod
    def build(cls, cfg: EncoderConfig, device: torch.device | str = "cpu") -> "Embedder":
        """An encoder that no run of ours trained: a baseline. What its weights lack is random, the same every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            encoder = FundusEncoder(cfg)
        mean, std = encoder.statistics
        preprocessing = Preprocessing(encoder_size=encoder.size, encoder_mean=mean, encoder_std=std, resize=cfg.resize)
        preprocessing = as_released(preprocessing, encoder.architecture)
        return cls(encoder, EncoderProcessor(preprocessing, captions_of(encoder.architecture)), device)

    def eval(self) -> "Embedder":
        return self

    @torch.no_grad()
    def embed_image(self, inputs: Inputs | Tensor) -> Tensor:
        """Photographs (the processor's output, or pixel_values [N,3,S,S]) -> unit embeddings [N,E]."""
        pixels = inputs if isinstance(inputs, Tensor) else inputs["pixel_values"]
        return self.encoder(pixels.to(self.device))[0]

    @torch.no_grad()
    def embed_text(self, texts: list[str]) -> Tensor:
        """Captions -> unit embeddings [N,E] in the space of `embed_image`."""
        return self.encoder.encode_text(self.processor.tokenize_captions(texts).to(self.device))

    @torch.no_grad()
    def embed_patient(self, left: Tensor, right: Tensor) -> Tensor:
        """pixel_values [N,3,S,S] of left and right eyes -> unit embeddings [N,E] of the patients (RET-CLIP's heads)."""
        return self.encoder.encode_patient(left.to(self.device), right.to(self.device))[0]

    def hash(self) -> str:
        """16 hex digits that change with the encoder's weights or with how photographs are prepared for it."""
        state = fingerprint(self.encoder.state_dict())
        return hashlib.sha256(f"{state} {self.processor.preprocessing.hash()}".encode()).hexdigest()[:16]
