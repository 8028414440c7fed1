"""Language models without their weights: the configuration from their folder or from mdf/data/language_models.yaml."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml

from mdf.config import LanguageConfig
from mdf.errors import UserError
from mdf.models.language import attention
from mdf.resources import DATA


@cache
def known() -> dict[str, dict[str, Any]]:
    """Shapes of language models by name, as transformers' configurations have them, and `parameters`, their number."""
    return yaml.safe_load((DATA / "language_models.yaml").read_text(encoding="utf-8"))


def architecture(name: str) -> Any:
    """The transformers configuration of a language model: a folder's, a known one's, or one in the hub's local cache.

    Raises UserError where none of them has it.
    """
    from transformers import AutoConfig

    folder = Path(name).expanduser()
    if not folder.is_dir() and name in known():
        values = {k: v for k, v in known()[name].items() if k != "parameters"}
        return AutoConfig.for_model(values.pop("model_type"), **values)
    try:
        return AutoConfig.from_pretrained(folder if folder.is_dir() else name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"language.model: the shapes of {name!r} are not known here, so nothing can be planned; give the folder "
            f"with its config.json, or one of {', '.join(known())}"
        ) from error


def empty_language(cfg: LanguageConfig, dtype: torch.dtype) -> Any:
    """The language model with tensors of the device that is current (meta, or tensors without content)."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    config = architecture(cfg.model)
    kind: Any = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    return kind.from_config(config, dtype=dtype, attn_implementation=attention(cfg, dtype))


def count(name: str) -> int:
    """Parameters of a language model, from its shapes."""
    with torch.device("meta"):
        return sum(p.numel() for p in empty_language(LanguageConfig(model=name), torch.bfloat16).parameters())
