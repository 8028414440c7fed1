"""JSIEC-1000, MMAC and HEI-MED on small folders in their published layout."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mdf.datasets import hei_med, jsiec, mmac
from mdf.errors import UserError
from mdf.imaging.decode import load_mask
from mdf.vocabulary import scales

Write = Callable[..., Path]


class TestJsiec:
    FOLDERS = (
        "0.0.Normal", "0.1.Tessellated fundus", "0.2.Large optic cup", "0.3.DR1", "1.0.DR2", "1.1.DR3", "2.0.BRVO",
        "2.1.CRVO", "3.RAO", "4.Rhegmatogenous RD", "5.0.CSCR", "5.1.VKH disease", "6.Maculopathy", "7.ERM", "8.MH",
        "9.Pathological myopia", "10.0.Possible glaucoma", "10.1.Optic atrophy", "11.Severe hypertensive retinopathy",
        "12.Disc swelling and elevation", "13.Dragged Disc", "14.Congenital disc abnormality",
        "15.0.Retinitis pigmentosa", "15.1.Bietti crystalline dystrophy",
        "16.Peripheral retinal degeneration and break", "17.Myelinated nerve fiber", "18.Vitreous particles",
        "19.Fundus neoplasm", "20.Massive hard exudates", "21.Yellow-white spots-flecks", "22.Cotton-wool spots",
        "23.Vessel tortuosity", "24.Chorioretinal atrophy-coloboma", "25.Preretinal hemorrhage", "26.Fibrosis",
        "27.Laser Spots", "28.Silicon oil in eye", "29.0.Blur fundus without PDR",
        "29.1.Blur fundus with suspected PDR",
    )  # fmt: skip

    def test_each_of_the_39_folders_has_a_name(self, tmp_path: Path, photograph: Write):
        for i, folder in enumerate(self.FOLDERS):
            photograph(tmp_path / folder / f"{i}.JPG", size=(4, 4), seed=i)
        records = jsiec.read(tmp_path)
        assert len(records) == len(scales()["jsiec"].values) == 39
        found = {r.extra["folder"]: r.diagnosis for r in records}
        assert (
            found["0.0.Normal"] == ("normal",)
            and found["0.3.DR1"] == ("mild_npdr",)
            and found["8.MH"] == ("macular_hole",)
        )
        assert len(set(found.values())) == 39

    def test_another_folder_is_refused(self, tmp_path: Path, photograph: Write):
        photograph(tmp_path / "1000images" / "0.0.Normal" / "a.jpg")
        with pytest.raises(UserError, match=r"none of the 39 classes.*1000images"):
            jsiec.read(tmp_path)


class TestMmac:
    GRADING = "1. Classification of Myopic Maculopathy"
    LESIONS = "2. Segmentation of Myopic Maculopathy Plus Lesions"
    REFRACTION = "3. Prediction of Spherical Equivalent"

    def write(self, task: Path, split: str, table: str, content: str) -> Path:
        number = {"Training": 1, "Validation": 2}[split]
        file = task / "2. Groundtruths" / f"{number}. MMAC2023_{table}_{split}_Labels.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return task / "1. Images" / f"{number}. {split} Set"

    def test_grades_with_their_scale_and_split(self, tmp_path: Path, photograph: Write):
        head = "image,myopic_maculopathy_grade,age,sex,height,weight,data_center\n"
        table = "Myopic_Maculopathy_Classification"
        rows = ["mmac_task_1_train_0001.png,3,61,Female,,,1\n", "mmac_task_1_val_0001.png,0,,,,,2\n"]
        for split, row in zip(("Training", "Validation"), rows, strict=True):
            photograph(self.write(tmp_path / self.GRADING, split, table, head + row) / row.split(",")[0])
        train, val = mmac.read(tmp_path)
        assert (train.grade, train.diagnosis, train.split) == ({"mmac": 3}, ("myopic_patchy_atrophy",), "train")
        assert (train.age, train.sex, train.extra) == (61, "female", {"data_center": "1"})
        assert (val.grade, val.diagnosis, val.split, val.age) == ({"mmac": 0}, ("no_myopic_maculopathy",), "val", None)

    def test_a_mask_is_of_its_lesion_alone(self, tmp_path: Path, photograph: Write):
        task = tmp_path / self.LESIONS / "2. Choroidal Neovascularization"
        name = "Myopic_Maculopathy_Plus_Lesions_Segmentation"
        folder = self.write(task, "Training", name, "image,age,sex\na.png,50,male\n")
        photograph(folder / "a.png")
        photograph(task / "2. Groundtruths" / "1. Training Set" / "a.png")
        (record,) = mmac.read(tmp_path)
        path = f"{self.LESIONS}/2. Choroidal Neovascularization/2. Groundtruths/1. Training Set/a.png"
        assert record.masks == {"myopic_neovascularisation": path} and record.grade == {} and record.diagnosis is None

    def test_the_spherical_equivalent_is_kept(self, tmp_path: Path, photograph: Write):
        table = "Spherical_Equivalent"
        folder = self.write(tmp_path / self.REFRACTION, "Training", table, "image,spherical_equivalent\nb.png,-9.25\n")
        photograph(folder / "b.png")
        (record,) = mmac.read(tmp_path)
        assert record.extra == {"spherical_equivalent": -9.25}

    def test_wrong_grades_and_empty_folders_are_refused(self, tmp_path: Path, photograph: Write):
        with pytest.raises(UserError, match="Groundtruths"):
            mmac.read(tmp_path)
        table = "Myopic_Maculopathy_Classification"
        folder = self.write(tmp_path / self.GRADING, "Training", table, "image,myopic_maculopathy_grade\na.png,7\n")
        photograph(folder / "a.png")
        with pytest.raises(UserError, match="must be a grade from 0 to 4"):
            mmac.read(tmp_path)


class TestHeiMed:
    META = "~ImageName:~(00000003).jpg\n~PatientGender~F\n~PatientRace~CAUCASIAN\n~PatientDOB~12/28/1955\n"
    META += "~QualityValue~0.3293741\n~DiabetesType~TYPE II\n~ONrow~920\n~ONcol~302\n"

    def make(self, root: Path, photograph: Write) -> Path:
        folder = root / "DMED"
        photograph(folder / "(00000003).jpg", size=(4, 3))
        (folder / "(00000003).meta").write_text(self.META)
        (folder / "(00000003).GND").write_text("3\nExudate 1\nMicroAneurysm 0\nExudate 1\n0\n0\n0\nNA\n")
        regions = np.array([[0, 1, 2, 3], [0, 1, 0, 0], [0, 0, 0, 0]], dtype="<i4")
        with gzip.open(folder / "(00000003).map.gz", "wb") as file:
            file.write(np.array([0, 4, 3], dtype="<i4").tobytes() + regions.tobytes())
        photograph(folder / "(00000003)_vess.png", size=(4, 3))
        photograph(folder / "(00000004).jpg", size=(4, 3))
        (folder / "(00000004).meta").write_text(self.META.replace("~F\n", "~M\n"))
        return root

    def test_lesions_disc_and_metadata(self, tmp_path: Path, photograph: Write):
        ill, healthy = hei_med.read(self.make(tmp_path, photograph))
        assert (ill.id, ill.sex, ill.points) == ("00000003", "female", {"disc": [302, 920]})
        assert ill.masks == {"bright_lesion": "DMED/(00000003).map.gz#1,3"}
        assert load_mask(tmp_path / ill.masks["bright_lesion"]).astype(int).tolist() == [
            [0, 1, 0, 1],
            [0, 1, 0, 0],
            [0] * 4,
        ]
        assert ill.extra["bright_lesions"] == 2 and ill.extra["machine_vessels"] == "DMED/(00000003)_vess.png"
        assert healthy.masks == {} and healthy.extra["bright_lesions"] == 0 and healthy.sex == "male"

    def test_the_date_of_birth_is_not_taken_over(self, tmp_path: Path, photograph: Write):
        assert "1955" not in str([r.to_dict() for r in hei_med.read(self.make(tmp_path, photograph))])

    def test_a_table_of_lesions_that_is_cut_short_is_refused(self, tmp_path: Path, photograph: Write):
        root = self.make(tmp_path, photograph)
        (root / "DMED" / "(00000003).GND").write_text("3\nExudate 1\n")
        with pytest.raises(UserError, match="expected a number of regions"):
            hei_med.read(root)
