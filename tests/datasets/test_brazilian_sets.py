"""BRSET and mBRSET on small folders in their published layout."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mdf.datasets import brset, mbrset
from mdf.errors import UserError

Write = Callable[..., Path]


class TestBrset:
    HEADER = (
        "image_id,patient_id,camera,patient_age,comorbidities,diabetes_time_y,insuline,patient_sex,exam_eye,diabetes,"
        "nationality,optic_disc,vessels,macula,DR_SDRG,DR_ICDR,focus,Illuminaton,image_field,artifacts,"
        "diabetic_retinopathy,macular_edema,scar,nevus,amd,vascular_occlusion,hypertensive_retinopathy,drusens,"
        "hemorrhage,retinal_detachment,myopic_fundus,increased_cup_disc,other,quality\n"
    )
    ILL = 'img00001,1,Canon CR,"48,5","diabetes1, hypertension",12,yes,1,2,yes,Brazil,1,2,1,2,3,1,1,1,1,'
    ILL += "1,1,0,0,0,0,0,1,0,0,0,0,0,Adequate\n"
    WELL = "img00002,2,NIKON NF5050,3O,NA,NA,no,2,1,no,Brazil,1,1,1,0,0,2,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0,Inadequate\n"
    ODD = "img00003,2,NIKON NF5050,60,NA,NA,no,2,1,no,Brazil,2,1,1,0,0,2,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0,Adequate\n"

    def make(self, root: Path, photograph: Write, *rows: str, table: str = "labels_brset.csv") -> Path:
        (root / table).write_text(self.HEADER + "".join(rows), encoding="utf-8")
        for row in rows:
            photograph(root / "fundus_photos" / f"{row[:8]}.jpg", size=(4, 4))
        return root

    def test_flags_grades_and_the_person(self, tmp_path: Path, photograph: Write, capsys):
        ill, well, odd = brset.read(self.make(tmp_path, photograph, self.ILL, self.WELL, self.ODD))
        assert (ill.patient, ill.eye, ill.sex, ill.age, ill.camera) == ("1", "left", "male", 48.5, "Canon CR")
        assert ill.diagnosis == ("severe_npdr", "macular_oedema", "drusen") and ill.grade == {"icdr": 3, "sdrg": 2}
        assert ill.extra["comorbidities"] == "diabetes1, hypertension" and ill.extra["nevus"] == 0
        assert ill.extra["quality"] == "Adequate" and ill.findings is None
        assert (well.diagnosis, well.age, well.sex, well.eye) == (("normal",), None, "female", "right")
        assert "comorbidities" not in well.extra and well.extra["illuminaton"] == 1
        assert odd.diagnosis is None, "an abnormal disc without a flag is neither normal nor named"
        assert "1 ages are no years" in capsys.readouterr().out

    def test_the_first_versions_table_is_found(self, tmp_path: Path, photograph: Write):
        root = self.make(tmp_path, photograph, self.WELL, table="labels.csv")
        assert brset.read(root)[0].image == "fundus_photos/img00002.jpg"

    def test_release_1_0_2_is_read_like_those_before_it(self, tmp_path: Path, photograph: Write, capsys):
        (before,) = brset.read(self.make(tmp_path, photograph, self.ILL))
        assert "exam_eye was reviewed" in capsys.readouterr().out
        (tmp_path / "labels_brset.csv").unlink()
        header = self.HEADER.replace("drusens", "drusen")
        (tmp_path / "label_brset.csv").write_text(header + self.ILL, encoding="utf-8")
        assert brset.read(tmp_path) == [before]
        assert "exam_eye" not in capsys.readouterr().out

    def test_a_flag_other_than_0_and_1_is_said_and_makes_no_eye_normal(self, tmp_path: Path, photograph: Write, capsys):
        root = self.make(tmp_path, photograph, self.WELL.replace("0,Inadequate", "2,Inadequate"))
        assert brset.read(root)[0].diagnosis is None
        assert "1 rows have flags other than 0 and 1, which are not known: rows 2" in capsys.readouterr().out

    def test_missing_columns_are_refused(self, tmp_path: Path, photograph: Write):
        root = self.make(tmp_path, photograph, self.WELL)
        (root / "labels_brset.csv").write_text("image_id,DR_ICDR\nimg00002,0\n")
        with pytest.raises(UserError, match="columns patient_id, camera"):
            brset.read(root)


class TestMbrset:
    HEADER = (
        "patient,age,sex,dm_time,insulin,insulin_time,oraltreatment_dm,systemic_hypertension,insurance,educational_level,"
        "alcohol_consumption,smoking,obesity,vascular_disease,acute_myocardial_infarction,nephropathy,neuropathy,"
        "diabetic_foot,file,laterality,final_artifacts,final_quality,final_icdr,final_edema\n"
    )
    ROWS = (
        "1,63,0,12,1,3,1,1,0,4,0,0,1,0,0,0,0,0,1.1.jpg,right,no,yes,2,yes\n",
        "1,63,0,12,1,3,1,1,0,4,0,0,1,0,0,0,0,0,1.3.jpg,left,no,yes,0,no\n",
        "2,71,1,5,0,,1,0,0,4,0,0,0,0,0,0,0,0,2.1.jpg,left,yes,no,,\n",
    )

    def test_grades_oedema_and_what_was_not_gradable(self, tmp_path: Path, photograph: Write):
        (tmp_path / "labels_mbrset.csv").write_text(self.HEADER + "".join(self.ROWS))
        for name in ("1.1.jpg", "1.3.jpg", "2.1.jpg"):
            photograph(tmp_path / "images" / name, size=(4, 4))
        a, b, c = mbrset.read(tmp_path)
        assert (a.id, a.patient, a.eye, a.sex, a.age) == ("1.1", "1", "right", "female", 63)
        assert a.diagnosis == ("moderate_npdr", "macular_oedema") and a.grade == {"icdr": 2}
        assert b.diagnosis == ("no_diabetic_retinopathy",) and b.patient == a.patient
        assert (c.diagnosis, c.grade, c.sex, c.extra["final_quality"]) == (None, {}, "male", "no")
        assert a.extra["dm_time"] == 12 and "insulin_time" not in c.extra

    def test_the_one_photograph_that_the_release_lacks_is_said_and_more_are_refused(
        self, tmp_path: Path, photograph: Write, capsys
    ):
        (tmp_path / "labels_mbrset.csv").write_text(self.HEADER + "".join(self.ROWS))
        photograph(tmp_path / "images" / "1.1.jpg")
        photograph(tmp_path / "images" / "1.3.jpg")
        assert len(mbrset.read(tmp_path)) == 2 and "left out: 2.1.jpg" in capsys.readouterr().out
        (tmp_path / "images" / "1.3.jpg").unlink()
        with pytest.raises(UserError, match="2 of 3 photographs are missing"):
            mbrset.read(tmp_path)
