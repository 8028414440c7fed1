"""ACRIMA: `Im001_ACRIMA.jpg` has no glaucoma, `Im686_g_ACRIMA.jpg` has. The photographs are cut out around the disc.

The release says neither patient nor eye. In a cut-out there is no macula and no field of
view to find, so that "normal" says no more than no glaucoma.
"""

import re
from pathlib import Path

from mdf.datasets.common import image_files, some, unique_ids
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord

GUIDE = Guide(
    "acrima",
    "glaucoma or none; cut out around the disc",
    "705 (396 glaucoma, 309 without)",
    "CC BY 4.0",
    "Diaz-Pinto et al., CNNs for automatic glaucoma assessment using fundus images: an extensive validation, "
    "BioMedical Engineering OnLine, 2019",
    "figshare, 'CNNs for Automatic Glaucoma Assessment using Fundus Images: An Extensive Validation'",
    "DIR/Im001_ACRIMA.jpg, DIR/Im686_g_ACRIMA.jpg, … (anywhere below DIR)",
)

NAME = re.compile(r"Im\d+(_g)?_ACRIMA", re.IGNORECASE)


def read(root: Path) -> list[FundusRecord]:
    """A record for each photograph. Raises UserError for other file names."""
    names = [f.relative_to(root).as_posix() for f in image_files(root, "ACRIMA")]
    found = [NAME.fullmatch(Path(name).stem) for name in names]
    wrong = [name for name, match in zip(names, found, strict=True) if match is None]
    if wrong:
        raise UserError(f"{root}: {len(wrong)} names are not like Im001_ACRIMA or Im686_g_ACRIMA: {some(wrong)}")
    return [
        FundusRecord(
            id=id_,
            image=name,
            diagnosis=("glaucoma" if match is not None and match[1] else "no_glaucoma",),
            source="acrima",
            license="CC BY 4.0",
            extra={"crop": "disc"},
        )
        for id_, name, match in zip(unique_ids(names), names, found, strict=True)
    ]
