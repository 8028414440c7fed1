"""DICOM files made here: their pixels in every transfer syntax and colour space, and what is kept of their header."""

import io
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from mdf.errors import UserError  # noqa: E402
from mdf.imaging.decode import load_image, load_mask  # noqa: E402
from mdf.imaging.dicom import codestream_shape, load_dicom  # noqa: E402
from mdf.imaging.dicom_header import read_header  # noqa: E402
from tests.imaging import dicom_files as made  # noqa: E402

SALT = b"a salt of these tests"
COLOURS = made.colours()
GREY = np.ascontiguousarray(COLOURS[..., 0])


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        load_dicom(path, **options)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "syntax",
    [made.IMPLICIT, made.EXPLICIT, made.DEFLATED, *made.LOSSLESS_JPEG, made.JPEG_LS, made.JPEG_2000, made.RLE],
)
def test_lossless_transfer_syntaxes_give_the_very_pixels(tmp_path, syntax):
    for pixels in (COLOURS, GREY):
        file = made.save(made.packed(made.make(pixels), syntax), tmp_path / "a.dcm")
        loaded = load_image(file)
        assert loaded.dtype == np.uint8 and loaded.flags.writeable
        assert np.array_equal(loaded, pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))


def test_big_endian_is_read(tmp_path):
    deep = (GREY.astype(np.uint16) * 257).byteswap()
    ds = made.packed(made.make(deep), made.BIG)
    pydicom.dcmwrite(tmp_path / "a.dcm", ds, implicit_vr=False, little_endian=False)
    assert np.array_equal(load_image(tmp_path / "a.dcm")[..., 0], GREY)


@pytest.mark.parametrize("syntax", [made.JPEG, made.JPEG_LS_NEAR])
def test_lossy_transfer_syntaxes_come_near(tmp_path, syntax):
    loaded = load_image(made.save(made.packed(made.make(COLOURS), syntax), tmp_path / "a.dcm"))
    assert np.abs(loaded.astype(int) - COLOURS).mean() < 3  # of strong colours, halved


def test_a_jpeg_with_jfif_marker_is_ybr_whatever_the_header_says(tmp_path):
    ds = made.packed(made.make(COLOURS), made.JPEG)
    right = load_image(made.save(ds, tmp_path / "a.dcm"))
    ds.PhotometricInterpretation = "RGB"  # what many cameras write
    assert np.array_equal(load_image(made.save(ds, tmp_path / "b.dcm")), right)


def test_a_jpeg_without_markers_is_what_the_header_says(tmp_path):
    grey = np.full((48, 64), 90, np.uint8)
    stored = np.stack([grey, grey + 60, grey - 40], axis=2)  # the components, whatever they mean
    out = io.BytesIO()
    Image.frombytes("YCbCr", (64, 48), stored.tobytes()).save(out, "JPEG", quality=100, subsampling=0)
    stream = out.getvalue()
    assert stream[2:4] == b"\xff\xe0"
    stream = stream[:2] + stream[4 + int.from_bytes(stream[4:6], "big") :]  # without the JFIF marker
    ds = made.make(stored)
    made.encapsulated(ds, stream, made.JPEG)
    loaded = load_image(made.save(ds, tmp_path / "a.dcm")).astype(int)
    assert np.abs(loaded - stored).max() <= 2
    ds.PhotometricInterpretation = "YBR_FULL"
    converted = np.asarray(Image.frombytes("YCbCr", (64, 48), stored.tobytes()).convert("RGB")).astype(int)
    assert np.abs(load_image(made.save(ds, tmp_path / "b.dcm")) - converted).max() <= 3


@pytest.mark.parametrize("syntax", [made.EXPLICIT, made.RLE, made.JPEG_LS, made.LOSSLESS_JPEG[1]])
def test_ybr_becomes_rgb(tmp_path, syntax):
    from pydicom.pixels.processing import convert_color_space

    ybr = convert_color_space(COLOURS, "RGB", "YBR_FULL")
    file = made.save(made.packed(made.make(ybr, photometric="YBR_FULL"), syntax), tmp_path / "a.dcm")
    assert np.abs(load_image(file).astype(int) - COLOURS).max() <= 3  # twice rounded


def test_palette_colours_are_looked_up(tmp_path):
    indices = (GREY // 64).astype(np.uint8)
    ds = made.make(indices, photometric="PALETTE COLOR")
    table = {"Red": [0, 250, 10, 90], "Green": [5, 0, 200, 80], "Blue": [9, 30, 0, 70]}
    for name, values in table.items():
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [4, 0, 8])
        setattr(ds, f"{name}PaletteColorLookupTableData", bytes(values))
    loaded = load_image(made.save(ds, tmp_path / "a.dcm"))
    assert np.array_equal(loaded, np.stack([np.array(v)[indices] for v in table.values()], axis=2))


