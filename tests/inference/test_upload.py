"""What may be uploaded: one still photograph of a sensible size, whatever the file is called."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mdf.errors import UserError
from mdf.inference import upload
from mdf.inference.upload import admit, harmless


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)


def refused(file, folder, match):
    with pytest.raises(UserError, match=match) as caught:
        admit(file, folder)
    assert not folder.exists() or not [p for p in folder.rglob("*") if p.is_file()]
    assert str(file.parent) not in str(caught.value)  # no folder of this machine is told


@pytest.mark.parametrize("kind", ["png", "jpg", "tiff", "webp", "bmp"])
def test_a_photograph_is_written_anew_without_its_metadata(pixels, tmp_path, kind):
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe"
    file = tmp_path / f"eye.{kind}"
    Image.fromarray(pixels).save(file, **({} if kind == "bmp" else {"exif": exif}))
    place = admit(file, tmp_path / "visit")
    assert place.suffix == ".png" and place.stem == "eye" and place.is_relative_to(tmp_path / "visit")
    assert b"Jane Doe" not in place.read_bytes() and Image.open(place).size == (100, 80)
    if kind in ("png", "tiff", "bmp"):
        assert np.array_equal(np.asarray(Image.open(place)), pixels)


def test_the_bytes_decide_and_not_the_name(pixels, tmp_path):
    page = tmp_path / "eye.png"
    page.write_text("<html><script>alert(1)</script></html>")
    refused(page, tmp_path / "visit", "eye.png: not a photograph")
    empty = tmp_path / "empty.jpg"
    empty.write_bytes(b"")
    refused(empty, tmp_path / "visit", "not a photograph")
    disguised = tmp_path / "photograph.txt"
    Image.fromarray(pixels).save(disguised, format="PNG")
    assert admit(disguised, tmp_path / "visit").is_file()
    both = tmp_path / "polyglot.png"  # a picture with a page behind it: only its pixels are kept
    Image.fromarray(pixels).save(both)
    both.write_bytes(both.read_bytes() + b"<script>alert(1)</script>")
    assert b"<script>" not in admit(both, tmp_path / "visit").read_bytes()


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    file = tmp_path / "large.jpg"
    with file.open("wb") as stream:
        stream.write(b"\xff\xd8\xff")
        stream.truncate(200_000_000)
    refused(file, tmp_path / "visit", "200 MB, more than 25 MB")


def test_a_bomb_is_refused_by_its_header(tmp_path):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    file = tmp_path / "bomb.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b""))
    refused(file, tmp_path / "visit", "too large")


def test_pixels_have_a_limit_of_their_own(pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(upload, "MAX_PIXELS", 5000)
    Image.fromarray(pixels).save(tmp_path / "eye.png")
    refused(tmp_path / "eye.png", tmp_path / "visit", "100x80 pixels, more than 5,000")


@pytest.mark.parametrize("kind", ["webp", "png", "tiff"])
def test_several_pictures_in_one_file_are_refused(pixels, tmp_path, kind):
    file = tmp_path / f"several.{kind}"
    frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
    frames[0].save(file, save_all=True, append_images=frames[1:])
    refused(file, tmp_path / "visit", "holds 2 pictures")


def test_what_is_too_small_or_damaged_is_refused(pixels, tmp_path):
    Image.fromarray(pixels[:1, :1]).save(tmp_path / "one.png")
    refused(tmp_path / "one.png", tmp_path / "visit", "1x1 pixels are too few")
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
    refused(tmp_path / "cut.png", tmp_path / "visit", "cut.png: damaged or cut short")


def test_a_name_becomes_harmless():
    assert harmless("../../etc/passwd") == "passwd"
    assert harmless("C:\\eyes\\od.png") == "od.png"
    assert harmless("<img src=x onerror=alert(1)>.png") == "img src=x onerror=alert(1).png"
    assert harmless("a\u202egnp.\0exe") == "agnp.exe"  # marks that turn text around
    assert len(harmless("x" * 500 + ".png")) < 80
    assert harmless("...") == harmless("") == "photograph"
