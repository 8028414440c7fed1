"""What is asked before a model is loaded: is there a checkpoint, is the picture a retina. No torch here."""

from pathlib import Path
from typing import TYPE_CHECKING

from mdf.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from mdf.imaging.quality import Quality

BANNER = (
    "AI-generated DRAFT. Research use only. Not a medical device; not cleared or CE-marked. Not for diagnosis, "
    "screening or treatment decisions. A qualified clinician must review the images themselves."
)


class NoRetina(UserError):
    """The picture can be read and is no fundus photograph."""


def resolve_checkpoint(path: str | Path) -> Path:
    """The checkpoint directory that `path` is or, for a run directory, holds (best/, said aloud).

    Raises UserError where there is none.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(
            f"--checkpoint {path}: no such folder; give a run folder (runs/NAME) or one of its best/ and last/"
        )
    if (path / "preprocessing.json").is_file():
        return path
    if (path / "best" / "preprocessing.json").is_file():
        print(f"{path} is a run: taking {path / 'best'}")
        return path / "best"
    raise UserError(
        f"--checkpoint {path}: neither a checkpoint nor a run with best/ (has the run reached its first validation?)"
    )


def gate(path: str | Path, *, force: bool = False) -> tuple["np.ndarray", "Quality", str | None]:
    """Decode and check a photograph: uint8 [H,W,3], its quality, and what speaks against an answer (None: nothing).

    Raises UserError for a file that cannot be read and, unless `force`, for a picture that is no retina.
    """
    from mdf.imaging.decode import load_image  # not above: reports are read and written without looking at a picture
    from mdf.imaging.quality import assess

    image = load_image(path)
    quality = assess(image)
    because = f" ({'; '.join(quality.reasons)})" if quality.reasons else ""
    if not quality.is_retina and not force:
        raise NoRetina(f"{path} is not a fundus photograph{because}. Nothing was answered; --force asks all the same.")
    if not quality.is_retina:
        warning = f"This does not look like a fundus photograph{because}: whatever is said about it means nothing."
    elif quality.gradable == "not":
        warning = f"This photograph cannot be graded{because}: repeat it or examine the eye."
    elif quality.gradable == "barely":
        warning = f"This photograph can barely be graded{because}: answers are less certain than they sound."
    else:
        warning = None
    return image, quality, warning
