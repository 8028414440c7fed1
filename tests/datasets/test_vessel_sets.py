"""Readers of the sets with vessel masks, tested on small folders that are made in the published layouts."""

import gzip
import io
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdf.datasets import chase_db1, drive, fives, les_av, stare
from mdf.errors import UserError
from mdf.imaging.decode import load_image, load_mask
from tests.datasets.workbook import write_workbook

Write = Callable[..., Path]


def refusal(read: Callable, *args: object) -> str:
    with pytest.raises(UserError) as caught:
        read(*args)
    return str(caught.value)


class TestDrive:
    @pytest.fixture
    def root(self, tmp_path: Path, photograph: Write) -> Path:
        for folder, number in (("training", 21), ("test", "01")):
            photograph(tmp_path / folder / "images" / f"{number}_{folder}.tif")
            photograph(tmp_path / folder / "mask" / f"{number}_{folder}_mask.gif")
            photograph(tmp_path / folder / "1st_manual" / f"{number}_manual1.gif")
        return tmp_path

    def test_folders_are_the_split_and_the_second_observer_is_kept(self, root: Path, photograph: Write):
        photograph(root / "test" / "2nd_manual" / "01_manual2.gif")
        train, test = drive.read(root)
        assert (train.id, train.split, train.diagnosis) == ("21_training", "train", None)
        assert train.masks == {
            "vessel": "training/1st_manual/21_manual1.gif",
            "field": "training/mask/21_training_mask.gif",
        }
        assert test.split == "test" and test.masks["vessel_expert2"] == "test/2nd_manual/01_manual2.gif"

    def test_a_copy_without_the_test_masks_says_so(self, root: Path, capsys):
        shutil.rmtree(root / "test" / "1st_manual")
        assert [set(r.masks) for r in drive.read(root)] == [{"vessel", "field"}, {"field"}]
        assert "1 photographs have no vessel mask" in capsys.readouterr().out

    def test_a_missing_mask_and_other_names_are_refused(self, root: Path, photograph: Write):
        (root / "training" / "1st_manual" / "21_manual1.gif").unlink()
        assert "1 of 4 files are missing" in refusal(drive.read, root)
        photograph(root / "test" / "images" / "a.tif")
        assert "got a.tif" in refusal(drive.read, root)

    def test_the_release_is_read(self, shared_data: Path):
        records = drive.read(shared_data / "drive")
        assert Counter(r.split for r in records) == {"train": 20, "test": 20}
        assert all(r.masks.keys() == {"vessel", "field"} for r in records)


class TestChase:
    def test_a_child_has_two_eyes_and_each_photograph_two_observers(self, tmp_path: Path, photograph: Write):
        for side in "LR":
            for ending in (".jpg", "_1stHO.png", "_2ndHO.png"):
                photograph(tmp_path / f"Image_03{side}{ending}")
        left, right = chase_db1.read(tmp_path)
        assert (left.patient, left.eye, right.patient, right.eye) == ("03", "left", "03", "right")
        assert left.masks == {"vessel": "Image_03L_1stHO.png", "vessel_expert2": "Image_03L_2ndHO.png"}
        photograph(tmp_path / "other.jpg")
        assert "got other.jpg" in refusal(chase_db1.read, tmp_path)

    def test_the_release_is_read(self, shared_data: Path):
        records = chase_db1.read(shared_data / "chase_db1")
        assert len(records) == 28 and Counter(Counter(r.patient for r in records).values()) == {2: 14}


