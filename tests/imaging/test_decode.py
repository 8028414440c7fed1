import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mdf.errors import UserError
from mdf.imaging.decode import load_image, load_mask


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


@pytest.fixture
def jpeg(photograph, tmp_path) -> bytes:
    return photograph(tmp_path / "whole.jpg", size=(200, 160)).read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("empty.jpg", b"", "empty"),
        ("notes.jpg", b"these are notes, no picture\n" * 20, "not an image"),
        ("zero.png", png_header(0, 10), "zero.png"),
        ("bomb.png", png_header(60000, 60000), "too large"),
        ("wide.png", png_header(14000, 12000), "too large"),
        ("stub.png", png_header(500, 500)[:60], "stub.png"),
        ("short.png", png_header(500, 500), "damaged"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_file_is_one_user_error(tmp_path, name, content, word):
    path = tmp_path / name
    path.write_bytes(content)
    for load in (load_image, load_mask):
        with pytest.raises(UserError, match=word) as caught:
            load(path, max_pixels=100_000_000)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_truncated_missing_and_folder(tmp_path, jpeg):
    short = tmp_path / "short.jpg"
    short.write_bytes(jpeg[: len(jpeg) // 2])
    for path, word in ((short, "cut short"), (tmp_path / "none.jpg", "no such file"), (tmp_path, "folder")):
        with pytest.raises(UserError, match=word):
            load_image(path)


def test_pixel_cap_is_checked_before_decoding(tmp_path):
    path = tmp_path / "small.png"
    Image.new("RGB", (30, 20)).save(path)
    assert load_image(path, max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(UserError, match="30x20"):
        load_image(path, max_pixels=599)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_photograph_upright(tmp_path, orientation):
    upright = np.zeros((16, 24, 3), dtype=np.uint8)
    upright[:8, :8] = (255, 0, 0)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpositions that the camera would have applied
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(load_image(tmp_path / "turned.png"), upright)


def test_depths_and_modes(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "deep.png")
    deep = load_image(tmp_path / "deep.png")
    assert deep.shape == (64, 64, 3) and deep.dtype == np.uint8
    assert abs(deep[..., 0].astype(float) - ramp / 257).max() <= 1
    Image.fromarray((ramp / 16).astype(np.uint16)).save(tmp_path / "twelve.tif")
    assert load_image(tmp_path / "twelve.tif").max() == 255

    grey = (ramp / 257).astype(np.uint8)
    for mode, name in (("L", "g.png"), ("P", "p.gif"), ("CMYK", "c.jpg"), ("LA", "la.png"), ("1", "b.png")):
        Image.fromarray(grey).convert(mode).save(tmp_path / name)
        loaded = load_image(tmp_path / name)
        assert loaded.shape == (64, 64, 3) and loaded.flags.writeable
    assert np.array_equal(load_image(tmp_path / "g.png"), np.repeat(grey[..., None], 3, axis=2))


def test_transparent_pixels_are_black(tmp_path):
    pixels = np.full((8, 8, 4), 200, dtype=np.uint8)
    pixels[:4, :, 3], pixels[4:, :, 3] = 0, 255
    Image.fromarray(pixels).save(tmp_path / "see_through.png")
    loaded = load_image(tmp_path / "see_through.png")
    assert (loaded[:4] == 0).all() and (loaded[4:] == 200).all()


def test_masks_of_all_kinds(tmp_path):
    truth = np.zeros((20, 30), dtype=bool)
    truth[5:12, 3:9] = True
    Image.fromarray(truth).save(tmp_path / "bit.png")
    Image.fromarray(truth.astype(np.uint8)).save(tmp_path / "zero_one.png")
    Image.fromarray(truth.astype(np.uint8) * 255).save(tmp_path / "drive.gif")
    Image.fromarray(truth.astype(np.uint8) * 255).save(tmp_path / "lossy.jpg", quality=95)
    Image.fromarray(truth.astype(np.uint16) * 65535).save(tmp_path / "deep.png")
    Image.fromarray(truth.astype(np.uint8) * 255).convert("RGB").save(tmp_path / "hrf.tif")
    for path in tmp_path.iterdir():
        assert np.array_equal(load_mask(path), truth), path.name
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / "none.png")
    assert not load_mask(tmp_path / "none.png").any()
    Image.fromarray(np.full((4, 4), 255, dtype=np.uint8)).save(tmp_path / "all.png")
    assert load_mask(tmp_path / "all.png").all()
