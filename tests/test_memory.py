"""Freed memory stays with the process for the next step."""

import subprocess
import sys

import pytest

PROGRAM = """
import mmap, resource, sys
import torch
from mdf.memory import keep_freed_memory
if "keep" in sys.argv and not keep_freed_memory():
    sys.exit(3)
for _ in range(10):  # until what lives on lies below
    torch.ones(25_000_000)  # 100 MB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(25_000_000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * mmap.PAGESIZE / 1e9)
"""


def share_fetched_anew(*args: str) -> float:
    """The share of ten tensors of 100 MB whose pages the system had to hand out again."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *args], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("the C library is not glibc")
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def test_a_tensor_as_large_as_one_just_freed_takes_few_new_pages():
    assert share_fetched_anew("keep") < 0.5  # all of them without
