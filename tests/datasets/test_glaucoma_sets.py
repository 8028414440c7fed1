"""REFUGE, ACRIMA and PAPILA on small folders in their published layout."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdf.datasets import acrima, papila, refuge
from mdf.errors import UserError
from mdf.imaging.decode import load_mask
from tests.datasets.workbook import write_workbook

Write = Callable[..., Path]


def grey(path: Path, levels: list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(levels, dtype=np.uint8)).save(path)


class TestRefuge:
    def kaggle(self, root: Path, photograph: Write) -> Path:
        """Two photographs for training, one each for validation and test, as the Kaggle set has them."""
        rows = {
            "train": [("g0001", 1), ("n0001", 0)],
            "val": [("V0001", 1)],
            "test": [("T0001", None)],
        }
        for split, entries in rows.items():
            index = {}
            for i, (stem, label) in enumerate(entries):
                photograph(root / split / "Images" / f"{stem}.jpg", size=(3, 2), seed=i)
                photograph(root / split / "Images_Cropped" / f"{stem}.jpg", size=(2, 2))
                grey(root / split / "gts" / f"{stem}.bmp", [[0, 128, 255], [255, 255, 255]])
                index[str(i)] = {"ImgName": f"{stem}.jpg", "Size_X": 3, "Size_Y": 2}
                if label is not None:
                    index[str(i)] |= {"Fovea_X": 1.5, "Fovea_Y": 0.5, "Label": label}
            (root / split / "index.json").write_text(json.dumps(index))
        return root

    def test_label_fovea_split_and_both_masks_of_one_file(self, tmp_path: Path, photograph: Write):
        records = {r.id: r for r in refuge.read(self.kaggle(tmp_path, photograph))}
        assert {i: (r.diagnosis, r.split) for i, r in records.items()} == {
            "g0001": (("glaucoma",), "train"),
            "n0001": (("no_glaucoma",), "train"),
            "V0001": (("glaucoma",), "val"),
            "T0001": (None, "test"),
        }
        g = records["g0001"]
        assert g.image == "train/Images/g0001.jpg" and g.points == {"fovea": [1.5, 0.5]}
        assert g.camera == "Zeiss Visucam 500" and records["T0001"].points == {}
        disc, cup = (load_mask(tmp_path / g.masks[name]) for name in ("disc", "cup"))
        assert disc.tolist() == [[True, True, False], [False] * 3] and cup.sum() == 1

    def test_the_challenges_archives_are_read_too(self, tmp_path: Path, photograph: Write):
        for folder, stem in (
            ("REFUGE-Training400/Training400/Glaucoma", "g0001"),
            ("REFUGE-Training400/Training400/Non-Glaucoma", "n0001"),
            ("REFUGE-Validation400", "V0001"),
            ("REFUGE-Test400/Test400", "T0001"),
        ):
            photograph(tmp_path / folder / f"{stem}.jpg")
        masks = {
            "g0001": "Annotation-Training400/Disc_Cup_Masks/Glaucoma",
            "V0001": "REFUGE-Validation400-GT/Disc_Cup_Masks",
            "T0001": "REFUGE-Test-GT/Disc_Cup_Masks/G",
        }
        for stem, folder in masks.items():
            grey(tmp_path / folder / f"{stem}.bmp", [[0, 128, 255]])
        write_workbook(
            tmp_path / "Annotation-Training400" / "Fovea_location.xlsx",
            {"a": [["ID", "ImgName", "Fovea_X", "Fovea_Y"], [1, "g0001.jpg", 1057.3, 1032.4], [2, "n0001.jpg", 1, 2]]},
        )
        write_workbook(
            tmp_path / "REFUGE-Validation400-GT" / "Fovea_locations.xlsx",
            {"a": [["ID", "ImgName", "Glaucoma Label", "Fovea_X", "Fovea_Y"], [1, "V0001.jpg", 0, 7, 8]]},
        )
        write_workbook(
            tmp_path / "REFUGE-Test-GT" / "Glaucoma_label_and_Fovea_location.xlsx",
            {"a": [["ID", "ImgName", "Label(Glaucoma=1)", "Fovea_X", "Fovea_Y"], [1, "T0001.jpg", 1, 7, 8]]},
        )
        records = {r.id: r for r in refuge.read(tmp_path)}
        assert [records[i].diagnosis for i in ("g0001", "n0001", "V0001", "T0001")] == [
            ("glaucoma",),
            ("no_glaucoma",),
            ("no_glaucoma",),
            ("glaucoma",),
        ]
        assert records["g0001"].points == {"fovea": [1057.3, 1032.4]} and records["n0001"].masks == {}
        assert records["T0001"].masks["cup"] == "REFUGE-Test-GT/Disc_Cup_Masks/G/T0001.bmp#0"

    def test_photographs_without_any_mask_are_refused(self, tmp_path: Path, photograph: Write):
        photograph(tmp_path / "Training400" / "Glaucoma" / "g0001.jpg")
        with pytest.raises(UserError, match="unpack the archives with the annotations"):
            refuge.read(tmp_path)


class TestAcrima:
    def test_the_letter_in_the_name_is_the_label(self, tmp_path: Path, photograph: Write):
        photograph(tmp_path / "Im001_ACRIMA.jpg")
        photograph(tmp_path / "Im702_g_ACRIMA.JPG")
        records = acrima.read(tmp_path)
        assert [(r.id, r.diagnosis) for r in records] == [
            ("Im001_ACRIMA", ("no_glaucoma",)),
            ("Im702_g_ACRIMA", ("glaucoma",)),
        ]
        photograph(tmp_path / "other.jpg")
        with pytest.raises(UserError, match=r"1 names are not like .*: other.jpg"):
            acrima.read(tmp_path)


class TestPapila:
    HEAD = (
        [None, "Age", "Gender", "Diagnosis", "Refractive_Defect", None, None, "Phakic/Pseudophakic", "IOP", None],
        ["ID", None, None, None, None, None, None, None, None, None],
        [None, None, None, None, "dioptre_1", "dioptre_2", "astigmatism", None, "Pneumatic", "Perkins"],
    )

    def make(self, root: Path, photograph: Write) -> Path:
        rows = {
            "od": [["#002", 47, 0, 2, 0.75, -1.75, 90, 0, 21, None]],
            "os": [["#002", 47, 0, 0, 0.5, None, None, 0, 20, 19]],
        }
        for eye, lines in rows.items():
            write_workbook(root / "ClinicalData" / f"patient_data_{eye}.xlsx", {"a": [*self.HEAD, *lines]})
            stem = f"RET002{eye.upper()}"
            photograph(root / "FundusImages" / f"{stem}.jpg", size=(20, 10))
            for end in ("disc_exp1", "cup_exp1", "disc_exp2", "cup_exp2"):
                file = root / "ExpertsSegmentations" / "Contours" / f"{stem}_{end}.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("1.0 1.0\n5.0 1.0\n5.0 5.0\n1.0 5.0\n")
        return root

    def test_both_eyes_their_measures_and_both_experts(self, tmp_path: Path, photograph: Write):
        right, left = papila.read(self.make(tmp_path, photograph))
        assert (right.id, right.patient, right.eye, right.diagnosis) == (
            "RET002OD",
            "002",
            "right",
            ("suspected_glaucoma",),
        )
        assert (left.patient, left.eye, left.diagnosis, left.age, left.sex) == (
            "002",
            "left",
            ("no_glaucoma",),
            47,
            "male",
        )
        assert right.extra == {
            "dioptre_1": 0.75,
            "dioptre_2": -1.75,
            "astigmatism": 90,
            "phakic_pseudophakic": 0,
            "pneumatic": 21,
        }
        assert list(right.masks) == ["disc", "cup", "disc_expert2", "cup_expert2"]
        mask = load_mask(tmp_path / right.masks["disc"])
        assert mask.shape == (10, 20) and mask.sum() == 25

    def test_the_folder_that_the_archive_unpacks_into_is_found(self, tmp_path: Path, photograph: Write):
        self.make(tmp_path / "PapilaDB-PAPILA-1", photograph)
        right, _ = papila.read(tmp_path)
        assert right.image == "PapilaDB-PAPILA-1/FundusImages/RET002OD.jpg"
        assert load_mask(tmp_path / right.masks["cup"]).any()

    def test_missing_photographs_and_other_workbooks_are_refused(self, tmp_path: Path, photograph: Write):
        root = self.make(tmp_path, photograph)
        (root / "FundusImages" / "RET002OS.jpg").unlink()
        with pytest.raises(UserError, match="1 of 2 files are missing"):
            papila.read(root)
        write_workbook(root / "ClinicalData" / "patient_data_od.xlsx", {"a": [["ID", "Age"], ["#002", 5]]})
        with pytest.raises(UserError, match="expected columns age, gender, diagnosis"):
            papila.read(root)
