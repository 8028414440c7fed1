"""scripts/prepare.py as a user runs it: manifests are made, checked, looked at; wrong input gets one clear message."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mdf.records import read_manifest
from tests.conftest import assert_refused
from tests.scripts import run

Write = Callable[..., Path]
Run = Callable[..., object]


@pytest.fixture
def photographs(tmp_path: Path, photograph: Write) -> Path:
    """Ten photographs in two sub-folders."""
    root = tmp_path / "photographs"
    for i in range(10):
        photograph(root / ("amd" if i % 2 else "normal") / f"{i}.png", seed=i)
    return root


@pytest.fixture
def manifest(photographs: Path, tmp_path: Path, run_script: Run) -> Path:
    assert run_script("prepare.py", "folder", "--root", photographs, "--out", tmp_path / "m.jsonl").returncode == 0
    return tmp_path / "m.jsonl"


@pytest.mark.parametrize("verb", [[], ["table"], ["show"]])
def test_help_answers_at_once_and_teaches(run_script: Run, verb: list[str]):
    start = time.monotonic()
    result = run_script("prepare.py", *verb, "--help")
    assert result.returncode == 0 and time.monotonic() - start < 2
    assert verb or "python scripts/prepare.py folder --root DIR --out mine.jsonl" in result.stdout


def test_list_says_licence_citation_and_layout_of_each_set(run_script: Run):
    out = run_script("prepare.py", "list").stdout
    for part in ("odir5k", "hrf", "folder", "table", "phantom", "licence: CC BY 4.0", "cite:", "DIR/full_df.csv"):
        assert part in out


def test_a_folder_becomes_a_manifest_that_is_checked(photographs: Path, tmp_path: Path, run_script: Run):
    result = run_script("prepare.py", "folder", "--root", photographs, "--out", tmp_path / "m.jsonl", "--validate")
    assert result.returncode == 0, result.stderr
    assert "10 have no patient" in result.stdout and "every image and mask can be read" in result.stdout
    made = read_manifest(tmp_path / "m.jsonl")
    assert len(made.records) == 10 and made.root == photographs and made.meta["split_seed"] == 0


def test_a_table_is_read_with_named_columns(photographs: Path, tmp_path: Path, run_script: Run):
    table = tmp_path / "t.tsv"
    table.write_text("Foto\tBefund\nnormal/0.png\tKatarakt\namd/1.png\tnormal\n")
    (tmp_path / "words.yaml").write_text("Katarakt: cataract\n")
    args = ("table", "--root", photographs, "--table", table, "--out", tmp_path / "m.jsonl")
    columns = ("--columns", "image=Foto", "diagnosis=Befund")
    assert_refused(run_script("prepare.py", *args, *columns), "'Katarakt' (1 photographs)", "--vocabulary FILE")
    assert run_script("prepare.py", *args, *columns, "--vocabulary", tmp_path / "words.yaml").returncode == 0
    assert [r.diagnosis for r in read_manifest(tmp_path / "m.jsonl").records] == [("cataract",), ("normal",)]
    assert_refused(run_script("prepare.py", *args, "--columns", "image"), "FIELD=COLUMN")


def test_flairs_tables_and_hugging_face_folders_become_manifests(
    photographs: Path, tmp_path: Path, photograph: Write, run_script: Run
):
    (tmp_path / "tables").mkdir()
    rows = "".join(f"{i},normal/{i}.png,[],['no glaucoma']\n" for i in (0, 2))
    (tmp_path / "tables" / "a.csv").write_text(",image,atributes,categories\n" + rows)
    made = ("--out", tmp_path / "m.jsonl")
    result = run_script("prepare.py", "flair", "--root", photographs, "--table", tmp_path / "tables", *made)
    assert result.returncode == 0, result.stderr
    assert [r.diagnosis for r in read_manifest(tmp_path / "m.jsonl").records] == [("no_glaucoma",)] * 2
    (photographs / "metadata.csv").write_text("file_name,befund\nnormal/0.png,cataract\n")
    (tmp_path / "c.yaml").write_text("diagnosis: befund\n")
    result = run_script("prepare.py", "huggingface", "--root", photographs, "--columns", tmp_path / "c.yaml", *made)
    assert result.returncode == 0, result.stderr
    assert [r.diagnosis for r in read_manifest(tmp_path / "m.jsonl").records] == [("cataract",)]


def test_phantoms_are_drawn_and_valid(tmp_path: Path, run_script: Run):
    result = run_script("prepare.py", "phantom", "--count", 6, "--size", 96, "--out", tmp_path / "phantoms")
    assert result.returncode == 0, result.stderr
    (manifest,) = (tmp_path / "phantoms").glob("*.jsonl")
    assert run_script("prepare.py", "validate", manifest).returncode == 0


def test_show_draws_a_contact_sheet(manifest: Path, tmp_path: Path, run_script: Run):
    result = run_script("prepare.py", "show", manifest, "-n", 5, "--masks", "--out", tmp_path / "sheet.png")
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * 360 and sheet.height > 2 * 360


def test_validate_lists_unreadable_files_wrong_masks_and_photographs_in_two_splits(
    manifest: Path, photographs: Path, photograph: Write, run_script: Run
):
    (photographs / "normal" / "0.png").write_bytes(b"no image")
    photograph(photographs / "mask.png", size=(20, 20))
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    good = [r for r in rows if r["id"] != "normal/0"]
    good[0]["masks"] = {"vessel": "mask.png"}
    train, test = (next(r for r in good if r["split"] == s) for s in ("train", "test"))
    shutil.copy(photographs / train["image"], photographs / test["image"])
    manifest.write_text("".join(json.dumps(r) + "\n" for r in rows))
    result = run_script("prepare.py", "validate", manifest)
    assert_refused(
        result, "3 problems", "normal/0: ", "the mask vessel is 20x20 pixels, the photograph 48x40", "the same file: "
    )
    assert "normal" in result.stdout and "train" in result.stdout  # the counts are shown all the same


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("validate", "nothing.jsonl"), "manifest nothing.jsonl is missing"),
        (("hrf", "--root", "nowhere", "--out", "m.jsonl"), "there is no folder nowhere"),
        (("folder", "--root", ".", "--out", "m.json"), "ends in .jsonl"),
        (("folder", "--root", ".", "--out", "m.jsonl", "--source", " "), "--source: empty"),
        (("folder", "--root", ".", "--out", "m.jsonl", "--val", "0.6", "--test", "0.6"), "leaves nothing to train on"),
        (("phantom", "--count", "0", "--out", "p"), "--count: 0 must be a number at least 1"),
    ],
)
def test_wrong_input_ends_with_exit_code_2_and_one_message(
    run_script: Run, photograph: Write, tmp_path: Path, args: tuple[str, ...], part: str
):
    photograph(tmp_path / "a.png")
    assert_refused(run_script("prepare.py", *args), part)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ({"id": "a", "image": "a.png", "diagnoses": []}, "line 1: unknown key diagnoses; did you mean diagnosis?"),
        ({"id": "a", "image": "../a.png"}, "line 1: the path '../a.png' leaves the data's root"),
        ({"id": "a", "image": "a.png", "diagnosis": ["glaucomma"]}, "nearest: glaucoma"),
    ],
)
def test_a_wrong_manifest_line_ends_with_exit_code_2_and_one_message(
    run_script: Run, tmp_path: Path, line: dict, part: str
):
    (tmp_path / "m.jsonl").write_text(json.dumps(line))
    assert_refused(run_script("prepare.py", "validate", tmp_path / "m.jsonl"), part)


@pytest.mark.parametrize(
    "words",
    [
        ("check", "a.jsonl", "--out", "a.jsonl"),
        ("check", "a.jsonl", "--out", "new.jsonl", "--eyes", "new.jsonl"),
        ("split", "a.jsonl", "--out", "./a.jsonl", "--patients-only", "--few-shot", "1"),
        ("split", "folds.fold1.jsonl", "--out", "folds.jsonl", "--patients-only", "--folds", "2", "--redraw"),
        ("merge", "a.jsonl", "b.jsonl", "--out", "b.jsonl"),
        ("table", "--root", ".", "--table", "t.jsonl", "--out", "t.jsonl"),
    ],
)
def test_what_a_command_reads_is_not_written_over(
    words: tuple[str, ...], photograph: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for i in range(4):
        photograph(tmp_path / f"{i}.png", seed=i)
    rows = [{"id": f"{i}", "image": f"{i}.png", "split": "train"} for i in range(4)]
    before = "".join(json.dumps(row) + "\n" for row in rows)
    names = ("a.jsonl", "b.jsonl", "folds.fold1.jsonl", "t.jsonl")
    for name in names:
        Path(name).write_text(before)
    assert run("prepare.py", *words) == 2
    assert "which would be lost; name a new one" in capsys.readouterr().err
    assert all(Path(name).read_text() == before for name in names)
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == sorted(names)  # nor is a first fold written


def test_preparing_data_loads_no_torch():
    modules = "mdf.loading, mdf.preparation, mdf.datasets.validation, mdf.datasets.sheet"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
