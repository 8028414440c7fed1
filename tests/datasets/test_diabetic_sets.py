"""Readers of the sets graded for diabetic retinopathy; small folders in the published layout."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mdf.datasets import aptos2019, deepdrid, eyepacs, idrid, messidor2
from mdf.datasets.splits import split_by_patient
from mdf.errors import UserError
from tests.datasets.workbook import write_workbook

Write = Callable[..., Path]


def refusal(read: Callable, *args: object) -> str:
    with pytest.raises(UserError) as caught:
        read(*args)
    return str(caught.value)


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


class TestAptos:
    def make(self, root: Path, photograph: Write, *rows: str) -> Path:
        write(root / "train.csv", "id_code,diagnosis", *rows)
        for row in rows:
            photograph(root / "train_images" / f"{row.split(',')[0]}.png")
        return root

    def test_grades_are_diagnoses_and_ungraded_photographs_are_counted(self, tmp_path: Path, photograph: Write, capsys):
        photograph(tmp_path / "test_images" / "x.png")
        records = aptos2019.read(self.make(tmp_path, photograph, "a,0", "b,4"))
        assert [(r.id, r.grade, r.diagnosis) for r in records] == [
            ("a", {"icdr": 0}, ("no_diabetic_retinopathy",)),
            ("b", {"icdr": 4}, ("pdr",)),
        ]
        assert "1 test photographs have no grade and are left out" in capsys.readouterr().out

    @pytest.mark.parametrize("row", ["a,5", "a,mild", "a,1.5", "a,"])
    def test_other_grades_are_refused(self, tmp_path: Path, photograph: Write, row: str):
        assert "train.csv line 2" in refusal(aptos2019.read, self.make(tmp_path, photograph, row))


class TestEyepacs:
    def test_the_number_is_the_patient_and_published_test_grades_make_a_split(self, tmp_path: Path, photograph: Write):
        write(tmp_path / "trainLabels.csv", "image,level", "10_left,0", "10_right,3")
        for name in ("train/10_left", "train/10_right", "test/1_left"):
            photograph(tmp_path / f"{name}.jpeg")
        left, right = eyepacs.read(tmp_path)
        assert (left.patient, left.eye, left.split, right.eye) == ("10", "left", None, "right")
        assert right.grade == {"icdr": 3} and right.diagnosis == ("severe_npdr",)
        write(tmp_path / "retinopathy_solution.csv", "image,level,Usage", "1_left,2,Private")
        records = eyepacs.read(tmp_path)
        assert [r.split for r in records] == ["train", "train", "test"] and records[2].extra == {"usage": "Private"}
        write(tmp_path / "trainLabels.csv", "image,level", "1-left,0")
        photograph(tmp_path / "train" / "1-left.jpeg")
        assert "expected a name such as 10_left" in refusal(eyepacs.read, tmp_path)


class TestMessidor2:
    HEADER = "image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable"

    @pytest.fixture
    def root(self, tmp_path: Path, photograph: Write) -> Path:
        for name in ("20051020_1_PP.png", "20051020_2_PP.png", "IM001.JPG", "IM002.JPG", "IM003.JPG"):
            photograph(tmp_path / "IMAGES" / name.replace("JPG", "jpg")).rename(tmp_path / "IMAGES" / name)
        write(
            tmp_path / "messidor_data.csv", self.HEADER,
            "20051020_1_PP.png,0,0,1", "20051020_2_PP.png,2,1,1", "IM001.jpg,,,0", "IM002.jpg,1,0,1",
        )  # fmt: skip
        return tmp_path

    def test_grades_have_their_scales_and_ungradable_ones_none(self, root: Path, capsys):
        records = {r.id: r for r in messidor2.read(root)}
        assert records["20051020_2_PP"].grade == {"icdr": 2, "dme_referable": 1}
        assert (
            records["IM001"].grade == {}
            and records["IM001"].diagnosis is None
            and records["IM001"].extra == {"gradable": 0}
        )
        assert records["IM002"].image == "IMAGES/IM002.JPG" and records["IM002"].diagnosis == ("mild_npdr",)
        out = capsys.readouterr().out
        assert "1 photographs have no row" in out and "which two photographs are of one person is not known" in out

    def test_a_pair_is_one_patient_with_two_eyes(self, root: Path, capsys):
        write(
            root / "messidor-2.csv",
            "left;right",
            "20051020_1_PP.png;20051020_2_PP.png",
            "IM001.jpg;IM002.jpg",
            "IM9.jpg;IM8.jpg",
        )
        records = {r.id: r for r in messidor2.read(root)}
        one, two = records["20051020_1_PP"], records["20051020_2_PP"]
        assert one.patient == two.patient != records["IM001"].patient == records["IM002"].patient
        assert (one.eye, two.eye, records["IM003"].patient) == ("left", "right", None)
        assert "1 photographs are in no pair; 1 lines name" in capsys.readouterr().out

    def test_the_eye_is_not_guessed_without_column_names(self, root: Path):
        write(root / "messidor-2.csv", "20051020_1_PP.png;20051020_2_PP.png")
        one = next(r for r in messidor2.read(root) if r.id == "20051020_1_PP")
        assert one.patient is not None and one.eye is None

    def test_pairs_that_a_spreadsheet_saved_again_are_read(self, root: Path):
        write(root / "messidor-2.csv", "left,right", "20051020_1_PP.png,20051020_2_PP.png")
        records = {r.id: r for r in messidor2.read(root)}
        assert records["20051020_1_PP"].patient == records["20051020_2_PP"].patient is not None

    def test_a_table_of_pairs_without_any_is_refused(self, root: Path):
        write(root / "messidor-2.csv", "20051020_1_PP.png 20051020_2_PP.png")
        assert "none of its lines names two photographs" in refusal(messidor2.read, root)
        (root / "messidor-2.csv").write_bytes("œil gauche;œil droit\n".encode("cp1252"))
        assert "messidor-2.csv is not utf-8 text" in refusal(messidor2.read, root)

    def test_missing_photographs_are_refused(self, root: Path):
        (root / "IMAGES" / "IM002.JPG").unlink()
        assert "1 of 4 photographs of messidor_data.csv are missing: im002.jpg" in refusal(messidor2.read, root)


class TestDeepdrid:
    HEADER = (
        "patient_id,image_id,image_path,Overall quality,left_eye_DR_Level,right_eye_DR_Level,patient_DR_Level,"
        "Clarity,Field definition,Artifact"
    )

    @pytest.fixture
    def root(self, tmp_path: Path, photograph: Write) -> Path:
        regular, wide = tmp_path / "regular_fundus_images", tmp_path / "ultra-widefield_images"
        self.table(regular, photograph, "training", [r"1,1_l1,\x\1_l1.jpg,0,2,,4,8,10,4", r"1,1_r1,\x,1,,4,4,10,8,0",
                                                     r"56,56_r3,\x,0,1,,1,10,8,1"])  # fmt: skip
        self.table(regular, photograph, "validation", [r"265,265_l1,\x,1,5,,5,1,1,10"])
        write(
            regular / "regular-fundus-training" / "regular-fundus-source-training.csv",
            "patient_id,image_id,image_path,Source", "1,1_l1,x,Nicheng",
        )  # fmt: skip
        test = regular / "Online-Challenge1&2-Evaluation"
        write_workbook(test / "Challenge1_labels.xlsx", {"Sheet1": [["image_id", "DR_Levels"], ["347_r2", 3]]})
        quality = ["image_id", "Overall quality", "Artifact", "Clarity", "Field definition"]
        write_workbook(test / "Challenge2_labels.xlsx", {"Sheet1": [quality, ["347_r2", 1, 0, 8, 6]]})
        photograph(test / "Images" / "347" / "347_r2.jpg")
        for word, row in (("training", "1,1_l2,x,5,left_eye"), ("validation", "34,34_r1,x,0,right_eye")):
            folder = wide / f"ultra-widefield-{word}"
            write(folder / f"ultra-widefield-{word}.csv", "patient_id,image_id,image_path,DR_level,position", row)
            patient, name = row.split(",")[:2]
            photograph(folder / "Images" / patient / f"{name}.jpg")
        return tmp_path

    def table(self, regular: Path, photograph: Write, word: str, rows: Sequence[str]) -> None:
        folder = regular / f"regular-fundus-{word}"
        write(folder / f"regular-fundus-{word}.csv", self.HEADER, *rows)
        for row in rows:
            patient, name = row.split(",")[:2]
            photograph(folder / "Images" / patient / f"{name}.jpg")

    def test_grade_of_the_eye_and_of_the_person_are_kept_apart(self, root: Path):
        records = {r.id: r for r in deepdrid.read(root)}
        left = records["1_l1"]
        assert (left.patient, left.eye, left.split, left.grade) == ("1", "left", "train", {"icdr": 2})
        assert left.diagnosis == ("moderate_npdr",) and records["1_r1"].grade == {"icdr": 4}
        assert left.extra == {
            "patient_icdr": 4, "project": "Nicheng",
            "quality_overall": 0, "quality_clarity": 8, "quality_field": 10, "quality_artifact": 4,
        }  # fmt: skip
        assert left.image == "regular_fundus_images/regular-fundus-training/Images/1/1_l1.jpg"

    def test_the_workbooks_of_the_challenges_are_the_test(self, root: Path):
        test = next(r for r in deepdrid.read(root) if r.split == "test")
        assert (test.id, test.eye, test.grade, test.extra["quality_field"]) == ("347_r2", "right", {"icdr": 3}, 6)

    def test_an_eye_that_name_and_table_tell_differently_is_not_known(self, root: Path):
        records = {r.id: r for r in deepdrid.read(root)}
        assert records["56_r3"].eye is None and records["56_r3"].grade == {"icdr": 1}

    def test_grade_five_is_no_grade(self, root: Path):
        record = next(r for r in deepdrid.read(root) if r.id == "265_l1")
        assert record.grade == {} and record.diagnosis is None and record.extra["gradable"] == 0

    def test_ultra_widefield_photographs_are_marked_and_are_other_people(self, root: Path, capsys):
        wide = {r.id: r for r in deepdrid.read(root) if r.modality == "uwf"}
        assert wide.keys() == {"uwf/1_l2", "uwf/34_r1"} and wide["uwf/1_l2"].patient == "uwf/1"
        assert "2 of the photographs are ultra-widefield ones" in capsys.readouterr().out

    def test_a_row_with_the_grades_of_both_eyes_is_refused(self, root: Path, photograph: Write):
        self.table(root / "regular_fundus_images", photograph, "training", [r"1,1_l1,\x,0,2,3,4,8,10,4"])
        assert "1_l1 must have the grade of one eye, it has 2" in refusal(deepdrid.read, root)


class TestIdrid:
    @pytest.fixture
    def root(self, tmp_path: Path, photograph: Write) -> Path:
        """IDRiD_01 of part A is IDRiD_001 of part B and C; IDRiD_02 is in part A alone."""
        masks = tmp_path / "A. Segmentation" / "A. Segmentation" / "2. All Segmentation Groundtruths"
        originals = "1. Original Images"
        segmentation = masks.parent / originals
        for folder, names in (("a. Training Set", ("01", "02")), ("b. Testing Set", ("55",))):
            for number in names:
                photograph(segmentation / folder / f"IDRiD_{number}.jpg", seed=int(number))
                for below, ending in idrid.MASKS.values():
                    if (number, ending) != ("01", "SE"):
                        photograph(masks / folder / below / f"IDRiD_{number}_{ending}.tif")
        for part in ("B. Disease Grading", "C. Localization"):
            photograph(tmp_path / part / originals / "a. Training Set" / "IDRiD_001.jpg", seed=1)
            photograph(tmp_path / part / originals / "b. Testing Set" / "IDRiD_001.jpg", seed=99)
        grades = tmp_path / "B. Disease Grading" / "2. Groundtruths"
        head = "Image name,Retinopathy grade,Risk of macular edema ,,,"
        write(grades / "a. IDRiD_Disease Grading_Training Labels.csv", head, "IDRiD_001,3,2,,,")
        write(grades / "b. IDRiD_Disease Grading_Testing Labels.csv", head, "IDRiD_001,0,0,,,")
        points = tmp_path / "C. Localization" / "2. Groundtruths"
        head = "Image No,X- Coordinate,Y - Coordinate,,"
        disc, fovea = points / "1. Optic Disc Center Location", points / "2. Fovea Center Location"
        write(disc / "a. IDRiD_OD_Center_Training Set_Markups.csv", head, "IDRiD_001,12,20,,", ",,,,")
        write(disc / "b. IDRiD_OD_Center_Testing Set_Markups.csv", head, "IDRiD_001,5,6,,")
        write(fovea / "IDRiD_Fovea_Center_Training Set_Markups.csv", head, "IDRiD_001,30,22,,")
        write(fovea / "IDRiD_Fovea_Center_Testing Set_Markups.csv", head, "IDRiD_001,7,8,,")
        return tmp_path

    def test_a_photograph_of_several_parts_is_one_record_with_all_of_them(self, root: Path, capsys):
        records = {r.id: r for r in idrid.read(root)}
        alone = {"segmentation/train/IDRiD_02", "segmentation/test/IDRiD_55"}
        assert records.keys() == {"grading/train/IDRiD_001", "grading/test/IDRiD_001"} | alone
        one = records["grading/train/IDRiD_001"]
        assert one.grade == {"icdr": 3, "dme": 2} and one.diagnosis == ("severe_npdr",) and one.split == "train"
        assert one.masks.keys() == {"microaneurysm", "haemorrhage", "hard_exudate", "disc"}
        assert one.points == {"disc": [12, 20], "fovea": [30, 22]}
        assert records["segmentation/train/IDRiD_02"].masks.keys() >= {"cotton_wool_spot"}
        assert records["segmentation/test/IDRiD_55"].diagnosis is None
        assert "7 files of 3 parts are 4 photographs" in capsys.readouterr().out

    def test_a_test_photograph_of_any_part_is_not_trained_on(self, root: Path, photograph: Write):
        originals = root / "A. Segmentation" / "A. Segmentation" / "1. Original Images"
        photograph(originals / "a. Training Set" / "IDRiD_02.jpg", seed=99)  # is the test photograph of the other parts
        records = {r.id: r for r in idrid.read(root)}
        assert records["grading/test/IDRiD_001"].split == "test" and "disc" in records["grading/test/IDRiD_001"].masks
        assert all(
            r.split in ("train", "val", "test")
            for r in split_by_patient(list(records.values()), val=0.5, test=0, seed=0)
        )

    def test_one_part_alone_is_read_and_none_is_refused(self, root: Path, tmp_path: Path, capsys):
        alone = tmp_path / "alone"
        alone.mkdir()
        assert "holds none of B. Disease Grading" in refusal(idrid.read, alone)
        (root / "B. Disease Grading").rename(alone / "B. Disease Grading")
        assert [r.points for r in idrid.read(alone)] == [{}, {}]
        assert "without A. Segmentation, C. Localization" in capsys.readouterr().out

    def test_labels_without_a_photograph_and_wrong_grades_are_refused(self, root: Path):
        table = root / "B. Disease Grading" / "2. Groundtruths" / "a. IDRiD_Disease Grading_Training Labels.csv"
        table.write_text("Image name,Retinopathy grade,Risk of macular edema\nIDRiD_001,3,3\n")
        assert "'3' must be a grade from 0 to 2" in refusal(idrid.read, root)
        table.write_text("Image name,Retinopathy grade,Risk of macular edema\nIDRiD_009,3,2\n")
        assert "1 photographs of the train labels are missing, one is IDRiD_009" in refusal(idrid.read, root)
