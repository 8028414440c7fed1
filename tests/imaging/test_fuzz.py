"""Hostile files through decoding: refused in one line or decoded; no crash, hang, noise, or memory above the promise.

Each test runs in a process of its own, which a broken decoder may take down. What failed is named by its seed:
`python -c "from tests.imaging.mutations import mutate; print(mutate(SEED))"`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.imaging.mutations import MUTATIONS, bases, mutate

FAST, ALL = 200, 10_000


def fuzz(folder: Path, count: int, *kind: str) -> dict:
    """What `tests/imaging/fuzz.py` found; fails with the seed where its process ended early."""
    command = [sys.executable, "-m", "tests.imaging.fuzz", "0", str(count), str(folder), *kind]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=7200, check=False)
    seed = (folder / "seed").read_text() if (folder / "seed").exists() else "no seed yet"
    assert done.returncode == 0, f"ended with {done.returncode} at {seed}:\n{done.stderr[-3000:]}"
    assert done.stderr == "", f"noise on stderr:\n{done.stderr[:2000]}"
    found = json.loads(done.stdout)
    print(json.dumps(found, indent=1))
    assert not found["failures"], "\n".join(found["failures"][:20])
    assert sum(found["outcomes"].values()) == count
    return found


def check(found: dict) -> None:
    kinds = {change.__name__ for change in MUTATIONS}
    assert {outcome.split()[0] for outcome in found["outcomes"]} == kinds
    decoded = sum(n for outcome, n in found["outcomes"].items() if outcome.endswith("decoded"))
    assert 0.1 < decoded / sum(found["outcomes"].values()) < 0.9  # the files are neither all whole nor all hopeless


def test_every_seed_gives_the_same_file_again():
    assert [mutate(seed) for seed in range(20)] == [mutate(seed) for seed in range(20)]


def test_the_files_that_are_mutated_are_whole(tmp_path):
    from mdf.imaging.decode import load_image

    for name, data in bases().items():
        (tmp_path / "whole.jpg").write_bytes(data)
        assert load_image(tmp_path / "whole.jpg").ndim == 3, name


def test_two_hundred_hostile_files(tmp_path):
    check(fuzz(tmp_path, FAST))


@pytest.mark.slow
def test_ten_thousand_hostile_files(tmp_path):
    check(fuzz(tmp_path, ALL))


def test_hostile_dicom_files(tmp_path):
    pytest.importorskip("pydicom")
    fuzz(tmp_path, 100, "dicom")


@pytest.mark.slow
def test_three_thousand_hostile_dicom_files(tmp_path):
    pytest.importorskip("pydicom")
    fuzz(tmp_path, 3000, "dicom")
