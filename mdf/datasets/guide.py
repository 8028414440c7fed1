"""What `prepare.py list` says of each data set: what it holds, licence, citation, where to get it, and its layout."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Guide:
    """The page of one data set."""

    name: str
    holds: str
    licence: str
    citation: str
    get: str
    layout: str


GUIDES = (
    Guide(
        "odir5k",
        "Photographs of both eyes of about 3,500 people in eight classes, specialists' keywords, age, sex, patient.",
        "challenge data, for research",
        "Peking University International Competition on Ocular Disease Intelligent Recognition (ODIR), 2019",
        "the challenge's page, or the Kaggle set 'Ocular Disease Recognition' with the table by eye",
        "DIR/full_df.csv, DIR/preprocessed_images/0_left.jpg, …",
    ),
    Guide(
        "hrf",
        "45 photographs: 15 healthy, 15 diabetic retinopathy, 15 glaucoma; masks of vessels and field of view.",
        "CC BY 4.0",
        "Budai et al., Robust Vessel Segmentation in Fundus Images, International Journal of Biomedical Imaging, 2013",
        "the High-Resolution Fundus image database of the pattern recognition lab in Erlangen",
        "DIR/images/01_dr.JPG, DIR/manual1/01_dr.tif, DIR/mask/01_dr_mask.tif, …",
    ),
    Guide(
        "folder",
        "Your photographs, sorted into sub-folders by diagnosis, or all in one folder without diagnoses.",
        "yours",
        "yours",
        "your own",
        "DIR/glaucoma/a.jpg, DIR/normal/b.jpg, … or DIR/train/glaucoma/a.jpg, DIR/test/… or DIR/a.jpg, …",
    ),
    Guide(
        "table",
        "Your photographs with a CSV or TSV table: diagnosis, text, patient, eye, age, sex, split, masks; a row each.",
        "yours",
        "yours",
        "your own; StoneRounds too, once its cases are written into a table of image, diagnosis, text",
        "--root DIR --table T.csv, paths in the table relative to DIR; --columns image=FILE_COLUMN diagnosis=LABEL …",
    ),
    Guide(
        "phantom",
        "Drawn photographs with known vessels, disc, fovea and lesions: masks, findings, grades and reports agree.",
        "CC0 1.0",
        "none needed",
        "drawn here: prepare.py phantom --count 100 --size 256 --seed 0 --out DIR",
        "DIR/*.jsonl (the manifest), DIR/images/, DIR/masks/",
    ),
)


def text() -> str:
    """All pages."""
    pages = []
    for g in GUIDES:
        lines = [("holds", g.holds), ("licence", g.licence), ("cite", g.citation)]
        lines += [("get it", g.get), ("layout", g.layout)]
        pages.append(g.name + "\n" + "\n".join(f"  {k + ':':9}{v}" for k, v in lines))
    return "\n\n".join(pages)
