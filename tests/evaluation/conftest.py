from tests.tiny_checkpoint import checkpoint

__all__ = ["checkpoint"]
