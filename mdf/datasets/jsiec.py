"""JSIEC-1000: 39 folders named by number and class, `0.0.Normal/1ffa92e4-….jpg`. No patients, eyes or ages."""

from pathlib import Path

from mdf.datasets.common import image_files, some, unique_ids
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord

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

# the folder's number -> canonical names; the number is all that has to be right in the folder's name
CLASSES = {
    "0.0": ("normal",),
    "0.1": ("tessellated_fundus",),
    "0.2": ("enlarged_cup",),
    "0.3": ("mild_npdr",),
    "1.0": ("moderate_npdr",),
    "1.1": ("severe_npdr",),
    "2.0": ("branch_retinal_vein_occlusion",),
    "2.1": ("central_retinal_vein_occlusion",),
    "3": ("retinal_artery_occlusion",),
    "4": ("rhegmatogenous_retinal_detachment",),
    "5.0": ("central_serous_chorioretinopathy",),
    "5.1": ("vogt_koyanagi_harada",),
    "6": ("maculopathy",),
    "7": ("epiretinal_membrane",),
    "8": ("macular_hole",),
    "9": ("pathologic_myopia",),
    "10.0": ("suspected_glaucoma",),
    "10.1": ("optic_atrophy",),
    "11": ("severe_hypertensive_retinopathy",),
    "12": ("disc_swelling",),
    "13": ("dragged_disc",),
    "14": ("congenital_disc_abnormality",),
    "15.0": ("retinitis_pigmentosa",),
    "15.1": ("bietti_crystalline_dystrophy",),
    "16": ("peripheral_retinal_degeneration",),
    "17": ("myelinated_nerve_fibres",),
    "18": ("vitreous_particles",),
    "19": ("fundus_neoplasm",),
    "20": ("hard_exudate",),
    "21": ("yellow_white_flecks",),
    "22": ("cotton_wool_spot",),
    "23": ("vessel_tortuosity",),
    "24": ("chorioretinal_atrophy_coloboma",),
    "25": ("preretinal_haemorrhage",),
    "26": ("fibrosis",),
    "27": ("laser_scar",),
    "28": ("silicone_oil",),
    "29.0": ("blurred_fundus",),
    "29.1": ("blurred_fundus", "suspected_pdr"),
}


def read(root: Path) -> list[FundusRecord]:
    """A record for each photograph; its class stays in `extra.folder` as the release writes it.

    Raises UserError for folders that are none of the 39.
    """
    names = [f.relative_to(root).as_posix() for f in image_files(root, "JSIEC-1000")]
    wrong = sorted({name.split("/")[0] for name in names if number(name) not in CLASSES or "/" not in name})
    if wrong:
        raise UserError(f"{root}: {len(wrong)} folders or files are of none of the 39 classes: {some(wrong)}")
    return [
        FundusRecord(
            id=id_,
            image=name,
            diagnosis=CLASSES[number(name)],
            source="jsiec",
            extra={"folder": name.split("/")[0]},
        )
        for id_, name in zip(unique_ids(names), names, strict=True)
    ]


def number(name: str) -> str:
    """ "10.0" of "10.0.Possible glaucoma/a.jpg"."""
    head = name.split("/")[0].split(".")
    return ".".join(part for part in head[:2] if part.isdigit())
