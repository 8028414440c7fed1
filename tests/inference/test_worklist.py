"""Which photographs are worked on, what their reports are called, and which of them belong together."""

import os
from pathlib import Path

import pytest

from mdf.errors import UserError
from mdf.inference.worklist import Visit, check_name, printable, read_photographs, visits
from mdf.records import FundusRecord


def ids(data, **options):
    return [record.id for record in read_photographs(data, whole=True, **options).records]


def test_a_folder_gives_what_is_a_photograph_by_ending_or_by_content(photograph, tmp_path, capsys):
    folder = tmp_path / "clinic"
    photograph(folder / "b" / "eye.jpg")
    photograph(folder / "a" / "eye.jpg")
    photograph(folder / "scan.png").rename(folder / "scan")  # as DICOM archives name their files
    (folder / "EYE.JPG").write_text("no picture, which the decoder will tell")
    (folder / "notes.txt").write_text("text")
    (folder / "dicom").write_bytes(bytes(128) + b"DICM")
    photograph(folder / ".hidden" / "eye.jpg")
    assert ids(folder) == ["EYE.JPG", "a/eye.jpg", "b/eye.jpg", "dicom", "scan"]
    assert "1 files below" in capsys.readouterr().err
    assert [r.id for r in read_photographs(folder).records] == ["EYE", "a/eye", "b/eye", "dicom", "scan"]


def test_results_among_the_photographs_are_no_photographs(photograph, tmp_path):
    photograph(tmp_path / "eye.jpg")
    photograph(tmp_path / "out" / "reports" / "eye_photograph.jpg")
    assert ids(tmp_path, leave_out=tmp_path / "out") == ["eye.jpg"]
    with pytest.raises(UserError, match="choose another one for the results"):
        ids(tmp_path, leave_out=tmp_path)


def test_a_list_names_photographs_relative_to_its_own_folder(photograph, tmp_path, monkeypatch, capsys):
    photograph(tmp_path / "deep" / "eye.jpg")
    elsewhere = photograph(tmp_path / "elsewhere" / "eye.jpg")
    (tmp_path / "deep" / "list.txt").write_text("eye.jpg\n\nmissing.jpg\neye.jpg\n")
    monkeypatch.chdir("/")
    manifest = read_photographs(tmp_path / "deep" / "list.txt", whole=True)
    assert [r.id for r in manifest.records] == ["eye.jpg", "missing.jpg"] and manifest.root == tmp_path / "deep"
    assert "1 lines" in capsys.readouterr().err
    (tmp_path / "deep" / "all.txt").write_text(f"eye.jpg\n{elsewhere}\n")
    manifest = read_photographs(tmp_path / "deep" / "all.txt")
    assert [manifest.path(r.image) for r in manifest.records] == [tmp_path / "deep" / "eye.jpg", elsewhere]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p / "missing.txt", "cannot be read"),
        (lambda p: (p / "empty.txt").write_text("\n") and p / "empty.txt", "names no photograph"),
        (lambda p: p, "holds no photograph"),
        (lambda p: p / "missing.jsonl", "missing.jsonl"),
    ],
)
def test_what_holds_no_photograph_is_refused(tmp_path, make, said):
    with pytest.raises(UserError, match=said):
        read_photographs(make(tmp_path))


def test_a_folder_that_cannot_be_followed_is_told(photograph, tmp_path, capsys):
    photograph(tmp_path / "data" / "eye.jpg")
    photograph(tmp_path / "other" / "eye.jpg")
    os.symlink(tmp_path / "other", tmp_path / "data" / "linked")
    assert ids(tmp_path / "data") == ["eye.jpg"]
    assert "1 folders below" in capsys.readouterr().err


def test_names_of_reports_do_not_collide_and_depend_on_nothing_else():
    names = [
        visits([FundusRecord(id=i, image=i)])[i].name for i in ("a/eye.jpg", "b/eye.jpg", "a/eye.png", "A/eye.jpg")
    ]
    assert len({name.lower() for name in names}) == 4
    assert all(Path(name).name.startswith("eye-") for name in names)
    together = visits([FundusRecord(id=i, image=i) for i in ("z.jpg", "b/eye.jpg", "a/eye.jpg")])
    assert together["a/eye.jpg"].name == names[0] and together["b/eye.jpg"].name == names[1]


@pytest.mark.parametrize(
    "hostile", ["../../etc/passwd", "<script>", "a b\n.jpg", "眼底.jpg", "x" * 300, ".", "con.jpg\0"]
)
def test_a_name_of_a_report_is_a_plain_file_name(hostile):
    name = Visit(hostile, (FundusRecord(id=hostile, image=hostile),)).name
    folder, file = name.split("/")
    assert len(folder) == 2 and file.isascii() and file.replace("-", "").replace("_", "").isalnum() and len(file) < 90


def test_a_left_and_a_right_eye_of_a_patient_go_together(capsys):
    def eye(id_, side, patient, study=None):
        return FundusRecord(id=id_, image=f"{id_}.png", eye=side, patient=patient, study=study)

    found = visits(
        [
            eye("r1", "right", "p1"), eye("x", None, None), eye("l1", "left", "p1"),
            eye("l2", "left", "p2", "2024"), eye("r2", "right", "p2", "2025"),  # other visits
            eye("l3", "left", "p3"), eye("m3", "left", "p3"), eye("r3", "right", "p3"),  # which left one?
            eye("l4", "left", "p4"), eye("u4", None, "p4"),
        ]
    )  # fmt: skip
    assert list(found) == ["l1 + r1", "x", "l2", "r2", "l3", "m3", "r3", "l4", "u4"]
    assert [r.id for r in found["l1 + r1"].records] == ["l1", "r1"]
    assert "2 patients have other photographs" in capsys.readouterr().err


def test_a_name_that_is_no_text_is_told():
    broken = os.fsdecode(b"eye\xff.jpg")
    with pytest.raises(UserError, match="not UTF-8"):
        check_name(broken)
    printable(broken).encode()
    assert printable("a\nb\u202egpj.exe") == "a\\nb\\u202egpj.exe" and printable("眼 底.jpg") == "眼 底.jpg"
