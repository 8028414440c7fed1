"""MM-Retinal, DeepEyeNet and FLAIR's tables on small folders in their published layout."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mdf.datasets import deepeyenet, flair, mm_retinal
from mdf.dialogue import report_text
from mdf.errors import UserError

Write = Callable[..., Path]


class TestMmRetinal:
    def test_a_text_for_each_photograph_whatever_its_ending(self, tmp_path: Path, photograph: Write, capsys):
        (tmp_path / "CFP_translated_v1.csv").write_text(
            'Image_ID,cn_caption,en_caption,book\n1,视盘,"Disc swelling, right eye.",2\n2,,,3\n', encoding="utf-8-sig"
        )
        photograph(tmp_path / "CFP" / "1.png")
        photograph(tmp_path / "CFP" / "2.jpg")
        first, second = mm_retinal.read(tmp_path)
        assert (first.image, first.texts) == ("CFP/1.png", {"en": "Disc swelling, right eye.", "zh": "视盘"})
        assert second.image == "CFP/2.jpg" and second.texts == {} and second.extra == {"book": "3"}
        assert "1 photographs have no English text: 2" in capsys.readouterr().out
        (tmp_path / "CFP" / "2.jpg").unlink()
        with pytest.raises(UserError, match=r"1 of 2 photographs are missing.*: 2"):
            mm_retinal.read(tmp_path)


class TestDeepEyeNet:
    def make(self, root: Path, photograph: Write) -> Path:
        for i, (name, folder) in enumerate((("train", "train_set"), ("valid", "val_set"), ("test", "test_set"))):
            path = f"eyenet0420/{folder}/group01-{i}.jpg"
            entry = {"keywords": "drusen, amd", "clinical-description": "  67-year-old   white female. " if i else ""}
            (root / f"DeepEyeNet_{name}.json").write_text(json.dumps([{path: entry}]))
            photograph(root / path)
        return root

    def test_keywords_and_description_are_two_texts_and_the_split_is_kept(self, tmp_path: Path, photograph: Write):
        train, val, test = deepeyenet.read(self.make(tmp_path, photograph))
        assert (train.split, val.split, test.split) == ("train", "val", "test")
        assert val.texts == {"caption": "67-year-old white female.", "keywords": "drusen, amd"}
        assert train.texts == {"keywords": "drusen, amd"} and report_text(val) == "67-year-old white female."
        assert train.id == "eyenet0420/train_set/group01-0" and train.modality == "unknown" and train.diagnosis is None

    def test_two_pictures_that_differ_in_their_ending_are_two(self, tmp_path: Path, photograph: Write):
        root = self.make(tmp_path, photograph)
        photograph(root / "eyenet0420/train_set/group01-0.png")
        entry = {"keywords": "amd", "clinical-description": "Eye."}
        entries = json.loads((root / "DeepEyeNet_train.json").read_text())
        entries += [{"eyenet0420/train_set/group01-0.png": entry}]
        (root / "DeepEyeNet_train.json").write_text(json.dumps(entries))
        ids = [r.id for r in deepeyenet.read(root) if r.split == "train"]
        assert ids == ["eyenet0420/train_set/group01-0.jpg", "eyenet0420/train_set/group01-0.png"]

    def test_a_picture_in_two_splits_and_another_layout_are_refused(self, tmp_path: Path, photograph: Write):
        root = self.make(tmp_path, photograph)
        (root / "DeepEyeNet_test.json").write_text((root / "DeepEyeNet_train.json").read_text())
        with pytest.raises(UserError, match="1 pictures are in two of the files"):
            deepeyenet.read(root)
        (root / "DeepEyeNet_test.json").write_text('[{"a.jpg": {"keywords": "x"}}]')
        with pytest.raises(UserError, match=r"DeepEyeNet_test.json: expected"):
            deepeyenet.read(root)


class TestFlair:
    def table(self, file: Path, *rows: str) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(",image,atributes,categories\n" + "".join(f"{i},{row}\n" for i, row in enumerate(rows)))
        return file

    def test_lists_become_diagnoses_and_every_string_is_kept(self, tmp_path: Path, photograph: Write, capsys):
        row = "02_MESSIDOR/images/a.png,['clean'],\"['mild diabetic retinopathy', 'no peculiar spots', 'odd words']\""
        table = self.table(tmp_path / "tables" / "02_MESSIDOR.csv", row)
        photograph(tmp_path / "02_MESSIDOR" / "images" / "a.png")
        (record,) = flair.read(tmp_path, table)
        assert record.diagnosis == ("mild_npdr",) and record.findings is None
        assert record.texts == {"categories": "mild diabetic retinopathy; no peculiar spots; odd words"}
        assert record.extra == {"table": "02_MESSIDOR", "absent": "peculiar spots", "attributes": "clean"}
        assert (record.source, record.image) == ("flair/02_MESSIDOR", "02_MESSIDOR/images/a.png")
        said = capsys.readouterr().out
        assert "2 of 3 category strings" in said and "'odd words' (1)" in said

    def test_a_folder_of_tables_is_read_whole_and_rows_of_one_photograph_are_joined(
        self, tmp_path: Path, photograph: Write, capsys
    ):
        photograph(tmp_path / "08_ODIR-5K" / "1.jpg")
        photograph(tmp_path / "36_ACRIMA" / "2.jpg")
        rows = ["08_ODIR-5K/1.jpg,[],['cataract']", "08_ODIR-5K/1.jpg,[],['pathologic myopia']"]
        self.table(tmp_path / "t" / "pretraining" / "08_ODIR.csv", *rows)
        self.table(tmp_path / "t" / "36_ACRIMA.csv", "36_ACRIMA/2.jpg,[],['no glaucoma']")
        records = flair.read(tmp_path, tmp_path / "t")
        assert [(r.id, r.diagnosis) for r in records] == [
            ("36_ACRIMA/36_ACRIMA/2.jpg", ("no_glaucoma",)),
            ("pretraining/08_ODIR/08_ODIR-5K/1.jpg", ("cataract", "pathologic_myopia")),
        ]
        assert "1 rows of 08_ODIR.csv name a photograph again" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "cell", ["__import__('os').mkdir('run')", "['a'", "{'a': 1}", "[1, 2]", "open('run', 'w')", "'a'", "[" * 9000]
    )
    def test_cells_are_parsed_and_never_run(self, tmp_path: Path, monkeypatch, cell: str):
        monkeypatch.chdir(tmp_path)
        table = self.table(tmp_path / "t.csv", f'a.png,[],"{cell}"')
        with pytest.raises(UserError, match="1 rows hold no lists such as"):
            flair.read(tmp_path, table)
        assert not (tmp_path / "run").exists()

    def test_paths_that_leave_the_root_and_other_tables_are_refused(self, tmp_path: Path):
        with pytest.raises(UserError, match="1 paths leave the root"):
            flair.read(tmp_path, self.table(tmp_path / "t.csv", "../a.png,[],[]"))
        (tmp_path / "t.csv").write_text("image,attributes,categories\na.png,[],[]\n")
        with pytest.raises(UserError, match="columns atributes are missing"):
            flair.read(tmp_path, tmp_path / "t.csv")
        with pytest.raises(UserError, match="neither a table nor a folder"):
            flair.read(tmp_path, tmp_path / "nothing")
