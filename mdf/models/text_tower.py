"""TextTower: a BERT-family encoder of transformers as the text tower of a CLIP model.

Shapes: B captions, T tokens, d its width, E embedding width.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mdf.errors import UserError
from mdf.hub import quick_to_fail

# beyond those of open_clip's configurations, FLAIR's (Silva-Rodriguez et al. 2025): the mean over the first, the second
# and the last layer and over all positions, padding included; or, as it should be, over those of real tokens
LAYERS, LAYERS_PADDED = "layers_mean_pooler", "layers_padded_mean_pooler"
POOLING = ("mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler", LAYERS, LAYERS_PADDED)
OFFSET = ("roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "roberta-prelayernorm", "longformer")


def read_config(source: str | Path) -> dict[str, Any]:
    """The configuration of a text model in a local folder or on the hub, as plain values."""
    from transformers import AutoConfig

    try:
        with quick_to_fail(source):
            config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"encoder.text: {source} has no configuration that transformers reads ({reason})") from error
    if getattr(config, "pad_token_id", None) is None:
        raise UserError(
            f"encoder.text: {source} is a {config.model_type} model without padding; BERT-family encoders are supported"
        )
    return config.to_dict() | {"model_type": config.model_type}


def longest(config: dict[str, Any]) -> int:
    """Tokens, start and end among them, that a text model has positions for; 512 where it sets no limit."""
    positions = config.get("max_position_embeddings") or 512
    # these count positions from behind the padding token's number
    return positions - (config["pad_token_id"] + 1 if config["model_type"] in OFFSET else 0)


class TextTower(nn.Module):
    """Embeddings of captions: the mean over their real tokens (or the first token), projected."""

    def __init__(self, config: dict[str, Any], embed_dim: int, pool: str = "mean_pooler", proj: str = "linear"):
        """Build it with random weights.

        Args:
            config: of the text model, as `read_config` gives it.
            embed_dim: E.
            pool: one of POOLING.
            proj: see `projection`.
        """
        from transformers import AutoConfig, AutoModel

        super().__init__()
        if pool not in POOLING:
            raise UserError(f"encoder.model: pooling {pool!r} of the text tower must be one of {', '.join(POOLING)}")
        values = dict(config)
        made = AutoConfig.for_model(values.pop("model_type"), **values)
        made.use_cache = False  # nothing is generated
        self.transformer = body(AutoModel.from_config(made, dtype=torch.float32), pool)
        if pool in (LAYERS, LAYERS_PADDED) and made.num_hidden_layers < 2:
            raise UserError(f"encoder.text_pooling: {pool} reads two layers, and the text tower has one")
        self.pad_id, self.pool = int(made.pad_token_id), pool
        self.width: int = made.hidden_size
        self.proj = projection(proj, self.width, embed_dim)

    def load(self, folder: str | Path) -> None:
        """Fill all but the projection. Raises UserError where the folder lacks a part of the text model."""
        from transformers import AutoModel
        from transformers.utils import logging

        verbosity, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            model, found = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"encoder.text: the weights in {folder} do not load ({reason})") from error
        finally:
            logging.set_verbosity(verbosity)
            if shown:
                logging.enable_progress_bar()
        lacking = [n for n in found["missing_keys"] if not n.startswith("pooler.") or self.pool == "cls_pooler"]
        if lacking:
            raise UserError(
                f"encoder.text: the weights in {folder} lack {len(lacking)} tensors of their own configuration "
                f"({', '.join(sorted(lacking)[:5])}); nothing loaded"
            )
        self.transformer.load_state_dict(body(model, self.pool).state_dict())

    def forward(self, caption_ids: Tensor) -> Tensor:
        """int64 [B,T], padded on the right -> [B,E], not normalised."""
        return self.proj(self.pooled(caption_ids))

    def pooled(self, caption_ids: Tensor, pool: str | None = None) -> Tensor:
        """int64 [B,T], padded on the right -> [B,d], what is projected; `pool` None = as the tower was built."""
        pool = pool or self.pool
        real = caption_ids != self.pad_id
        layers = pool in (LAYERS, LAYERS_PADDED)
        out = self.transformer(input_ids=caption_ids, attention_mask=real.long(), output_hidden_states=layers)
        states = out.last_hidden_state
        if layers:
            first, second, last = (out.hidden_states[at].float() for at in (1, 2, -1))
            states = (first + second + last) / 3
        if pool == LAYERS_PADDED:
            return states.mean(1)
        if pool in ("mean_pooler", LAYERS):
            weight = real[..., None].float()
            return (states.float() * weight).sum(1) / weight.sum(1).clamp(min=1)
        if pool == "cls_pooler" and getattr(out, "pooler_output", None) is not None:
            return out.pooler_output
        return states[:, 0]


def projection(kind: str, width: int, embed_dim: int) -> nn.Module:
    """[·,width] -> [·,embed_dim]: open_clip's linear, mlp and none, without biases, or relu, RET-CLIP's, with them."""
    middle = (width + embed_dim) // 2
    made = {
        "linear": lambda: nn.Linear(width, embed_dim, bias=False),
        "mlp": lambda: nn.Sequential(
            nn.Linear(width, middle, bias=False), nn.GELU(), nn.Linear(middle, embed_dim, bias=False)
        ),
        "relu": lambda: nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, embed_dim)),
        "none": nn.Identity,
    }
    if kind not in made:
        raise UserError(f"encoder.model: projection {kind!r} of the text tower must be one of {', '.join(made)}")
    return made[kind]()


def body(model: Any, pool: str) -> Any:
    """What is used of a text model: its encoder, without the decoder of a translator and without a pooler not asked."""
    if model.config.is_encoder_decoder:
        return model.encoder
    if pool != "cls_pooler" and getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model
