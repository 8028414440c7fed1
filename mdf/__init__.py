"""mdf trains multimodal large language models that read colour fundus photographs."""

from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "MDFModel": "mdf.models.fusion",
    "MDFConfig": "mdf.models.fusion",
    "MDFProcessor": "mdf.processor",
    "load_config": "mdf.config",
    "read_manifest": "mdf.records",
}
__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that `import mdf` stays free of torch."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'mdf' has no attribute {name!r}")
