"""What tests share: real photographs where they are at hand, small pictures, and running a script as a user does."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets: $MDF_DATA, else ../shared/data beside the repository."""
    folder = Path(os.environ.get("MDF_DATA") or REPO.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"real photographs are not at hand: {folder} is missing (set MDF_DATA)")
    return folder


@pytest.fixture
def photograph() -> Callable[..., Path]:
    """photograph(path, size=(48, 40), seed=0) writes a small picture of width x height pixels and returns its path."""

    def write(path: Path, size: tuple[int, int] = (48, 40), seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """run_script("prepare.py", "list") runs scripts/prepare.py in a temporary folder, as a user would."""

    def run(name: str, *args: object) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])
        env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MDF_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, str(REPO / "scripts" / name), *map(str, args)]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)

    return run


def assert_refused(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """The script ended with exit code 2 and one message that holds `parts`, without a traceback."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error:") == 1
    for part in parts:
        assert part in result.stderr, result.stderr


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """small(NAME): a released encoder's file with random weights, and the table with a small stand-in for it."""

    def made(name: str) -> Any:
        from mdf.models import zoo
        from tests.models.released import published

        found = published(name)
        monkeypatch.setitem(zoo.releases(), name, replace(zoo.releases()[name], **found.changes))
        return found

    return made
