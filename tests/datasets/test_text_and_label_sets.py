"""Readers of CSDI, RFMiD and StoneRounds, and what all readers have in common."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from mdf.checking import DATASETS, OWN_WORDS
from mdf.config import DataConfig
from mdf.datasets import csdi, load, odir5k, rfmid, stonerounds
from mdf.errors import UserError
from mdf.records import FundusRecord, group_of

Write = Callable[..., Path]


def refusal(read: Callable, *args: object) -> str:
    with pytest.raises(UserError) as caught:
        read(*args)
    return str(caught.value)


class TestCsdi:
    def make(self, root: Path, photograph: Write, *rows: str) -> Path:
        lines = [",".join(csdi.COLUMNS), *rows]
        (root / "CSDI_annotations.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for row in rows:
            photograph(root / "original_images" / row.split(",")[0], size=(100, 50))
        return root

    def test_boxes_are_scaled_to_the_file(self, tmp_path: Path, photograph: Write):
        row = 'HAY1.jpg,8.5,"Haze, severe cataract.",重度白内障,1000,500,visible,100,0,900,500,200,200,300,310'
        (record,) = csdi.read(self.make(tmp_path, photograph, row))
        assert record.boxes == {"fundus": [10, 0, 90, 50], "disc": [20, 20, 30, 31]}
        assert record.texts == {"en": "Haze, severe cataract.", "zh": "重度白内障"} and record.grade == {"csdi": 8.5}
        assert record.diagnosis == ("cataract",) and record.patient == "HAY"
        assert record.extra == {"optic_disc_clear": "visible", "original_width": 1000, "original_height": 500}

    def test_a_disc_that_is_not_visible_has_no_box_and_no_word_no_diagnosis(self, tmp_path: Path, photograph: Write):
        row = "LZ-OD.jpg,0.5,Vivid colours.,清晰,100,50,not_visible,0,0,100,50,,,,"
        (record,) = csdi.read(self.make(tmp_path, photograph, row))
        assert record.boxes.keys() == {"fundus"} and record.diagnosis is None
        assert (record.eye, record.patient) == ("right", "LZ")

    @pytest.mark.parametrize(
        ("row", "part"),
        [
            ("a.png,8,t,t,100,50,visible,0,0,101,50,1,1,2,2", "the box of the fundus leaves the photograph"),
            ("a.png,11,t,t,100,50,visible,0,0,100,50,1,1,2,2", "score 11 must be from 0 to 10"),
            ("a.png,x,t,t,100,50,visible,0,0,100,50,1,1,2,2", "must be numbers"),
        ],
    )
    def test_rows_that_cannot_be_right_are_refused(self, tmp_path: Path, photograph: Write, row: str, part: str):
        assert part in refusal(csdi.read, self.make(tmp_path, photograph, row))

    def test_the_release_is_read_with_discs_inside_the_fundus(self, shared_data: Path):
        records = csdi.read(shared_data / "csdi")
        assert len(records) == 187 and sum(r.diagnosis == ("cataract",) for r in records) == 162
        assert all(set(r.texts) == {"en", "zh"} for r in records)
        discs = [r for r in records if "disc" in r.boxes]
        assert len(discs) == 178
        for r in discs:
            (left, top, right, bottom), fundus = r.boxes["disc"], r.boxes["fundus"]
            assert fundus[0] < left < right < fundus[2] < 449 and fundus[1] < top < bottom < fundus[3] < 449
        assert len({group_of(r) for r in records}) == 46 + 108


class TestRfmid:
    COLUMNS = (
        *("DR", "ARMD", "MH", "DN", "MYA", "BRVO", "TSLN", "ERM", "LS", "MS", "CSR", "ODC", "CRVO", "TV", "AH", "ODP"),
        *("ODE", "ST", "AION", "PT", "RT", "RS", "CRS", "EDN", "RPEC", "MHL", "RP", "CWS", "CB", "ODPM", "PRH", "MNF"),
        *("HR", "CRAO", "TD", "CME", "PTCR", "CF", "VH", "MCA", "VS", "BRAO", "PLQ", "HPED", "CL"),
    )

    def table(self, path: Path, *marked: str) -> None:
        """A row for each of `marked`, such as "1 DR DN": Disease_Risk and the columns that are 1."""
        lines = ["ID,Disease_Risk," + ",".join(self.COLUMNS)]
        for i, row in enumerate(marked, 1):
            risk, *names = row.split()
            lines.append(f"{i},{risk}," + ",".join(str(int(c in names)) for c in self.COLUMNS))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")

    @pytest.mark.parametrize("nested", [False, True])
    def test_every_condition_is_a_diagnosis_and_no_risk_is_normal(
        self, tmp_path: Path, photograph: Write, nested: bool, capsys
    ):
        for archive, folder, word, _ in rfmid.SETS.values():
            below = tmp_path / archive / archive if nested else tmp_path / archive
            self.table(below / f"RFMiD_{word}_Labels.csv", "1 DR DN", "0", "1", "0 RP")
            for i in range(1, 5):
                photograph(below / folder / f"{i}.png")
        records = rfmid.read(tmp_path)
        assert [r.split for r in records] == ["train"] * 4 + ["val"] * 4 + ["test"] * 4
        assert [r.diagnosis for r in records[:4]] == [
            ("diabetic_retinopathy", "drusen"), ("normal",), ("other",), ("retinitis_pigmentosa",)
        ]  # fmt: skip
        assert [r.extra["disease_risk"] for r in records[:4]] == [1, 0, 1, 0] and records[0].findings is None
        out = capsys.readouterr().out
        assert "3 photographs are `other`" in out and "3 photographs have Disease_Risk 0 and a condition marked" in out

    def test_the_other_layout_and_all_45_columns_are_read(self, tmp_path: Path, photograph: Write):
        for letter, word, folder in (
            ("a.", "Training", "Training"),
            ("b.", "Validation", "Validation"),
            ("c.", "Testing", "Testing"),
        ):
            self.table(
                tmp_path / "2. Groundtruths" / f"{letter} RFMiD_{word}_Labels.csv", "1 " + " ".join(self.COLUMNS)
            )
            photograph(tmp_path / "1. Original Images" / f"{letter} {folder} Set" / "1.png")
        records = rfmid.read(tmp_path)
        assert len(self.COLUMNS) == len(records[0].diagnosis or ()) == 45
        assert records[2].image == "1. Original Images/c. Testing Set/1.png"

    def test_unknown_columns_and_marks_are_refused(self, tmp_path: Path, photograph: Write):
        table = tmp_path / "Training_Set" / "RFMiD_Training_Labels.csv"
        table.parent.mkdir()
        table.write_text("ID,Disease_Risk,XYZ\n1,1,1\n")
        assert "unknown columns XYZ" in refusal(rfmid.read, tmp_path)
        table.write_text("ID,Disease_Risk,DR\n1,1,2\n")
        assert "line 2: every mark must be 0 or 1" in refusal(rfmid.read, tmp_path)


class TestStonerounds:
    def test_the_exported_table_is_read_with_the_users_words(self, tmp_path: Path, photograph: Write):
        photograph(tmp_path / "case1" / "od.jpg")
        table = tmp_path / "stonerounds.csv"
        table.write_text(
            'image,diagnosis,text,patient\ncase1/od.jpg,rods and cones gone,"Bone spicules, thin vessels.",1\n'
        )
        assert "'rods and cones gone' (1 photographs)" in refusal(stonerounds.read, tmp_path)
        (tmp_path / "words.yaml").write_text("rods and cones gone: retinitis_pigmentosa\n")
        cfg = DataConfig(name="stonerounds", root=str(tmp_path), vocabulary=str(tmp_path / "words.yaml"), val=0, test=0)
        (record,) = load(cfg, seed=0).records
        assert record.diagnosis == ("retinitis_pigmentosa",) and record.texts == {
            "text": "Bone spicules, thin vessels."
        }
        assert (record.patient, record.source) == ("1", "stonerounds")

    def test_missing_columns_and_a_missing_table_are_refused(self, tmp_path: Path):
        assert "there is no table" in refusal(stonerounds.read, tmp_path)
        (tmp_path / "stonerounds.csv").write_text("image,diagnosis\na.jpg,normal\n")
        assert "columns text are missing" in refusal(stonerounds.read, tmp_path)


@pytest.mark.parametrize("name", DATASETS)
def test_an_empty_folder_is_refused_with_a_way_out(tmp_path: Path, name: str):
    text = refusal(import_module(f"mdf.datasets.{name}").read, tmp_path)
    assert str(tmp_path) in text


@pytest.mark.parametrize("name", DATASETS)
def test_every_reader_has_its_page(name: str):
    guide = import_module(f"mdf.datasets.{name}").GUIDE
    assert guide.name == name and all(vars(guide).values()) and "DIR/" in guide.layout


def test_listed_sets_are_in_order_and_their_readers_with_own_words_are_listed():
    assert list(DATASETS) == sorted(DATASETS) and set(OWN_WORDS) <= set(DATASETS)


@pytest.mark.parametrize("name", ["chase_db1", "csdi", "drive", "hrf", "les_av"])
def test_records_of_the_releases_survive_a_manifest(shared_data: Path, name: str):
    records = import_module(f"mdf.datasets.{name}").read(shared_data / name)
    assert [FundusRecord.from_dict(r.to_dict()) for r in records] == records


def test_odir_keeps_what_is_said_of_the_other_eye_apart(shared_data: Path):
    records = {r.id: r for r in odir5k.read(shared_data / "odir5k")}
    assert records["2_right"].texts == {"keywords": "moderate non proliferative retinopathy"}
    assert records["2_right"].extra == {
        "patient_flags": "D,O",
        "fellow_keywords": "laser spot, moderate non proliferative retinopathy",
    }