class TestLesAv:
    HEADER = ("Diagnosis5", "Identifier", "SEX (0=female)", "Age", "eye", "SBP", "DBP", "HR", "IOP")

    def make(self, root: Path, photograph: Write, *rows: tuple) -> Path:
        write_workbook(root / "Data.xlsx", {"Blad1": [self.HEADER, *rows]})
        for row in rows:
            photograph(root / "images" / f"{row[1]}.png")
            photograph(root / "vessel-segmentations" / f"{row[1]}.png")
            photograph(root / "masks" / f"{row[1]}_mask.gif")
        return root

    def test_every_column_is_kept_and_an_impossible_pressure_is_said_aloud(
        self, tmp_path: Path, photograph: Write, capsys
    ):
        root = self.make(tmp_path, photograph, ("NTG", 7, "0", 58, "OD", 412, 84, 63, None))
        (record,) = les_av.read(root)
        assert (record.diagnosis, record.eye, record.sex, record.age) == (
            ("normal_tension_glaucoma",),
            "right",
            "female",
            58,
        )
        assert record.extra == {"systolic_mmhg": 412, "diastolic_mmhg": 84, "heart_rate_bpm": 63}
        assert "photograph 7: SBP 412 cannot be right" in capsys.readouterr().out

    def test_arteries_and_veins_are_colours_of_one_picture(self, tmp_path: Path, photograph: Write):
        root = self.make(tmp_path, photograph, ("POAG", 7, "1", 58, "OS", 120, 80, 60, 15))
        colours = np.array([[[255, 0, 0], [0, 0, 255], [0, 255, 0], [255, 255, 255], [0, 0, 0]]], dtype=np.uint8)
        (root / "arteries-and-veins").mkdir()
        Image.fromarray(colours).save(root / "arteries-and-veins" / "7.png")
        masks = les_av.read(root)[0].masks
        assert load_mask(root / masks["artery"]).tolist() == [[True, False, True, False, False]]
        assert load_mask(root / masks["vein"]).tolist() == [[False, True, True, False, False]]

    def test_other_values_are_refused_without_repeating_them(self, tmp_path: Path, photograph: Write):
        text = refusal(les_av.read, self.make(tmp_path, photograph, ("AMD", 7, "0", 58, "OD", 120, 84, 63, 12)))
        assert "Data.xlsx row 2: Diagnosis5 must be of normal, NTG, POAG" in text and "58" not in text

    def test_the_release_is_read(self, shared_data: Path, capsys):
        records = les_av.read(shared_data / "les_av")
        assert Counter(d for r in records for d in r.diagnosis or ()) == {
            "normal": 11, "normal_tension_glaucoma": 6, "primary_open_angle_glaucoma": 5
        }  # fmt: skip
        assert capsys.readouterr().out.count("cannot be right") == 1
        assert Counter(r.sex for r in records) == {"male": 12, "female": 10}


class TestFives:
    @pytest.fixture
    def root(self, tmp_path: Path, photograph: Write) -> Path:
        for i, name in enumerate(("train/{}/1_A.png", "train/{}/2_N.png", "test/{}/1_D.png", "test/{}/2_G.png")):
            photograph(tmp_path / name.format("Original"), seed=i)
            photograph(tmp_path / name.format("Ground truth"), seed=i)
        return tmp_path

    def test_the_letter_is_the_diagnosis_and_the_quality_table_is_joined(self, root: Path, capsys):
        header = ("Disease", "Number", "IC", "Blur", "LC")
        sheets = {"Train": [header, ("A", 1, 1, 0, 1), ("G", 9, 1, 1, 1)], "Test": [header, ("D", 1, 0, 0, 0)]}
        write_workbook(root / "Quality Assessment.xlsx", sheets)
        records = {r.id: r for r in fives.read(root)}
        assert {i: r.diagnosis for i, r in records.items()} == {
            "train/1_A": ("amd",),
            "train/2_N": ("normal",),
            "test/1_D": ("diabetic_retinopathy",),
            "test/2_G": ("glaucoma",),
        }
        assert records["train/1_A"].extra == {"quality_ic": 1, "quality_blur": 0, "quality_lc": 1}
        assert records["test/1_D"].split == "test" and records["test/1_D"].masks == {
            "vessel": "test/Ground truth/1_D.png"
        }
        out = capsys.readouterr().out
        assert (
            "marks 1 photographs that train/Original lacks, one is 9_G" in out and "2 photographs have no marks" in out
        )

    def test_the_quality_table_may_be_missing_but_no_mask(self, root: Path, capsys):
        assert (
            all(not r.extra for r in fives.read(root)) and "nothing is known of the quality" in capsys.readouterr().out
        )
        (root / "test" / "Ground truth" / "2_G.png").unlink()
        assert "1 of 4 files are missing" in refusal(fives.read, root)


