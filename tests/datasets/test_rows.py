"""Tables of every format and of every state: encodings, separators, duplicates, wrong rows by the thousand."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mdf.datasets import table
from mdf.datasets.common import likely_encoding
from mdf.errors import UserError

Write = Callable[..., Path]


def refusal(root: Path, file: Path, **kwargs: object) -> str:
    with pytest.raises(UserError) as caught:
        table.read(root, file, **kwargs)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.fixture
def root(tmp_path: Path, photograph: Write) -> Path:
    """A folder with a.png and b.png."""
    photograph(tmp_path / "a.png")
    photograph(tmp_path / "b.png", seed=1)
    return tmp_path


class TestFormats:
    ROWS = (
        {"image": "a.png", "label": ["glaucoma", "drusen"], "age": 61.0, "grade_icdr": 2},
        {"image": "b.png", "age": None},
    )

    def check(self, root: Path, file: Path) -> None:
        a, b = table.read(root, file)
        assert (a.diagnosis, a.age, a.grade) == (("glaucoma", "drusen"), 61, {"icdr": 2})
        assert (b.diagnosis, b.age, b.grade) == (None, None, {})

    def test_json_lines(self, root: Path):
        (root / "t.jsonl").write_text("".join(json.dumps(r) + "\n" for r in self.ROWS), encoding="utf-8-sig")
        self.check(root, root / "t.jsonl")

    def test_parquet(self, root: Path):
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        rows = [dict.fromkeys(self.ROWS[0]) | row for row in self.ROWS]
        parquet.write_table(pyarrow.Table.from_pylist(rows), root / "t.parquet")
        self.check(root, root / "t.parquet")

    @pytest.mark.parametrize("separator", [",", ";", "\t", "，"])
    def test_every_separator_and_a_byte_order_mark(self, root: Path, separator: str):
        lines = (
            ("image", "label", "age", "grade_icdr"),
            ("a.png", "glaucoma、drusen", "61", "2"),
            ("b.png", "", "NA", "nan"),
        )
        (root / "t.csv").write_text("\r\n".join(separator.join(line) for line in lines), encoding="utf-8-sig")
        self.check(root, root / "t.csv")

    @pytest.mark.parametrize(
        ("name", "content", "part"),
        [
            ("t.jsonl", b'{"image": "a.png"}\n[1]\n{', "2 lines are no JSON object such as"),
            ("t.jsonl", b'{"image": "\\ud800.png"}\n' + b"[" * 100_000, "2 lines are no JSON object such as"),
            ("t.jsonl", b'{"image": {"bytes": "x"}}', "the columns image hold objects"),
            ("t.jsonl", b"\n", "holds no photograph"),
            ("t.parquet", b"no parquet", "cannot be read as Parquet"),
            ("none.parquet", None, "there is no table"),
        ],
    )
    def test_damaged_tables_are_refused(self, root: Path, name: str, content: bytes | None, part: str):
        if content is not None:
            (root / name).write_bytes(content)
        assert part in refusal(root, root / name)


TEXTS = {
    "gb18030": "糖尿病视网膜病变，视盘水肿",
    "cp1252": "Drüsen in der Nähe des Sehnervs, große Gefäße",
    "utf-16": "Drusen",
}


class TestEncodings:
    @pytest.mark.parametrize("encoding", TEXTS)
    def test_the_likely_encoding_is_named_and_works(self, root: Path, encoding: str):
        text = TEXTS[encoding]
        (root / "t.csv").write_text(f"image;text\na.png;{text}\n", encoding=encoding)
        said = refusal(root, root / "t.csv")
        assert "is not utf-8 text" in said and f"--encoding {encoding}" in said and "UTF-8" in said
        (record,) = table.read(root, root / "t.csv", encoding=encoding)
        assert record.texts == {"text": text}

    def test_a_long_western_text_is_not_taken_for_chinese(self):
        assert likely_encoding("é à ü ö Ä ß ç ñ déjà vu, façade, Übergröße".encode("cp1252")) == "cp1252"


class TestWrongRows:
    def test_thousands_of_wrong_rows_are_counted_by_kind_and_the_first_are_shown(self, root: Path):
        rows = "".join(f"{i}.png,{'x' if i % 2 else 200},both,../p{i}\n" for i in range(3000))
        (root / "t.csv").write_text("image,age,eye,mask_vessel\n" + rows)
        said = refusal(root, root / "t.csv")
        assert "12,000 problems" in said and "3000 ages must be years from 0 to 130: row 2 '200', row 3 'x'" in said
        assert "3000 cells of 'eye' are not understood" in said and "3000 files of 'image' are missing" in said
        assert "3000 paths of 'mask_vessel' leave the root" in said and len(said) < 3000

    def test_unknown_diagnoses_are_shown_with_the_most_frequent_first(self, root: Path):
        words = [f"qqx{i}zz" for i in range(100)]
        rows = "".join(f"{i},a.png,{w}\n" for i, w in enumerate([*words, "qqx7zz"]))
        (root / "t.csv").write_text("id,image,label\n" + rows)
        said = refusal(root, root / "t.csv")
        assert "100 diagnosis strings are not in the vocabulary:\n  'qqx7zz' (2 photographs)" in said
        assert "and 60 rarer ones" in said

    def test_rows_that_say_the_same_are_read_once_and_said(self, root: Path, capsys):
        (root / "t.csv").write_text("image,age\na.png,61\nb.png,70\na.png,61\na.png,61\n")
        assert [r.id for r in table.read(root, root / "t.csv")] == ["a", "b"]
        assert "2 rows say the same as an earlier row and are read once: rows 4, 5" in capsys.readouterr().out

    def test_a_photograph_with_two_different_rows_needs_ids(self, root: Path, capsys):
        (root / "t.csv").write_text("image,age\na.png,61\na.png,62\n")
        assert "2 ids stand in more than one row: row 2 'a.png', row 3 'a.png'" in refusal(root, root / "t.csv")
        (root / "t.csv").write_text("id,image,text\n1,a.png,one\n2,a.png,two\n")
        assert len(table.read(root, root / "t.csv")) == 2
        assert "1 rows of t.csv name a photograph that another row names too" in capsys.readouterr().out


class TestColumns:
    def test_a_yaml_file_and_words_name_columns(self, tmp_path: Path):
        (tmp_path / "c.yaml").write_text("image: Foto\ndiagnosis: Befund\n2: 3\n")
        assert table.read_columns([str(tmp_path / "c.yaml"), "diagnosis=Diagnose=1"]) == {
            "image": "Foto",
            "diagnosis": "Diagnose=1",
            "2": "3",
        }

    @pytest.mark.parametrize("content", ["- image", "image: [a]", "image: {a: 1}", "{", None])
    def test_other_files_are_refused(self, tmp_path: Path, content: str | None):
        if content is not None:
            (tmp_path / "c.yaml").write_text(content)
        with pytest.raises(UserError, match=r"c.yaml"):
            table.read_columns([str(tmp_path / "c.yaml")])

    @pytest.mark.parametrize("word", ["image", "=x", "image="])
    def test_other_words_are_refused(self, word: str):
        with pytest.raises(UserError, match="FIELD=COLUMN"):
            table.read_columns([word])