def test_grey_values_of_any_depth_fill_the_range(tmp_path):
    for bits, dtype in ((12, np.uint16), (16, np.uint16)):
        deep = np.round(GREY * ((2**bits - 1) / 255)).astype(dtype)
        file = made.save(made.make(deep, bits=bits, sop_class=made.OPHTHALMIC_16), tmp_path / "a.dcm")
        assert np.array_equal(load_image(file)[..., 1], GREY)
    signed = (GREY.astype(np.int16) - 128) * 256
    assert np.abs(load_image(made.save(made.make(signed), tmp_path / "b.dcm"))[..., 0].astype(int) - GREY).max() <= 1
    inverted = made.save(made.make(GREY, photometric="MONOCHROME1"), tmp_path / "c.dcm")
    assert np.array_equal(load_image(inverted)[..., 0], 255 - GREY)


def test_the_first_window_is_applied(tmp_path):
    window = {"WindowCenter": [100.5, 40], "WindowWidth": [101, 10], "RescaleSlope": "0.5", "RescaleIntercept": "10"}
    loaded = load_image(made.save(made.make(GREY, **window), tmp_path / "a.dcm"))[..., 0]
    value = GREY * 0.5 + 10  # 50 becomes 0, 150 becomes 255
    assert np.abs(loaded - np.clip((value - 50) * 2.55, 0, 255)).max() <= 1


def test_of_several_frames_one_has_to_be_named(tmp_path):
    ds = made.make(COLOURS, frames=3)
    ds.PixelData = b"".join((COLOURS // (i + 1)).tobytes() for i in range(3))
    file = made.save(ds, tmp_path / "a.dcm")
    assert "holds 3 frames" in refusal(file)
    assert np.array_equal(load_dicom(file, frame=1), COLOURS // 2)
    assert "frame 3 was asked for" in refusal(file, frame=3)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"Rows": 60_000, "Columns": 60_000}, "claims 60000x60000 pixels"),
        ({"Rows": 0}, "64x0"),
        ({"Rows": 500}, "damaged"),
        ({"BitsStored": 40}, "40 bits"),
        ({"PhotometricInterpretation": "HSV"}, "way that is not read"),
        ({"SamplesPerPixel": 4}, "way that is not read"),
    ],
)
def test_a_wrong_description_of_the_pixels_is_refused(tmp_path, change, part):
    file = made.save(made.make(COLOURS, **change), tmp_path / "a.dcm")
    assert part in refusal(file)


def test_what_the_stream_itself_claims_is_checked_before_it_is_decoded(tmp_path):
    for syntax in (made.JPEG, made.JPEG_LS, made.JPEG_2000, made.LOSSLESS_JPEG[1]):
        ds = made.packed(made.make(COLOURS), syntax)
        ds.Rows, ds.Columns = 10, 10
        assert "of another size" in refusal(made.save(ds, tmp_path / "a.dcm")), syntax
    assert codestream_shape(b"no stream at all") is None


def test_a_deflated_bomb_is_not_unpacked(tmp_path):
    ds = made.make(COLOURS)
    ds.PixelData = b"\0" * 30_000_000
    file = made.save(made.packed(ds, made.DEFLATED), tmp_path / "a.dcm")
    assert file.stat().st_size < 100_000
    assert "unpacks to more than" in refusal(file, max_pixels=10_000)


def test_what_holds_no_readable_picture_is_refused(tmp_path):
    ds = made.make(COLOURS)
    del ds.PixelData
    assert "holds no picture" in refusal(made.save(ds, tmp_path / "a.dcm"))
    ds = made.make(COLOURS)
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # video
    made.encapsulated(ds, b"\0" * 100, ds.file_meta.TransferSyntaxUID)
    assert "transfer syntax 1.2.840.10008.1.2.4.102 is not read" in refusal(made.save(ds, tmp_path / "b.dcm"))
    with pytest.raises(UserError, match="is a DICOM file"):
        load_mask(tmp_path / "a.dcm")
    with pytest.raises(UserError, match="no such file"):
        load_dicom(tmp_path / "none.dcm")


