"""Masks that are part of a file: one class of several, an outline, a numbered region."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdf.errors import UserError
from mdf.imaging.decode import load_mask
from mdf.imaging.mask_files import mask_file, split_part


def refusal(path: Path | str, **kwargs: int) -> str:
    with pytest.raises(UserError) as caught:
        load_mask(path, **kwargs)
    return str(caught.value)


def label_map(path: Path, numbers: np.ndarray) -> Path:
    height, width = numbers.shape
    with gzip.open(path, "wb") as file:
        file.write(np.array([0, width, height], dtype="<i4").tobytes() + numbers.astype("<i4").tobytes())
    return path


def test_grey_levels_name_the_classes_of_one_file(tmp_path: Path):
    levels = np.array([[0, 128, 255], [0, 128, 255]], dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "n0001.bmp")
    assert load_mask(f"{tmp_path}/n0001.bmp#0-128").tolist() == [[True, True, False]] * 2
    assert load_mask(f"{tmp_path}/n0001.bmp#0").tolist() == [[True, False, False]] * 2
    assert load_mask(f"{tmp_path}/n0001.bmp#0,200-255").tolist() == [[True, False, True]] * 2


def test_levels_of_a_16_bit_file_are_not_scaled(tmp_path: Path):
    Image.fromarray(np.array([[1, 2, 300]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert load_mask(f"{tmp_path}/a.png#2-300").tolist() == [[False, True, True]]


def test_an_outline_is_filled_on_the_photographs_size(tmp_path: Path):
    (tmp_path / "disc.txt").write_text("2.0 1.0\n7.0 1.0\n7.0 5.0\n2.0 5.0\n")
    mask = load_mask(f"{tmp_path}/disc.txt#10x8")
    assert mask.shape == (8, 10) and mask[1:6, 2:8].all() and mask.sum() == 30


def test_a_region_of_a_numbered_map_is_found(tmp_path: Path):
    file = label_map(tmp_path / "a.map.gz", np.array([[0, 1, 2], [3, 0, 2]]))
    assert load_mask(f"{file}#1,3").tolist() == [[False, True, False], [True, False, False]]


def test_a_number_sign_in_a_file_name_is_part_of_the_name(tmp_path: Path):
    Image.fromarray(np.full((2, 2), 255, dtype=np.uint8)).save(tmp_path / "scan#2.png")
    assert split_part("scan#2.png")[1] is None and mask_file("a/b.bmp#0-128") == Path("a/b.bmp")
    assert load_mask(tmp_path / "scan#2.png").all()


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.txt#4x4", b"1 2\n3 4\n", "needs three or more lines"),
        ("a.txt#4x4", b"1 2\nx y\n3 4\n", "needs three or more lines"),
        ("a.txt#4x4", b"1 2\nnan 1\n3 4\n", "needs three or more lines"),
        ("a.txt#90000x90000", b"1 2\n2 3\n3 4\n", "outside 1 to"),
        ("a.txt#4x4", b"\xff\xfe\x00\xd8", "is no text file"),
        ("a.map.gz#1", b"no gzip", "damaged or cut short"),
        ("a.map.gz#1", gzip.compress(b"abc", mtime=0), "its header is that of no map"),
        ("a.map.gz#1", gzip.compress(np.array([0, 9, 9], dtype="<i4").tobytes(), mtime=0), "cut short, 9x9"),
        (
            "a.map.gz#1",
            gzip.compress(np.array([0, 90000, 90000], dtype="<i4").tobytes(), mtime=0),
            "its header is that of no map",
        ),
        ("a.bmp#0", b"no image", "not an image"),
    ],
)
def test_damaged_parts_are_refused_with_the_reason(tmp_path: Path, name: str, content: bytes, part: str):
    file = mask_file(tmp_path / name)
    file.write_bytes(content)
    text = refusal(f"{tmp_path}/{name}")
    assert part in text and str(file) in text


@pytest.mark.parametrize("name", ["a.txt#4x4", "a.map.gz#1", "a.bmp#0-128"])
def test_a_missing_file_is_named(tmp_path: Path, name: str):
    assert "no such file" in refusal(f"{tmp_path}/{name}")
