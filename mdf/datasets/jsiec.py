"""JSIEC-1000: 39 folders named by number and class, `0.0.Normal/1ffa92e4-….jpg`. No patients, eyes or ages.

What each folder is called here stands in `mdf/data/grades.yaml`, section jsiec.
"""

from pathlib import Path

from mdf.datasets.common import image_files, some, unique_ids
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord
from mdf.vocabulary import scales, written

GUIDE = Guide(
    "jsiec",
    "39 classes of fundus disease, one a photograph",
    "1,000",
    "see the release",
    "Cen et al., Automatic detection of 39 fundus diseases and conditions in retinal photographs using deep neural "
    "networks, Nature Communications, 2021",
    "the Kaggle set '1000 Fundus images with 39 categories' of the Joint Shantou International Eye Centre",
    "DIR/0.0.Normal/….jpg, DIR/0.1.Tessellated fundus/….jpg, … DIR/29.1.Blur fundus with suspected PDR/….JPG",
)


def read(root: Path) -> list[FundusRecord]:
    """A record for each photograph; its class stays in `extra.folder` as the release writes it.

    Raises UserError for folders that are none of the 39.
    """
    names = [f.relative_to(root).as_posix() for f in image_files(root, "JSIEC-1000")]
    folders = sorted({name.split("/")[0] for name in names})
    classes = {folder: scales()["jsiec"].values.get(written(folder)) for folder in folders}
    wrong = [folder for folder in folders if classes[folder] is None]
    if wrong:
        raise UserError(
            f"{root}: {len(wrong)} folders or files are of none of the 39 classes, such as 0.0.Normal: {some(wrong)}; "
            "the root is the folder that holds the 39"
        )
    return [
        FundusRecord(
            id=id_,
            image=name,
            diagnosis=(str(classes[name.split("/")[0]]),),
            source="jsiec",
            extra={"folder": name.split("/")[0]},
        )
        for id_, name in zip(unique_ids(names), names, strict=True)
    ]
