"""prepare.py dicom as a user runs it: records from a folder, and nothing of the patient in anything that is written."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from mdf.datasets import dicom
from mdf.errors import UserError
from mdf.imaging.phantom import draw
from mdf.records import read_manifest
from tests.conftest import assert_refused
from tests.imaging import dicom_files as made
from tests.imaging.test_burned_in import written

PHOTOGRAPHS = [draw(seed=seed, size=128).image for seed in range(4)]


@pytest.fixture(autouse=True)
def salt(monkeypatch):
    monkeypatch.setenv("MDF_SALT", "a salt for these tests alone")


def uids(ds) -> list[str]:
    return [ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID]


def test_nothing_that_names_the_patient_is_written_or_said(tmp_path: Path, run_script):
    root, secrets = tmp_path / "export", list(made.SECRETS.values())
    secrets += ["Zwetschgenbaum", "Kunigunde", "Mirabellenhain", "1958-03-17", "20240229"]
    for i, pixels in enumerate(PHOTOGRAPHS):
        patient = {"PatientID": f"HOSP-77340{i // 2}"}
        syntax = (made.EXPLICIT, made.JPEG, made.JPEG_2000, made.DEFLATED)[i]
        ds = made.packed(made.make(pixels, ImageLaterality="RL"[i % 2], **patient), syntax)
        made.save(ds, root / f"{i}.dcm")
        secrets += [*uids(ds), patient["PatientID"]]
    out = tmp_path / "m.jsonl"
    result = run_script("prepare.py", "dicom", "--root", root, "--out", out, "--validate", "--val", 0, "--test", 0.5)
    assert result.returncode == 0, result.stderr
    texts = [out.read_text(), (tmp_path / "m.meta.json").read_text(), result.stdout, result.stderr]
    assert not [secret for secret in secrets for text in texts if secret.lower() in text.lower()]
    records = read_manifest(out).records
    assert [r.eye for r in records] == ["right", "left"] * 2 and {r.age for r in records} == {65.0}
    assert len({r.patient for r in records}) == 2 and len({r.id for r in records}) == 4
    assert {r.camera for r in records} == {"Lumen Optics RetiCam 45"} and {r.sex for r in records} == {"female"}
    assert all(len({r.split for r in records if r.patient == p}) == 1 for p in {r.patient for r in records})
    assert "file paths are kept as they are" in result.stdout

    made.save(made.make(PHOTOGRAPHS[0][:40]), root / "4.dcm").write_bytes((root / "0.dcm").read_bytes()[:-5000])
    result = run_script("prepare.py", "dicom", "--root", root, "--out", out)
    assert_refused(result, "1 of 5 files cannot be taken", "4.dcm")
    assert not [s for s in secrets if s.lower() in (result.stdout + result.stderr).lower()]


def test_other_objects_are_counted_aloud_and_text_is_reported(tmp_path: Path, capsys):
    made.save(made.make(PHOTOGRAPHS[0], BurnedInAnnotation="YES"), tmp_path / "IM1")  # without an ending
    marked = written(draw(seed=1, size=256).image, "EVA M", (2, 1), 12)
    capture = made.make(marked, sop_class=made.SECONDARY_CAPTURE)
    made.save(capture, tmp_path / "zwetschgenbaum" / "IM2")
    made.save(
        made.make(np.ascontiguousarray(PHOTOGRAPHS[2][..., 1]), sop_class=made.PLAIN_PHOTOGRAPH), tmp_path / "IM3"
    )
    made.save(made.make(PHOTOGRAPHS[0], sop_class=made.TOMOGRAPHY, Modality="OPT", frames=1), tmp_path / "oct" / "IM4")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden").write_text("x")
    records = {r.image: r for r in dicom.read(tmp_path)}
    assert set(records) == {"IM1", "zwetschgenbaum/IM2", "IM3"}
    assert records["IM1"].extra["burned_in_annotation"] == "yes" and records["IM3"].modality == "monochrome"
    assert records["zwetschgenbaum/IM2"].extra["text_outside_field"] == "seen"
    assert records["IM1"].extra["text_outside_field"] == "not seen"
    out = capsys.readouterr().out
    for part in (
        "1 files below", "1 DICOM files below", "modality: OPT 1", "1 of 3 are marked as having burnt-in annotation",
        "1 of 3 seem to have text", "1 of 3 are secondary captures", "1 of 3 are monochrome", "1 of 3 paths hold",
    ):  # fmt: skip
        assert part in out, part


def test_several_frames_and_the_same_photograph_twice_are_refused(tmp_path: Path):
    ds = made.make(PHOTOGRAPHS[0])
    made.save(ds, tmp_path / "a.dcm")
    made.save(ds, tmp_path / "b.dcm")
    made.save(made.make(PHOTOGRAPHS[1], frames=2), tmp_path / "c.dcm")
    with pytest.raises(UserError) as caught:
        dicom.read(tmp_path)
    for part in ("2 of 3 files", "b.dcm is the photograph of a.dcm again", "c.dcm: holds 2 frames"):
        assert part in str(caught.value)


def test_a_folder_without_photographs_is_refused(tmp_path: Path, photograph):
    photograph(tmp_path / "a.png")
    with pytest.raises(UserError, match="holds no photograph"):
        dicom.read(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        dicom.read(tmp_path / "nowhere")


def test_a_manifest_of_dicom_files_can_be_shown(tmp_path: Path, run_script):
    for i, pixels in enumerate(PHOTOGRAPHS):
        made.save(made.make(pixels, PatientID=f"P{i}" * 4), tmp_path / "export" / f"{i}")
    out = tmp_path / "m.jsonl"
    assert run_script("prepare.py", "dicom", "--root", tmp_path / "export", "--out", out).returncode == 0
    assert run_script("prepare.py", "show", out, "-n", 2).returncode == 0
    assert all(json.loads(line)["source"] == "dicom" for line in out.read_text().splitlines())
