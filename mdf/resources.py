"""Where the files that come with mdf lie, and where files that mdf makes for itself are kept."""

import os
from pathlib import Path

from mdf.errors import UserError

PACKAGE = Path(__file__).resolve().parent
DATA = PACKAGE / "data"  # vocabulary.yaml, open_clip/*.json


def bundled(kind: str) -> Path:
    """The folder of bundled files of `kind`: "configs" or "prompts".

    A wheel carries them inside the package, an editable install has them beside it.
    Raises UserError where neither is there.
    """
    for folder in (PACKAGE / "_resources" / kind, PACKAGE.parent / kind):
        if folder.is_dir():
            return folder
    raise UserError(f"the {kind} that come with mdf are not beside the package in {PACKAGE}: install mdf again")


def cache_dir() -> Path:
    """Folder for what mdf can make again (drawn phantoms, weights): $MDF_CACHE, else `mdf` in the user's cache."""
    if os.environ.get("MDF_CACHE"):
        return Path(os.environ["MDF_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mdf"