class TestStare:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        def pack(path: Path, seed: int) -> None:
            pixels = np.random.default_rng(seed).integers(0, 255, (6, 5, 3), dtype=np.uint8)
            path.parent.mkdir(exist_ok=True)
            plain = io.BytesIO()
            Image.fromarray(pixels).save(plain, format="PPM")
            path.write_bytes(gzip.compress(plain.getvalue()))

        for number in range(1, 6):
            pack(tmp_path / "stare-images" / f"im000{number}.ppm.gz", number)
        pack(tmp_path / "labels-ah" / "im0001.ah.ppm.gz", 1)
        pack(tmp_path / "labels-vk" / "im0001.vk.ppm.gz", 2)
        (tmp_path / "all-mg-codes.txt").write_text(
            "im0001\t7\t\tBackground Diabetic Retinopathy\t\t\n"
            'im0002\t13 14\t\t"Choroidal Neovascularization AND Histoplasmosis"\t\n'
            "im0003\t4 5\t\t\tBRVO OR CRVO\n"
            "im0004\t0\tNormal ?\n"
            "im0402\t0\t\tNormal\n"
        )
        return tmp_path

    def test_codes_are_diagnoses_and_text_is_kept_without_quotes_and_empty_columns(self, root: Path, capsys):
        one, two, *_ = stare.read(root)
        assert one.diagnosis == ("npdr",) and one.texts == {"report": "Background Diabetic Retinopathy"}
        assert two.diagnosis == ("choroidal_neovascularisation", "other")
        assert two.texts == {"report": "Choroidal Neovascularization AND Histoplasmosis"} and two.extra == {
            "codes": "13 14"
        }
        assert one.masks == {"vessel": "labels-ah/im0001.ah.ppm.gz", "vessel_expert2": "labels-vk/im0001.vk.ppm.gz"}
        out = capsys.readouterr().out
        assert "1 names have a diagnosis or masks but no photograph: im0402" in out
        assert "2 diagnoses are uncertain (OR, ?)" in out and "1 photographs have none" in out

    def test_what_the_expert_was_not_sure_of_is_no_diagnosis(self, root: Path):
        _, _, three, four, five = stare.read(root)
        assert three.diagnosis is None and three.texts == {"report": "BRVO OR CRVO"}
        assert three.extra == {"codes": "4 5", "uncertain": True} and four.diagnosis is None
        assert five.diagnosis is None and five.texts == {} and five.extra == {}

    def test_packed_photographs_and_masks_are_decoded(self, root: Path):
        record = stare.read(root)[0]
        expected = np.random.default_rng(1).integers(0, 255, (6, 5, 3), dtype=np.uint8)
        assert (load_image(root / record.image) == expected).all()
        assert load_mask(root / record.masks["vessel"]).shape == (6, 5)
        packed = (root / record.image).read_bytes()
        (root / record.image).write_bytes(packed[: len(packed) // 2])
        assert "damaged or cut short" in refusal(load_image, root / record.image)

    def test_a_photograph_of_both_archives_is_taken_once(self, root: Path, photograph: Write):
        photograph(root / "all-images" / "im0001.ppm")
        photograph(root / "all-images" / "im0402.ppm")
        assert [r.id for r in stare.read(root)] == [f"im{n:04}" for n in (1, 2, 3, 4, 5, 402)]

    @pytest.mark.parametrize(
        "line", ["im0005\tx\tNormal", "im0005\t99\tNormal", "im0005\t\tNormal", "im0005", "im0001\t0\tNormal"]
    )
    def test_lines_that_cannot_be_right_are_refused(self, root: Path, line: str):
        with (root / "all-mg-codes.txt").open("a") as file:
            file.write(line + "\n")
        assert "all-mg-codes.txt line 6" in refusal(stare.read, root)
