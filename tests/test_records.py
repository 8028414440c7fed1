"""Records and manifests: what is written is read back, and what is wrong is named by line."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mdf.errors import UserError
from mdf.records import Finding, FundusRecord, read_manifest, stated, write_manifest

FULL = FundusRecord(
    id="a",
    image="images/a.png",
    patient="7",
    eye="left",
    diagnosis=("diabetic_retinopathy",),
    findings=(Finding("microaneurysm", "macula, superotemporal", count=3), Finding("haemorrhage")),
    texts={"report": "Mikroaneurysmen – linkes Auge"},
    masks={"vessel": "masks/a.png"},
    boxes={"disc": [1, 2, 3, 4]},
    points={"fovea": [5.5, 6]},
    grade={"icdr": 2},
    age=61,
    sex="female",
    split="train",
    extra={"pressure": 14.5},
)


def write_lines(folder: Path, *lines: str | dict) -> Path:
    file = folder / "m.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return file


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_manifest(path)
    return str(caught.value)


def test_a_record_is_written_and_read_back_equal():
    assert FundusRecord.from_dict(json.loads(json.dumps(FULL.to_dict()))) == FULL


def test_not_assessed_and_none_found_are_different():
    unknown, none = FundusRecord("a", "a.png"), FundusRecord("a", "a.png", findings=())
    assert "findings" not in unknown.to_dict() and none.to_dict()["findings"] == []
    assert (
        FundusRecord.from_dict(unknown.to_dict()).findings is None
        and FundusRecord.from_dict(none.to_dict()).findings == ()
    )
    assert FundusRecord.from_dict({"id": "a", "image": "a.png", "findings": None}).findings is None


def test_what_is_stated_of_a_finding_holds_for_what_it_is_a_kind_of():
    some = (Finding("roth_spot", "macula", count=1), Finding("superficial_haemorrhage", "superonasal, macula", count=2))
    found = stated(FundusRecord("1", "1.png", findings=some))
    assert found["roth_spot"] == some[0]
    assert found["haemorrhage"] == Finding("haemorrhage", "macula, superonasal", count=3)
    own = stated(FundusRecord("1", "1.png", findings=(*some, Finding("haemorrhage", count=5))))
    assert own["haemorrhage"] == Finding("haemorrhage", count=5)  # may hold the others already
    unsure = stated(FundusRecord("1", "1.png", findings=(some[0], Finding("roth_spot"))))
    assert unsure["roth_spot"] == Finding("roth_spot")
    assert stated(FundusRecord("1", "1.png")) == {}


def test_diagnoses_become_canonical_names():
    record = FundusRecord.from_dict({"id": "a", "image": "a.png", "diagnosis": ["Dry AMD", "dry_amd", "Glaucoma"]})
    assert record.diagnosis == ("dry_amd", "glaucoma")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"diagnoses": ["normal"]}, "unknown key diagnoses; did you mean diagnosis?"),
        ({"diagnosis": ["glaucomma"]}, "nearest: glaucoma"),
        ({"diagnosis": "normal"}, "must be a list of names"),
        ({"findings": [{"name": "drusen", "counts": 3}]}, "did you mean findings.count?"),
        ({"findings": [{"name": "drusen", "count": -1}]}, "0 or more"),
        ({"findings": ["drusen"]}, "must be an object with a name"),
        ({"image": ""}, "image is missing"),
        ({"id": 3}, "id must be text, got 3"),
        ({"eye": "OD"}, "eye must be one of left, right"),
        ({"split": "dev"}, "split must be one of train, val, test"),
        ({"age": -1}, "age must be years"),
        ({"texts": "report"}, "texts must be an object"),
        ({"masks": {"vessel": 1}}, "masks.vessel must be text"),
        ({"masks": {"vessel": ""}}, "masks.vessel must be text"),
        ({"extra": {"a": [1]}}, "extra.a must be one text or number"),
        ({"image": "../other/a.png"}, "leaves the data's root"),
        ({"image": "/etc/passwd"}, "leaves the data's root"),
        ({"image": "images/../../a.png"}, "leaves the data's root"),
        ({"masks": {"vessel": "../a.png"}}, "leaves the data's root"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path: Path, change: dict, part: str):
    text = refusal(write_lines(tmp_path, {"id": "x", "image": "x.png"}, {"id": "a", "image": "a.png"} | change))
    assert "m.jsonl" in text and "line 2: " in text and part in text


def test_all_wrong_lines_are_in_one_message(tmp_path: Path):
    text = refusal(write_lines(tmp_path, "{", {"id": "a", "image": "a"}, {"id": "a", "image": "b"}, "[]"))
    assert "3 lines are wrong" in text and "line 1: no valid JSON" in text
    assert "line 3: id 'a' stands in line 2 already" in text and "line 4: must be an object" in text


@pytest.mark.parametrize("line", ["[" * 100_000, '{"id": "a", "image": "\\ud800.png"}'])
def test_json_that_cannot_be_kept_is_no_valid_json(tmp_path: Path, line: str):
    """Nested without end, or half of a character, which can be read but not written."""
    assert "line 1: no valid JSON" in refusal(write_lines(tmp_path, line))


@pytest.mark.parametrize("split", ["mine", ["patient"], {"seed": 0}])
def test_a_split_that_is_not_described_as_one_is_refused(tmp_path: Path, split: object):
    (tmp_path / "m.meta.json").write_text(json.dumps({"split": split}))
    assert "split must be an object" in refusal(write_lines(tmp_path, {"id": "a", "image": "a.png"}))


def test_a_missing_or_empty_manifest_is_refused(tmp_path: Path):
    assert "is missing" in refusal(tmp_path / "m.jsonl")
    assert "holds no photograph" in refusal(write_lines(tmp_path, ""))


def test_a_hand_written_manifest_has_its_own_folder_as_root(tmp_path: Path):
    manifest = read_manifest(write_lines(tmp_path, {"id": "a", "image": "images/a.png"}))
    assert manifest.root == tmp_path and manifest.path("images/a.png") == tmp_path / "images" / "a.png"


def test_a_written_manifest_is_read_back_equal_with_its_hash(tmp_path: Path):
    (tmp_path / "release").mkdir()
    written = write_manifest(tmp_path / "m.jsonl", [FULL], root=tmp_path / "release", dataset="mine", split_seed=3)
    read = read_manifest(tmp_path / "m.jsonl")
    assert read.records == (FULL,) and read.root == written.root == tmp_path / "release"
    assert read.sha256 == written.sha256 == hashlib.sha256((tmp_path / "m.jsonl").read_bytes()).hexdigest()
    assert read.meta["dataset"] == "mine" and read.meta["split_seed"] == 3 and read.meta["root"] == "release"
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "m.jsonl",
        "m.meta.json",
        "release",
    ]  # nothing temporary is left


def test_manifest_and_photographs_can_be_moved_together_or_the_root_named_anew(tmp_path: Path):
    (tmp_path / "old" / "images").mkdir(parents=True)
    write_manifest(tmp_path / "old" / "m.jsonl", [FULL], root=tmp_path / "old" / "images", dataset="mine")
    (tmp_path / "old").rename(tmp_path / "new")
    assert read_manifest(tmp_path / "new" / "m.jsonl").root == tmp_path / "new" / "images"
    assert read_manifest(tmp_path / "new" / "m.jsonl", data_root=tmp_path).root == tmp_path
    (tmp_path / "new" / "images").rmdir()
    assert "--data-root" in refusal(tmp_path / "new" / "m.jsonl")


def test_a_manifest_that_was_changed_by_hand_is_said_aloud(tmp_path: Path, capsys):
    write_manifest(tmp_path / "m.jsonl", [FULL], root=tmp_path, dataset="mine")
    write_lines(tmp_path, replace(FULL, split="test").to_dict())
    assert read_manifest(tmp_path / "m.jsonl").records[0].split == "test"
    assert "m.jsonl was changed" in capsys.readouterr().err


def test_a_split_is_asked_for_by_name(tmp_path: Path):
    manifest = write_manifest(tmp_path / "m.jsonl", [FULL], root=tmp_path, dataset="mine")
    assert manifest.split("train") == manifest.split("all") == [FULL] and manifest.split("val") == []
    with pytest.raises(UserError, match="'dev' is no split"):
        manifest.split("dev")
