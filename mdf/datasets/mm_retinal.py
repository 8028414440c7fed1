"""MM-Retinal: photographs from atlases with an expert's text: `CFP_translated_v1.csv` and `CFP/NAME.png|jpg|jpeg`.

Only the colour photographs (CFP) are read; the release's angiographies (FFA) and tomographies (OCT) are left out. They
come from printed books: some have arrows or letters in them, and no patient is known.
"""

from pathlib import Path

from mdf.datasets.common import read_rows, some
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord

GUIDE = Guide(
    "mm_retinal",
    "a text for each photograph, translated into English, of diagnosis and signs",
    "about 2,100 colour photographs (4,300 with the angiographies and tomographies, which are not read)",
    "see the release",
    "Wu et al., MM-Retinal: Knowledge-Enhanced Foundational Pretraining with Fundus Image-Text Expertise, MICCAI, 2024",
    "the repository MM-Retinal of lxirich on GitHub, which names the place of the data",
    "DIR/CFP_translated_v1.csv with Image_ID and en_caption, DIR/CFP/….png, …",
)

TABLE = "CFP_translated_v1.csv"
ENDINGS = (".png", ".jpg", ".jpeg")
KINDS = {"en_caption": "en", "cn_caption": "zh"}


def read(root: Path) -> list[FundusRecord]:
    """A record for each row with a text. Raises UserError for another table or missing photographs."""
    rows = read_rows(root / TABLE, "MM-Retinal", ("Image_ID", "en_caption"))
    images = [image_of(root, row["Image_ID"]) for row in rows]
    missing = [row["Image_ID"] for row, image in zip(rows, images, strict=True) if image is None]
    if missing:
        raise UserError(
            f"MM-Retinal: {len(missing)} of {len(rows)} photographs are missing in {root / 'CFP'} "
            f"({', '.join(ENDINGS)}): {some(missing)}"
        )
    untold = [row["Image_ID"] for row in rows if not row["en_caption"]]
    if untold:
        print(f"note: MM-Retinal: {len(untold)} photographs have no English text: {some(untold)}")
    return [
        FundusRecord(
            id=row["Image_ID"],
            image=image,
            texts={KINDS[c]: row[c] for c in KINDS if row.get(c)},
            source="mm_retinal",
            extra={c: v for c, v in row.items() if c and v and c not in ("Image_ID", *KINDS)},
        )
        for row, image in zip(rows, images, strict=True)
        if image is not None
    ]


def image_of(root: Path, name: str) -> str | None:
    return next((f"CFP/{name}{end}" for end in ENDINGS if (root / "CFP" / f"{name}{end}").is_file()), None)
