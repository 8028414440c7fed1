"""The process's memory: what is freed is kept for the next step instead of going back to the system."""

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # numbers of malloc.h
KEPT = 1 << 30  # bytes free at the heap's end before any go back


def keep_freed_memory() -> bool:
    """Let glibc reuse freed tensors; False where the C library is another one, and nothing changes.

    glibc by default asks the system for every tensor above 32 MB and gives it back when it is freed; the system clears
    each page anew. On two cores that was a fifth of a training step (docs/decisions.md). GPUs have torch's own cache.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, KEPT))