def test_without_the_extra_one_error_says_what_to_install(tmp_path, monkeypatch):
    file = made.save(made.packed(made.make(COLOURS), made.JPEG_LS), tmp_path / "a.dcm")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "jpeg_ls", None)
        assert "pip install 'mdf-mllm[dicom]'" in refusal(file)
    code = (
        "import sys; sys.modules['pydicom'] = None\n"
        "from mdf.imaging.decode import load_image\n"
        "from mdf.errors import UserError\n"
        "try: load_image(sys.argv[1])\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert "pip install 'mdf-mllm[dicom]'" in done.stdout and done.stderr == ""


class TestHeader:
    def read(self, tmp_path: Path, shown: str = "a.dcm", **tags: object):
        return read_header(made.save(made.make(COLOURS, **tags), tmp_path / "a.dcm"), SALT, shown)

    def test_it_keeps_what_names_nobody(self, tmp_path):
        header = self.read(tmp_path, ImageLaterality="R", PatientAge="061Y", BurnedInAnnotation="NO")
        assert (header.eye, header.age, header.sex) == ("right", 61.0, "female")
        assert header.camera == "Lumen Optics RetiCam 45" and header.burned_in == "no"
        assert header.kind == "ophthalmic photography, 8 bit" and header.colour and not header.in_path
        held = str(asdict(header))
        assert not [name for name, value in made.SECRETS.items() if value in held]

    def test_pseudonyms_are_of_the_salt_and_the_number_alone(self, tmp_path):
        one, two = self.read(tmp_path), self.read(tmp_path, PatientName="Other^Name", PatientID=" HOSP-7734021 ")
        assert one.patient == two.patient and len(one.patient) == 16 and one.id != two.id and one.study != two.study
        file = made.save(made.make(COLOURS), tmp_path / "a.dcm")
        assert read_header(file, b"another salt, as long").patient != one.patient
        assert self.read(tmp_path, PatientID="").patient is None

    @pytest.mark.parametrize(
        ("tags", "eye", "conflict"),
        [
            ({"ImageLaterality": "L"}, "left", False),
            ({"Laterality": "R"}, "right", False),
            ({"ImageLaterality": "L", "Laterality": "R"}, "left", False),  # the image's own tag goes first
            ({"ImageLaterality": "B"}, None, True),
            ({"ImageLaterality": "L", "region": "24028007"}, None, True),
            ({"region": "7771000"}, "left", False),
            ({}, None, False),
        ],
    )
    def test_eyes(self, tmp_path, tags, eye, conflict):
        from pydicom.dataset import Dataset

        if code := (tags := dict(tags)).pop("region", None):
            side, region = Dataset(), Dataset()
            side.CodeValue, side.CodingSchemeDesignator, side.CodeMeaning = code, "SCT", "side"
            region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "5665001", "SCT", "Retina"
            region.AnatomicRegionModifierSequence = [side]
            tags["AnatomicRegionSequence"] = [region]
        header = self.read(tmp_path, **tags)
        assert (header.eye, header.eye_conflict) == (eye, conflict)

    @pytest.mark.parametrize(
        ("tags", "age"),
        [
            ({"PatientAge": "018M"}, 1.5),
            ({"PatientAge": "095Y"}, 90.0),
            ({"PatientAge": "", "StudyDate": "20240316"}, 65.0),  # the day before the birthday
            ({"PatientAge": "", "StudyDate": "20240317"}, 66.0),
            ({"PatientAge": "", "PatientBirthDate": ""}, None),
        ],
    )
    def test_ages(self, tmp_path, tags, age):
        assert self.read(tmp_path, **tags).age == age

    def test_what_names_the_patient_in_a_path_is_noticed(self, tmp_path):
        for shown in ("zwetschgenbaum/1.dcm", "x/HOSP-7734021.dcm", "1958-03-17/1.dcm", "17.03.1958.dcm"):
            assert self.read(tmp_path, shown=shown).in_path, shown
        assert not self.read(tmp_path, shown="export/0001.dcm").in_path

    def test_a_damaged_file_is_refused_without_a_word_of_its_content(self, tmp_path):
        file = made.save(made.make(COLOURS), tmp_path / "a.dcm")
        data = file.read_bytes()
        at = data.find(b"Zwetschgenbaum^")
        for damaged in (data[: at + 5], data[: at - 2] + b"\xff\xff" + data[at:]):
            file.write_bytes(damaged)
            said = refusal(file)
            try:
                said += str(asdict(read_header(file, SALT)))
            except UserError as error:
                said += str(error)
            assert not [value for value in made.SECRETS.values() if value in said] and "Zwetsch" not in said

    def test_a_strange_value_is_refused_by_its_kind_alone(self, tmp_path):
        ds = made.make(COLOURS)
        file = made.save(ds, tmp_path / "a.dcm")
        data = file.read_bytes()
        file.write_bytes(data.replace(b"IS\x02\x001 ", b"IS\x02\x00QX"))  # the number of frames
        with pytest.raises(UserError, match="damaged or no proper DICOM file") as caught:
            read_header(file, SALT)
        assert "QX" not in str(caught.value) and "QX" not in refusal(file)
