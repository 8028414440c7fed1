import gzip
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

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


@pytest.mark.parametrize("levels", [(0, 1, 2), (1, 2), (1, 1), (0, 3, 7)])
@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
def test_numbers_of_classes_are_no_empty_mask(tmp_path, levels, ending):
    pixels = np.resize(np.array(levels, dtype=np.uint8), (20, 30))
    Image.fromarray(pixels).save(tmp_path / f"classes.{ending}")
    with pytest.raises(UserError, match=rf"mask .*classes\.{ending}: its grey levels are {levels[0]} to {levels[-1]}"):
        load_mask(tmp_path / f"classes.{ending}")
    assert load_mask(tmp_path / f"classes.{ending}#{levels[-1]}").sum() == (pixels == levels[-1]).sum()
    Image.fromarray(pixels).save(tmp_path / "empty.jpg", quality=60)  # where 0 is written as 2
    assert not load_mask(tmp_path / "empty.jpg").any()


def test_the_format_is_that_of_the_content(tmp_path, photograph):
    for kind in ("PNG", "TIFF", "GIF", "BMP", "PPM", "WEBP", "JPEG2000"):
        picture = Image.open(photograph(tmp_path / "a.png", size=(60, 50)))
        picture.save(tmp_path / "a.jpg", kind)
        assert load_image(tmp_path / "a.jpg").shape == (50, 60, 3), kind
    (tmp_path / "b.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match="not an image that can be read"):  # it would start another program
        load_image(tmp_path / "b.jpg")


def test_gzipped_files_are_unpacked_but_no_bombs(tmp_path, photograph):
    plain = photograph(tmp_path / "im0001.ppm", size=(60, 50))
    (tmp_path / "im0001.ppm.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert np.array_equal(load_image(tmp_path / "im0001.ppm.gz"), load_image(plain))
    assert np.array_equal(load_mask(tmp_path / "im0001.ppm.gz"), load_mask(plain))
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"P6 60 50 255\n" + b"\0" * 20_000_000))
    with pytest.raises(UserError, match="unpacks to more than 1,072,576 bytes"):
        load_image(tmp_path / "bomb.gz", max_pixels=3000)
    (tmp_path / "short.gz").write_bytes(gzip.compress(plain.read_bytes())[:-900])
    with pytest.raises(UserError, match="damaged or cut short"):
        load_image(tmp_path / "short.gz")


@pytest.mark.parametrize(
    ("size", "at_least", "expected"),
    [
        ((800, 640), 320, (800, 640)),  # twice the target is kept
        ((800, 640), 160, (400, 320)),
        ((640, 800), 80, (160, 200)),
        ((801, 641), 40, (101, 81)),
        ((801, 641), 1, (101, 81)),  # an eighth is the least
    ],
)
def test_a_large_jpeg_is_decoded_smaller_where_that_is_enough(tmp_path, photograph, size, at_least, expected):
    path = photograph(tmp_path / "a.jpg", size=size)
    assert load_image(path).shape[1::-1] == size
    small = load_image(path, at_least=at_least)
    assert small.shape[1::-1] == expected and (min(expected) >= 2 * at_least)
    png = photograph(tmp_path / "a.png", size=size)
    assert load_image(png, at_least=at_least).shape[1::-1] == size


def test_a_smaller_jpeg_looks_the_same_after_the_resize(tmp_path, shared_data):
    import torch
    from torchvision.transforms.v2 import functional as tv

    def resized(pixels: np.ndarray) -> np.ndarray:
        return tv.resize(torch.from_numpy(pixels).permute(2, 0, 1), [256, 384], antialias=True).numpy().astype(int)

    path = shared_data / "hrf" / "images" / "01_h.jpg"
    whole, small = load_image(path), load_image(path, at_least=256)
    assert small.shape[0] == whole.shape[0] // 2
    assert np.abs(resized(whole) - resized(small)).mean() < 0.5


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP"])
def test_orientation_is_that_of_pillow(tmp_path, kind, photograph):
    picture = Image.open(photograph(tmp_path / "a.png", size=(60, 50)))
    for orientation in range(1, 10):  # there is no ninth
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture.save(tmp_path / "turned", kind, exif=exif)
        with Image.open(tmp_path / "turned") as turned:
            expected = np.asarray(ImageOps.exif_transpose(turned).convert("RGB"))
        assert np.array_equal(load_image(tmp_path / "turned"), expected), orientation


def test_a_jpeg_of_too_many_scans_is_refused(tmp_path, photograph):
    picture = Image.open(photograph(tmp_path / "a.png", size=(60, 50)))
    picture.save(tmp_path / "a.jpg", progressive=True)
    assert load_image(tmp_path / "a.jpg").shape == (50, 60, 3)
    data = (tmp_path / "a.jpg").read_bytes()
    last = data.rfind(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(data[:last] + data[last:-2] * 100 + data[-2:])
    with pytest.raises(UserError, match=r"progressive JPEG of 1\d\d scans"):
        load_image(tmp_path / "a.jpg")


def test_warnings_of_the_libraries_do_not_get_out(tmp_path, photograph, recwarn, capfd):
    picture = Image.open(photograph(tmp_path / "a.png", size=(60, 50)))
    picture.save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    with Image.open(tmp_path / "a.jpg") as image:
        image.getexif()
    assert any("EXIF" in str(w.message) for w in recwarn.list)  # Pillow would warn of this file
    recwarn.clear()
    warnings.resetwarnings()
    load_image(tmp_path / "a.jpg")
    assert not recwarn.list and capfd.readouterr() == ("", "")


def test_many_threads_decode_the_same(tmp_path, photograph):
    paths = [photograph(tmp_path / f"{i}.jpg", size=(80, 60), seed=i) for i in range(8)]
    alone = [load_image(p) for p in paths]
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(a, b) for a, b in zip(alone, pool.map(load_image, paths), strict=True))
