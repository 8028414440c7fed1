"""Readers: a published layout or the user's own folder or table becomes records, and nothing is left out silently."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from mdf.config import DataConfig
from mdf.datasets import folder, hrf, load, odir5k, table
from mdf.errors import UserError
from mdf.records import group_of

Write = Callable[..., Path]


def make_folder(root: Path, photograph: Write, *names: str) -> Path:
    for i, name in enumerate(names):
        photograph(root / name, seed=i)
    return root


def make_table(root: Path, photograph: Write, text: str, *images: str) -> Path:
    make_folder(root, photograph, *images)
    (root / "t.csv").write_text(text, encoding="utf-8")
    return root / "t.csv"


def refusal(read: Callable, *args: object, **kwargs: object) -> str:
    with pytest.raises(UserError) as caught:
        read(*args, **kwargs)
    return str(caught.value)


class TestFolder:
    def test_sub_folders_are_diagnoses(self, tmp_path: Path, photograph: Write):
        root = make_folder(tmp_path, photograph, "Glaucoma/b.png", "normal fundus/deep/a.jpg")
        records = folder.read(root)
        assert [(r.id, r.image, r.diagnosis) for r in records] == [
            ("Glaucoma/b", "Glaucoma/b.png", ("glaucoma",)),
            ("normal fundus/deep/a", "normal fundus/deep/a.jpg", ("normal",)),
        ]

    def test_a_flat_folder_has_no_diagnoses(self, tmp_path: Path, photograph: Write):
        records = folder.read(make_folder(tmp_path, photograph, "a.png", "a.jpg", "b.png"))
        assert [r.id for r in records] == ["a.jpg", "a.png", "b"] and all(r.diagnosis is None for r in records)

    def test_train_and_test_folders_are_splits(self, tmp_path: Path, photograph: Write):
        records = folder.read(
            make_folder(tmp_path, photograph, "train/amd/a.png", "validation/amd/b.png", "test/amd/c.png")
        )
        assert {r.id: (r.split, r.diagnosis) for r in records} == {
            "train/amd/a": ("train", ("amd",)),
            "validation/amd/b": ("val", ("amd",)),
            "test/amd/c": ("test", ("amd",)),
        }

    def test_unknown_sub_folders_are_all_listed_unless_the_user_maps_them(self, tmp_path: Path, photograph: Write):
        root = make_folder(tmp_path, photograph, "glaucomma/a.png", "grade 2/b.png", "amd/c.png")
        text = refusal(folder.read, root)
        assert (
            "'glaucomma' (1 photographs); nearest: glaucoma" in text
            and "'grade 2'" in text
            and "data.vocabulary" in text
        )
        records = folder.read(root, {"glaucomma": "glaucoma", "grade 2": "moderate_npdr"})
        assert [r.diagnosis for r in records] == [("amd",), ("glaucoma",), ("moderate_npdr",)]

    def test_photographs_beside_sub_folders_are_refused(self, tmp_path: Path, photograph: Write):
        assert "1 do not" in refusal(folder.read, make_folder(tmp_path, photograph, "amd/a.png", "b.png"))

    def test_files_that_are_no_photographs_are_counted_aloud(self, tmp_path: Path, photograph: Write, capsys):
        make_folder(tmp_path, photograph, "a.png", ".hidden/b.png")
        (tmp_path / "notes.txt").write_text("x")
        assert len(folder.read(tmp_path)) == 1
        assert "1 files" in capsys.readouterr().out

    def test_an_empty_folder_is_refused(self, tmp_path: Path):
        assert "holds no photograph" in refusal(folder.read, tmp_path)


class TestTable:
    def test_obvious_columns_are_found(self, tmp_path: Path, photograph: Write):
        file = make_table(
            tmp_path,
            photograph,
            "Filename,Label,Report,Patient ID,Eye,Age,Gender,split,mask_vessel,centre\n"
            'a.png,"Glaucoma; drusen",Large cup.,p1,OD,61,F,training,m.png,X\n'
            "b.png,,,p2,L,,,test,,X\n",
            "a.png",
            "b.png",
            "m.png",
        )
        a, b = table.read(tmp_path, file)
        assert (a.id, a.image, a.patient, a.eye, a.age, a.sex, a.split) == (
            "a",
            "a.png",
            "p1",
            "right",
            61,
            "female",
            "train",
        )
        assert (
            a.diagnosis == ("glaucoma", "drusen")
            and a.texts == {"text": "Large cup."}
            and a.masks == {"vessel": "m.png"}
        )
        assert (b.diagnosis, b.eye, b.age, b.sex, b.split, b.texts, b.masks) == (
            None,
            "left",
            None,
            None,
            "test",
            {},
            {},
        )

    def test_the_user_names_columns(self, tmp_path: Path, photograph: Write):
        file = make_table(tmp_path, photograph, "foto;befund;icdr\na.png;normal fundus;0\n", "a.png")
        columns = {"image": "foto", "diagnosis": "befund", "grade_icdr": "icdr", "text_de": "befund"}
        (record,) = table.read(tmp_path, file, columns)
        assert (
            record.diagnosis == ("normal",) and record.grade == {"icdr": 0} and record.texts == {"de": "normal fundus"}
        )

    def test_wrong_fields_and_columns_are_listed_with_what_was_meant(self, tmp_path: Path, photograph: Write):
        file = make_table(tmp_path, photograph, "image,label\na.png,normal\n", "a.png")
        text = refusal(table.read, tmp_path, file, {"diagnoses": "label", "text": "labels"})
        assert "did you mean diagnosis?" in text and "no column 'labels'; did you mean 'label'?" in text

    def test_a_table_without_photographs_column_lists_its_columns(self, tmp_path: Path, photograph: Write):
        text = refusal(table.read, tmp_path, make_table(tmp_path, photograph, "a,b\n1,2\n"))
        assert "it has a, b" in text and "data.columns.image" in text

    def test_missing_photographs_are_counted_with_the_paths_tried(self, tmp_path: Path, photograph: Write):
        rows = "".join(f"{i}.png\n" for i in range(9))
        text = refusal(table.read, tmp_path, make_table(tmp_path, photograph, "image\n" + rows, "0.png"))
        assert (
            "8 files of 'image' are missing" in text
            and str(tmp_path / "1.png") in text
            and str(tmp_path / "8.png") not in text
        )

    def test_unknown_diagnoses_are_all_listed(self, tmp_path: Path, photograph: Write):
        file = make_table(tmp_path, photograph, "image,label\na.png,glaucomma\nb.png,0\n", "a.png", "b.png")
        text = refusal(table.read, tmp_path, file)
        assert "'glaucomma' (1 photographs); nearest: glaucoma" in text and "'0' (1 photographs)" in text

    @pytest.mark.parametrize(
        ("content", "part"),
        [
            ("image,eye\na.png,both\n", "1 cells of 'eye' are not understood"),
            ("image,age\na.png,old\n", "1 ages must be years from 0 to 130: row 2 'old'"),
            ("image,split\na.png,dev\n", "1 cells of 'split' are not understood"),
            ("image,id\na.png,1\nb.png,1\n", "ids stand in more than one row"),
            ("image,label\n,normal\n", "1 rows name no image"),
            ("image,label\na.png\n", "do not have 2 cells"),
            ("image,image\na.png,b.png\n", "column names stand twice"),
            ("image\n", "holds no photograph"),
            ("image\n../a.png\n", "leave the root"),
        ],
    )
    def test_rows_that_cannot_be_right_are_refused(self, tmp_path: Path, photograph: Write, content: str, part: str):
        assert part in refusal(table.read, tmp_path, make_table(tmp_path, photograph, content, "a.png", "b.png"))

    def test_absolute_paths_below_the_root_are_taken(self, tmp_path: Path, photograph: Write):
        file = make_table(tmp_path, photograph, f"image\n{tmp_path}/a.png\n", "a.png")
        assert table.read(tmp_path, file)[0].image == "a.png"


class TestHrf:
    def test_the_suffix_is_the_diagnosis_and_masks_are_found(self, tmp_path: Path, photograph: Write):
        for stem, ending in (("01_h", "jpg"), ("01_dr", "JPG"), ("01_g", "jpg")):
            photograph(tmp_path / "images" / f"{stem}.{ending}")
            photograph(tmp_path / "manual1" / f"{stem}.tif")
            photograph(tmp_path / "mask" / f"{stem}_mask.tif")
        records = {r.id: r for r in hrf.read(tmp_path)}
        assert {i: r.diagnosis for i, r in records.items()} == {
            "01_h": ("normal",),
            "01_dr": ("diabetic_retinopathy",),
            "01_g": ("glaucoma",),
        }
        assert records["01_dr"].image == "images/01_dr.JPG" and records["01_dr"].patient is None
        assert records["01_dr"].masks == {"vessel": "manual1/01_dr.tif", "field": "mask/01_dr_mask.tif"}
        (tmp_path / "manual1" / "01_g.tif").unlink()
        assert "1 of 6 files are missing" in refusal(hrf.read, tmp_path)

    def test_the_release_is_read(self, shared_data: Path):
        records = hrf.read(shared_data / "hrf")
        assert Counter(r.diagnosis for r in records) == {
            ("normal",): 15,
            ("diabetic_retinopathy",): 15,
            ("glaucoma",): 15,
        }


class TestOdir5k:
    HEADER = (
        "ID,Patient Age,Patient Sex,Left-Fundus,Right-Fundus,Left-Diagnostic Keywords,Right-Diagnostic Keywords,"
        "N,D,G,C,A,H,M,O,filepath,labels,target,filename\n"
    )

    def test_the_label_is_of_the_eye_and_not_of_the_patient(self, tmp_path: Path, photograph: Write):
        row = "7,69,Female,7_left.jpg,7_right.jpg,cataract，lens  dust,normal fundus,"
        row += "0,0,0,1,0,0,0,0,x,['{}'],t,7_{}.jpg\n"
        (tmp_path / "full_df.csv").write_text(
            self.HEADER + row.format("C", "left") + row.format("N", "right"), encoding="utf-8"
        )
        make_folder(tmp_path / "preprocessed_images", photograph, "7_left.jpg", "7_right.jpg")
        left, right = odir5k.read(tmp_path)
        assert (left.id, left.patient, left.eye, left.age, left.sex) == ("7_left", "7", "left", 69, "female")
        assert left.diagnosis == ("cataract",) and right.diagnosis == ("normal",)
        assert left.texts == {"keywords": "cataract, lens dust"} and right.texts == {"keywords": "normal fundus"}
        assert left.findings is None and right.extra == {"patient_flags": "C", "fellow_keywords": "cataract, lens dust"}

    def test_another_table_is_refused_with_the_columns_that_are_missing(self, tmp_path: Path):
        (tmp_path / "full_df.csv").write_text("ID,labels\n1,['N']\n")
        assert "columns Patient Age" in refusal(odir5k.read, tmp_path)

    @pytest.mark.parametrize("labels", ["1", "0.5", "[['N']]", "N"])
    def test_labels_that_are_no_list_are_refused(self, tmp_path: Path, photograph: Write, labels: str):
        row = f"7,69,Female,7_left.jpg,7_right.jpg,cataract,normal,0,0,0,1,0,0,0,0,x,{labels},t,7_left.jpg\n"
        (tmp_path / "full_df.csv").write_text(self.HEADER + row)
        photograph(tmp_path / "preprocessed_images" / "7_left.jpg")
        assert "full_df.csv line 2: labels must be a list" in refusal(odir5k.read, tmp_path)

    def test_the_release_is_read_and_split_by_patient(self, shared_data: Path, capsys):
        manifest = load(DataConfig(name="odir5k", root=str(shared_data / "odir5k")), seed=0)
        assert len(manifest.records) == 5088 and "2678 patients" in capsys.readouterr().out
        counts = Counter(d for r in manifest.records for d in r.diagnosis or ())
        assert counts["normal"] == 2289 and counts["hypertensive_retinopathy"] == 91 and len(counts) == 8
        patients = [{group_of(r) for r in manifest.split(s)} for s in ("train", "val", "test")]
        assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])
        assert all(len({r.diagnosis for r in manifest.split(s)}) == 8 for s in ("train", "val", "test"))


class TestLoad:
    def test_photographs_without_a_patient_are_said_aloud(self, tmp_path: Path, photograph: Write, capsys):
        make_folder(tmp_path, photograph, *(f"amd/{i}.png" for i in range(10)))
        manifest = load(DataConfig(name="folder", root=str(tmp_path)), seed=0)
        assert "10 have no patient and count as one each" in capsys.readouterr().out
        assert Counter(r.split for r in manifest.records) == {"train": 7, "val": 1, "test": 2}

    def test_a_limit_is_for_each_split_and_drawn_by_the_seed(self, tmp_path: Path, photograph: Write):
        make_folder(tmp_path, photograph, *(f"amd/{i}.png" for i in range(20)))
        cfg = DataConfig(name="folder", root=str(tmp_path), limit=2)
        manifest = load(cfg, seed=0)
        assert Counter(r.split for r in manifest.records) == {"train": 2, "val": 2, "test": 2}
        assert load(cfg, seed=0).sha256 == manifest.sha256 != load(cfg, seed=1).sha256

    def test_a_missing_root_is_refused(self):
        assert "there is no folder" in refusal(load, DataConfig(name="hrf", root="nowhere"), 0)

    def test_phantoms_are_drawn_into_the_cache_once(self, tmp_path: Path):
        cfg = DataConfig(count=6, size=96)
        manifest = load(cfg, seed=5, cache_dir=tmp_path)
        assert len(manifest.records) == 6 and manifest.root.parent == tmp_path
        assert all(manifest.path(r.image).is_file() for r in manifest.records)
        assert load(cfg, seed=5, cache_dir=tmp_path).sha256 == manifest.sha256
