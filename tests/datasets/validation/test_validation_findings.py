"""Each thing that would spoil a training is planted in a clean set and found under its name, and nothing else is."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps

from mdf.datasets import odir5k
from mdf.datasets.splits import split_of
from mdf.datasets.validation import files, validate
from mdf.datasets.validation.report import CHECKS
from mdf.records import Manifest, read_manifest, write_manifest
from tests.conftest import REPO
from tests.datasets.validation.planted import Planted

Plant = Callable[[Planted], None]


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return Planted(tmp_path)


def test_nothing_is_found_in_a_clean_set(planted: Planted):
    assert planted.report().issues == ()


# -- what makes training dishonest


def damage(how: str) -> Plant:
    def plant(s: Planted) -> None:
        path = s.file("b.png")
        whole = path.read_bytes()
        path.unlink()
        if how == "folder":
            path.mkdir()
        elif how != "missing":
            path.write_bytes({"empty": b"", "cut short": whole[: len(whole) // 2], "text": b"no image"}[how])

    return plant


def one_patient_in_two_splits(s: Planted) -> None:
    s.rows["d"]["patient"] = s.rows["a"]["patient"]
    s.rows["d"]["eye"] = "left"


def two_labels_for_one_file(s: Planted) -> None:
    s.same_photograph("a", "b")
    s.rows["b"] |= {"patient": "pa", "eye": None, "diagnosis": ["amd"]}


def other_source(s: Planted) -> None:
    """Two sources, each with a label of its own."""
    for i in range(20):
        s.add(f"{i}", i + 5, source=("here", "there")[i % 2], diagnosis=[("glaucoma", "amd")[i % 2]])


def somewhat_other_source(s: Planted) -> None:
    """Two sources with two labels each: the source leaves 40 % of the labels wrong, the most frequent label 70 %."""
    labels = ["glaucoma"] * 12 + ["amd"] * 8 + ["normal"] * 12 + ["cataract"] * 8
    s.rows.clear()
    for i, label in enumerate(labels):
        s.add(f"{i}", i, source=("here", "there")[i >= 20], diagnosis=[label])


SEVERE: dict[str, tuple[Plant, set[str]]] = {  # name -> what plants it, what else is then found
    "unreadable-file": (damage("missing"), set()),
    "mask-size": (lambda s: s.mask("b_vessel.png", size=64), set()),
    "patient-across-splits": (one_patient_in_two_splits, set()),
    "duplicate-across-splits": (lambda s: s.same_photograph("a", "d"), {"duplicate-patients"}),
    "duplicate-labels": (two_labels_for_one_file, {"duplicate"}),
    "contradictory-label": (lambda s: s.rows["b"].update(diagnosis=["normal", "glaucoma"]), set()),
    "source-tells-label": (other_source, set()),
}


# -- what has to be known


def black(s: Planted) -> None:
    Image.new("RGB", (128, 128)).save(s.file("b.png"))


def copy_of_one_patient(s: Planted) -> None:
    s.same_photograph("a", "b")
    s.rows["b"]["patient"] = "pa"


def labels_of_one_eye(s: Planted) -> None:
    s.rows["b"] |= {"patient": "pa", "diagnosis": ["normal"]}


def change_split(s: Planted) -> None:
    made = read_manifest(s.write()).records
    write_manifest(s.file("set.jsonl"), made, root=s.root, dataset="set", split=split_of(made, kind="patient", seed=0))
    s.rows["b"]["split"] = "test"


def put(**fields: object) -> Plant:
    return lambda s: s.rows["b"].update(fields)


NOTES: dict[str, tuple[Plant, set[str]]] = {
    "source-hints-label": (somewhat_other_source, set()),
    "no-patient": (put(patient=None), set()),
    "duplicate": (copy_of_one_patient, set()),
    "duplicate-patients": (lambda s: s.same_photograph("a", "b"), {"duplicate"}),
    "too-plain": (black, set()),
    "eye-labels": (labels_of_one_eye, set()),
    "patient-flags": (put(extra={"patient_flags": "D"}), set()),
    "grade-against-label": (put(diagnosis=["normal"], grade={"icdr": 2}), set()),
    "normal-with-finding": (put(diagnosis=["normal"], findings=[{"name": "drusen"}]), set()),
    "text-names-label": (put(texts={"report": "The cup is large: glaucoma."}), set()),
    "text-against-label": (put(texts={"report": "Age-related macular degeneration."}), set()),
    "implausible-value": (put(age=1), set()),
    "outside-picture": (put(boxes={"disc": [100, 100, 129, 120]}), set()),
    "split-changed": (change_split, set()),
}


def test_every_finding_is_planted_here_and_listed_in_the_documentation():
    assert {n for n, c in CHECKS.items() if c.problem} == set(SEVERE)
    assert {n for n, c in CHECKS.items() if not c.problem} == set(NOTES)
    rows = (REPO / "docs" / "data.md").read_text(encoding="utf-8").splitlines()
    for names, beginning in ((SEVERE, "| problems: "), (NOTES, "| notes: ")):
        (row,) = (line for line in rows if line.startswith(beginning))
        assert set(re.findall("`(.+?)`", row)) == set(names)


@pytest.mark.parametrize("name", [*SEVERE, *NOTES])
def test_what_is_planted_is_found_by_its_name_and_nothing_else(planted: Planted, name: str):
    plant, others = (SEVERE | NOTES)[name]
    plant(planted)
    report = planted.report()
    assert {i.name for i in report.issues} == {name} | others
    assert (name in {i.name for i in report.problems}) == (name in SEVERE)


@pytest.mark.parametrize("how", ["missing", "empty", "cut short", "text", "folder"])
def test_files_that_cannot_be_read_are_named_below_the_root_with_the_reason(planted: Planted, how: str):
    damage(how)(planted)
    ((case,),) = (i.cases for i in planted.report().issues)
    said = {"missing": "no such file", "empty": "the file is empty", "cut short": "cut short", "folder": "is a folder"}
    assert case.ids == ("b",) and said.get(how, "not an image") in case.text
    assert "photograph b.png" in case.text and str(planted.root) not in case.text


def test_a_path_that_names_the_root_itself_does_not_show_where_it_lies(planted: Planted):
    planted.rows["b"]["masks"] = {"vessel": "."}
    ((case,),) = (i.cases for i in planted.report().issues)
    assert "mask .: is a folder" in case.text and str(planted.root) not in case.text


@pytest.mark.parametrize("size", [(1, 1), (2, 200), (200, 3)])
def test_pictures_of_hardly_a_pixel_are_too_plain_and_no_crash(planted: Planted, size: tuple[int, int]):
    Image.new("RGB", size, "red").save(planted.file("b.png"))
    planted.rows["b"]["masks"] = {}
    assert planted.found() == {"too-plain": {frozenset("b")}}


def test_masks_are_read_even_where_the_photograph_cannot_be(planted: Planted):
    damage("text")(planted)
    planted.file("b_vessel.png").write_bytes(b"")
    ((first, second),) = (i.cases for i in planted.report().issues)
    assert "photograph b.png" in first.text and "mask b_vessel.png: the file is empty" in second.text


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"age": 119}, "age 119, unlike the rest"),
        ({"extra": {"systolic_mmhg": 412}}, "extra.systolic_mmhg is 412, a systolic pressure in mmHg from 60 to 300"),
        ({"extra": {"sbp": 80, "dbp": 120}}, "the systolic pressure 80 is not above the diastolic 120"),
        ({"extra": {"iop_mmhg": 150}}, "pressure of the eye in mmHg"),
        ({"extra": {"acquisition_date": "2999-01-01"}}, "is in the future"),
        ({"extra": {"acquisition_date": "2019-02-30"}}, "is no day of the calendar"),
        ({"grade": {"icdr": 9}}, "the scale icdr has no 9"),
        ({"boxes": {"disc": {"x": 1}}}, "boxes.disc must be [left, top, right, bottom]"),
        ({"boxes": {"disc": [9, 9, 1, 1]}}, "boxes.disc: [left, top, right, bottom] with left < right"),
        ({"points": {"fovea": "12,13"}}, "points.fovea must be [x, y]"),
    ],
)
def test_values_that_nobody_has_are_doubted(planted: Planted, fields: dict, part: str):
    planted.rows["b"] |= fields
    (issue,) = planted.report().issues
    assert issue.name == "implausible-value" and part in issue.cases[0].text


@pytest.mark.parametrize(("share", "part"), [(0.0, "the mask vessel is empty"), (0.9, "is it inverted?")])
def test_vessel_masks_without_vessels_or_of_the_background_are_doubted(planted: Planted, share: float, part: str):
    planted.mask("b_vessel.png", share=share)
    (issue,) = planted.report().issues
    assert issue.name == "implausible-value" and part in issue.cases[0].text


def test_scores_of_a_release_are_not_taken_for_a_scale(planted: Planted):
    planted.rows["b"] |= {"diagnosis": ["cataract"], "grade": {"csdi": 8.5}}
    assert planted.report().issues == ()


def test_what_a_text_denies_is_not_what_it_names(planted: Planted):
    planted.rows["b"]["texts"] = {"report": "No glaucoma, no drusen, and no sign of diabetic retinopathy."}
    assert planted.report().issues == ()


# -- copies


def recoded(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def brighter(image: Image.Image, factor: float, offset: int = 0) -> Image.Image:
    return Image.fromarray(np.clip(np.asarray(image) * factor + offset, 0, 255).astype(np.uint8))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG": lambda image: recoded(image, 60),
    "smaller": lambda image: image.resize((85, 85), Image.Resampling.LANCZOS),
    "larger": lambda image: image.resize((200, 200), Image.Resampling.BICUBIC),
    "darker": lambda image: brighter(image, 0.7),
    "brighter": lambda image: brighter(image, 1.2, 8),
    "wider border": lambda image: ImageOps.expand(image, 20),
    "smaller JPEG": lambda image: recoded(image.resize((110, 110)), 75),
}


@pytest.mark.parametrize("how", list(COPIES))
def test_altered_copies_are_found_with_their_splits_and_patients(planted: Planted, how: str):
    with Image.open(planted.file("a.png")) as image:
        COPIES[how](image).save(planted.file("d.png"))
    planted.rows["d"]["masks"] = {}
    found = {i.name: [case.text for case in i.cases] for i in planted.report().issues}
    assert found == {
        "duplicate-across-splits": ["the same photograph or eye: a (train), d (test)"],
        "duplicate-patients": ["the same photograph or eye, 2 patients: a, d"],
    }


def test_the_same_bytes_are_called_the_same_file(planted: Planted):
    planted.same_photograph("a", "d")
    assert "the same file: a (train), d (test)" in [c.text for i in planted.report().issues for c in i.cases]


def test_a_copy_called_the_other_eye_is_said(planted: Planted):
    planted.same_photograph("a", "b")
    planted.rows["b"] |= {"patient": "pa", "eye": "left"}
    texts = [c.text for i in planted.report().issues for c in i.cases]
    assert "the same file, left and right: a, b" in texts


def test_fifty_different_photographs_are_not_taken_for_copies(tmp_path: Path):
    assert Planted(tmp_path, {f"{i}": "train" for i in range(50)}).report().issues == ()


def odir(shared_data: Path, names: set[str]) -> Manifest:
    root = shared_data / "odir5k"
    return Manifest(tuple(r for r in odir5k.read(root) if r.id in names), root)


def test_two_eyes_of_a_patient_are_not_taken_for_copies(shared_data: Path):
    root = shared_data / "odir5k"
    eyes = {f"{n}_{eye}" for n in range(100, 140) for eye in ("left", "right")}
    manifest = odir(shared_data, {e for e in eyes if (root / "preprocessed_images" / f"{e}.jpg").is_file()})
    assert len(manifest.records) > 40
    assert "duplicate" not in {i.name for i in validate(manifest, workers=1).issues}


def test_the_copies_in_odir_are_found_across_patients_with_the_labels_that_exclude_each_other(shared_data: Path):
    manifest = odir(shared_data, {"4317_right", "4398_right", "28_right", "32_right", "765_right", "100_right"})
    found = {i.name: {frozenset(c.ids) for c in i.cases} for i in validate(manifest, workers=1).issues}
    three = frozenset(("28_right", "32_right", "765_right"))
    assert found["duplicate"] == found["duplicate-patients"] == {three, frozenset(("4317_right", "4398_right"))}
    assert found["duplicate-labels"] == {three}


# -- order, size, progress


def everything(s: Planted) -> None:
    one_patient_in_two_splits(s)
    s.add("f", 20, "val", diagnosis=["normal", "amd"], age=1)
    s.add("g", 21, "test", boxes={"disc": [0, 0, 500, 5]}, texts={"report": "cataract"})
    s.add("h", 22, "test", extra={"patient_flags": "C"})
    s.add("i", 0, "test", diagnosis=["diabetic_retinopathy"])  # the photograph of a
    s.add("j", 0, "test", diagnosis=["diabetic_retinopathy", "glaucoma"])  # agrees with both
    damage("empty")(s)


def test_the_order_of_the_records_does_not_matter(planted: Planted):
    everything(planted)
    order = sorted(planted.rows)
    found = planted.found(order)
    assert {"duplicate-labels", "unreadable-file", "patient-across-splits", "patient-flags"} <= set(found)
    for seed in (1, 2):
        assert planted.found(list(np.random.default_rng(seed).permutation(order))) == found


@pytest.mark.parametrize("order", [["a", "i", "j"], ["j", "a", "i"], ["i", "j", "a"]])
def test_labels_of_copies_are_compared_with_each_other_whichever_comes_first(planted: Planted, order: list[str]):
    everything(planted)
    assert planted.found(order)["duplicate-labels"] == {frozenset("aij")}


def test_thousands_of_problems_are_summarised(planted: Planted):
    for i in range(3000):
        diagnosis = ["normal", "amd"] if i % 2 else ["amd"]
        planted.rows[f"x{i}"] = {"id": f"x{i}", "image": f"x{i}.png", "patient": "one", "diagnosis": diagnosis}
        planted.rows[f"x{i}"]["split"] = ("train", "test")[i % 3 == 0]
    for i in range(40):
        planted.rows[f"y{i}"] = planted.rows["a"] | {"id": f"y{i}", "patient": f"y{i}"}
    report = planted.report()
    counts = {i.name: len(i.cases) for i in report.problems}
    assert counts == {"unreadable-file": 3000, "contradictory-label": 1500, "patient-across-splits": 1}
    lines = [line for issue in report.issues for line in issue.lines()]
    assert len(lines) < 60 and max(map(len, lines)) < 300
    assert "    … and 2990 more, see the page" in lines
    assert "    one patient: x0 and 999 more (test), x1 and 1999 more (train)" in lines
    assert "    the same file: a and 40 more (train)" in lines


def test_long_checks_say_how_far_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    clock = iter([0.0, 1.0, 2.5, 3.0, 4.0])  # seconds: the start, then after each of four photographs
    monkeypatch.setattr(files, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert list(files.progress("abcd", 4)) == list("abcd")
    assert capsys.readouterr().err.splitlines() == [
        "checked 2/4 photographs, 2 s left",
        "checked 4/4 photographs, 0 s left",
    ]
