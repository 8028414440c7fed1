"""Running the real scripts: in a process of their own, or in this one where loading torch again would cost the most."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def environment() -> dict[str, str]:
    """This environment with the repository on the path."""
    path = os.pathsep.join([str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


def start(name: str, *args: object, stdin: str = "") -> subprocess.CompletedProcess:
    """The script in its own process."""
    words = [sys.executable, str(SCRIPTS / name), *map(str, args)]
    return subprocess.run(words, capture_output=True, text=True, timeout=600, input=stdin, env=environment())


def run(name: str, *args: object) -> int:
    """The script in this process; its exit code."""
    before, sys.argv = sys.argv, [name, *map(str, args)]
    try:
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    except SystemExit as done:
        return int(done.code or 0)
    finally:
        sys.argv = before
    return 0
