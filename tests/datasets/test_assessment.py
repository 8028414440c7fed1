"""scripts/prepare.py check: what can be told of a photograph without a model, as a table and as eyes filled in."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdf.datasets.assessment import COLUMNS
from mdf.imaging.phantom import draw
from mdf.records import FundusRecord, read_manifest, write_manifest
from tests.conftest import assert_refused
from tests.imaging.damage import blurred

EYES = {7: None, 1: None, 2: "left", 3: "right"}  # by seed, as the manifest has them; seed 2 is a right eye


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Four phantoms, the last one out of focus, and a picture of noise."""
    pictures = {f"eye{seed}": draw(seed, 192).image for seed in EYES}
    pictures["eye3"] = blurred(pictures["eye3"], 3)
    pictures["noise"] = np.random.default_rng(0).integers(0, 255, (128, 160, 3), dtype=np.uint8)
    for name, image in pictures.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    known = {f"eye{seed}": eye for seed, eye in EYES.items()}
    records = [FundusRecord(name, f"{name}.png", eye=known.get(name)) for name in pictures]
    write_manifest(tmp_path / "m.jsonl", records, root=tmp_path, dataset="mine")
    return tmp_path / "m.jsonl"


def test_a_row_a_photograph_and_a_summary(manifest: Path, run_script: Callable):
    result = run_script("prepare.py", "check", manifest)
    assert result.returncode == 0, result.stderr
    for part in (
        "5 photographs: 4 of a retina, 1 not (noise)",
        "out of focus or hazy",
        "differ from the manifest: eye2",
    ):
        assert part in result.stdout
    with open(manifest.with_suffix(".check.tsv"), encoding="utf-8", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file, delimiter="\t")}
    assert list(rows) == [*(f"eye{seed}" for seed in EYES), "noise"] and set(rows["noise"]) == set(COLUMNS)
    for seed in (7, 1, 2):
        row, phantom = rows[f"eye{seed}"], draw(seed, 192)
        assert row["retina"] == "yes" and row["gradable"] == "good" and float(row["gradability"]) > 2 / 3
        assert row["eye_told"] == phantom.eye and row["eye"] == (EYES[seed] or "")
        assert float(row["field_share"]) == pytest.approx(phantom.masks["field"].mean(), abs=0.03)
    assert rows["eye3"]["gradable"] == "not" and "out of focus or hazy" in rows["eye3"]["reasons"]
    assert float(rows["eye3"]["sharpness"]) < 1 / 3
    assert rows["noise"]["retina"] == "no" and rows["noise"]["gradability"] == "0.000" and not rows["noise"]["eye_told"]


def test_eyes_are_filled_in_only_where_asked_and_unknown(manifest: Path, tmp_path: Path, run_script: Callable):
    before = manifest.read_bytes()
    result = run_script("prepare.py", "check", manifest, "--out", tmp_path / "t.tsv", "--eyes", tmp_path / "new.jsonl")
    assert result.returncode == 0 and "2 eyes filled in" in result.stdout, result.stderr
    assert manifest.read_bytes() == before and (tmp_path / "t.tsv").is_file()
    records = {record.id: record for record in read_manifest(tmp_path / "new.jsonl").records}
    for seed, known in EYES.items():
        assert records[f"eye{seed}"].eye == (known or draw(seed, 192).eye)
        assert records[f"eye{seed}"].extra == ({} if known else {"eye_from": "photograph"})
    assert records["noise"].eye is None


def test_wrong_input_gets_one_message(manifest: Path, tmp_path: Path, run_script: Callable):
    assert_refused(run_script("prepare.py", "check", manifest, "--eyes", manifest), "which would be lost")
    (tmp_path / "eye1.png").write_bytes(b"no picture")
    assert_refused(run_script("prepare.py", "check", manifest), "eye1.png")
