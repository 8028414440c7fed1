"""Which eye it is: words, picture, and both against each other."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdf.errors import UserError
from mdf.imaging.eye_side import EyeSide
from mdf.inference.report import Origin
from mdf.inference.sides import check_pair, choose_side, from_picture, named_side, tagged_side

LEFT, RIGHT, OPEN = EyeSide("left", 0.97), EyeSide("right", 0.97), EyeSide(None, 0.6)


@pytest.fixture
def file(tmp_path):
    def write(name: str = "eye.png") -> Path:
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("left.jpg", "left"),
        ("12_right.png", "right"),
        ("IMG-OD-3.tif", "right"),
        ("os.dcm", "left"),
        ("patient7Left.jpg", "left"),
        ("gl_od.jpg", "right"),
        ("12 OD.jpg", "right"),
        ("macula_OS_2.jpg", "left"),
        ("Screenshot from iOS 3.png", None),
        ("Mac OS 12.png", None),
        ("ContosOS.jpg", None),
        ("todos os exames.jpg", None),
        ("OD left.jpg", None),
        ("leftover.jpg", None),
        ("model.jpg", None),
        ("left_right.jpg", None),
        ("eye.jpg", None),
    ],
)
def test_the_side_in_a_files_name(name, side):
    assert named_side(name) == side


def test_what_is_given_goes_first(file):
    found = choose_side(file(), "left", OPEN, None)
    assert (found.laterality.eye, found.laterality.origin, found.nasal) == ("left", Origin.USER, -1)
    assert not found.flags and choose_side(file("right.png"), None, RIGHT, None).laterality.eye == "right"


def test_a_side_by_the_files_name_alone_was_not_given_and_says_so(file):
    found = choose_side(file("macula_OS_2.jpg"), None, OPEN, None)
    assert (found.laterality.eye, found.laterality.origin, found.nasal) == ("left", Origin.RULE, -1)
    assert [e.text for e in found.laterality.evidence] == ["its file name: left"]
    assert found.flags[0].text == "The left eye is taken from the file's name, not given: check it."
    borne_out = choose_side(file("left.png"), None, LEFT, None)
    assert (borne_out.laterality.origin, borne_out.laterality.probability) == (Origin.MEASUREMENT, 0.97)
    assert borne_out.laterality.evidence[0].text == "its file name: left" and not borne_out.flags


def test_words_that_contradict_each_other_are_refused(file):
    with pytest.raises(UserError, match=r"right\.png: which eye is it\? it was given as left but its name says right"):
        choose_side(file("right.png"), "left", OPEN, None)


def test_given_against_the_picture_is_flagged_and_has_no_quadrants(file):
    found = choose_side(file(), "left", RIGHT, 1)
    assert found.laterality.eye == "left" and found.nasal is None
    assert "looks like a right eye" in found.flags[0].text and found.flags[0].about == "laterality"


def test_a_files_name_against_the_picture_leaves_the_side_open(file):
    found = choose_side(file("left.png"), None, RIGHT, 1)
    assert found.laterality.eye is None and found.nasal is None and "its file name says left" in found.flags[0].text


def test_the_picture_alone_names_the_side_only_where_it_is_sure():
    told = from_picture(RIGHT, 1)
    assert told.laterality.eye == "right" and told.laterality.probability == 0.97 and told.nasal == 1
    assert told.laterality.seen and "not given" in told.flags[0].text
    assert from_picture(RIGHT, None).laterality.eye == "right"
    contradictory = from_picture(RIGHT, -1)
    assert contradictory.laterality.eye is None and contradictory.nasal is None
    by_disc = from_picture(OPEN, -1)  # the side stays open, but where the disc lies is known
    assert by_disc.laterality.eye is None and by_disc.nasal == -1 and by_disc.flags


def test_a_dicom_tag_speaks_before_the_name(tmp_path):
    pytest.importorskip("pydicom", reason="needs the extra dicom")
    from tests.imaging.dicom_files import colours, make

    path, both = tmp_path / "right.dcm", tmp_path / "b.dcm"
    make(colours(), ImageLaterality="L").save_as(path)
    make(colours(), ImageLaterality="B").save_as(both)
    assert tagged_side(path) == "left"
    path = path.rename(tmp_path / "eye.dcm")
    tagged = choose_side(path, None, OPEN, None).laterality
    assert tagged.origin == Origin.USER and tagged.evidence[0].text == "its DICOM tag: left"
    path = path.rename(tmp_path / "right.dcm")
    with pytest.raises(UserError, match="its DICOM tag says left but its name says right"):
        choose_side(path, None, OPEN, None)
    with pytest.raises(UserError, match="name both eyes"):
        choose_side(both, "left", OPEN, None)


def pair(file, sides, told=(OPEN, OPEN), hashes=("a", "b"), **more):
    paths = [file("one.png"), file("two.png")]
    found = [choose_side(path, side, OPEN, None) for path, side in zip(paths, sides, strict=True)]
    check_pair(paths, hashes, told, found, **more)


def test_two_photographs_of_one_eye_are_not_a_left_and_a_right_eye(file):
    pair(file, ("left", "right"))
    with pytest.raises(UserError, match=r"one\.png and .*two\.png are the same photograph"):
        pair(file, ("left", "right"), hashes=("a", "a"))
    with pytest.raises(UserError, match="are both a left eye"):
        pair(file, ("left", "left"))
    with pytest.raises(
        UserError, match=r"which eye is .*two\.png\? Give two photographs with --left FILE --right FILE"
    ):
        pair(file, ("left", None))
    with pytest.raises(UserError, match=r"given as a left and a right eye, but both look like a left eye.*--force"):
        pair(file, ("left", "right"), told=(LEFT, LEFT))
    with pytest.raises(
        UserError, match=r"one\.png was given as the left eye and .*two\.png as the right, but they look ex"
    ):
        pair(file, ("left", "right"), told=(RIGHT, LEFT))
    pair(file, ("left", "right"), told=(LEFT, LEFT), force=True)
    pair(file, ("left", "right"), told=(LEFT, OPEN))
