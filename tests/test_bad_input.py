"""Wrong input to the real scripts: exit code 2, one clear message on stderr, no traceback, nothing half done.

Covered elsewhere, and not again here:
  tests/imaging/test_decode.py             every kind of bad file through `load_image` and `load_mask`
  tests/inference/test_chat_and_report.py  a picture that is no retina (chat.py, report.py, --force); an edited form
  tests/evaluation/test_evaluate.py        wrong options of evaluate.py, a missing checkpoint or manifest
  tests/models/test_checkpoint.py          broken checkpoints, also through chat.py
  tests/test_prepare.py                    wrong options, manifest lines and files through prepare.py
  tests/test_records.py, test_config.py    every wrong line of a manifest, every wrong setting
  tests/test_package.py                    unknown options of every script
"""

import errno
import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import pytest
import torch

from mdf import cli
from mdf.batches import FundusDataset
from mdf.config import DialogueConfig
from mdf.errors import UserError
from mdf.loading import save_config
from mdf.records import read_manifest
from mdf.training.data import loader
from tests.scripts import run, start
from tests.tiny import tiny_config
from tests.tiny_checkpoint import checkpoint

__all__ = ["checkpoint"]


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


BAD = {
    "missing.png": (None, "no such file"),
    "truncated.png": ("half", "damaged or cut short"),
    "empty.jpg": (b"", "the file is empty"),
    "zero.png": (png_header(0, 10), "zero.png"),
    "bomb.png": (png_header(60000, 60000), "too large"),
    "letter.jpg": (b"Dear colleague, thank you for referring\n" * 20, "not an image"),
    "page.html": (b"<html><body>404</body></html>", "not an image"),
}


@pytest.fixture
def bad(request, checkpoint, tmp_path) -> tuple[Path, str]:
    """A bad file of that name and what has to be said about it."""
    content, said = BAD[request.param]
    path = tmp_path / "in" / request.param
    path.parent.mkdir()
    if content == "half":
        whole = checkpoint.photograph.read_bytes()
        content = whole[: len(whole) // 2]
    if content is not None:
        path.write_bytes(content)
    return path, said


def assert_said(capsys, *parts: str) -> str:
    """One message on stderr; before it only progress bars and the note that a manifest was edited by hand."""
    text = capsys.readouterr().err
    lines = [line for line in text.splitlines() if line.strip() and "%|" not in line and not line.startswith("note: ")]
    assert lines and lines[0].startswith("error: "), text
    assert text.count("error:") == 1 and "Traceback" not in text
    for part in parts:
        assert part in text, text
    return text


@pytest.mark.parametrize("bad", BAD, indirect=True)
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_chat(bad, force, checkpoint, capsys):
    path, said = bad
    assert run("chat.py", "--checkpoint", checkpoint.run, "--image", path, "--ask", "What is it?", *force) == 2
    text = assert_said(capsys, str(path), said)
    assert text.count("\n") == 1, "one line is enough"


@pytest.mark.parametrize("bad", BAD, indirect=True)
def test_report_writes_nothing_where_one_of_several_photographs_is_bad(bad, checkpoint, tmp_path, capsys):
    path, said = bad
    args = ("--checkpoint", checkpoint.run, checkpoint.photograph, path, "--out", tmp_path / "out", "--force")
    assert run("report.py", *args) == 2
    assert_said(capsys, str(path), said)
    assert not (tmp_path / "out").exists()


def test_a_bad_photograph_in_a_process_of_its_own(tmp_path):
    (tmp_path / "preprocessing.json").write_text("{}")  # enough of a checkpoint to be asked about the photograph
    (tmp_path / "empty.jpg").touch()
    done = start("chat.py", "--checkpoint", tmp_path, "--image", tmp_path / "empty.jpg", "--ask", "What is it?")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: photograph ") and done.stderr.count("\n") == 1


# -- manifests --------------------------------------------------------------------------------------------------------

LINES = {
    "key": ({"diagnoses": ["amd"]}, "unknown key diagnoses; did you mean diagnosis?"),
    "outside": ({"image": "../../eye.png"}, "leaves the data's root"),
    "absolute": ({"image": "/eye.png"}, "leaves the data's root"),
    "mask": ({"masks": {"vessel": "../vessel.png"}}, "leaves the data's root"),
    "diagnosis": ({"diagnosis": ["glaucomma"]}, "nearest: glaucoma"),
    "twice": (None, "stands in line 2 already"),
    "json": ("{", "no valid JSON"),
}


@pytest.fixture
def data(checkpoint, tmp_path) -> Path:
    """A copy of the phantoms' manifest that a test may spoil."""
    folder = shutil.copytree(checkpoint.data.parent, tmp_path / "data")
    return folder / checkpoint.data.name


def spoil(data: Path, change: dict | str | None) -> None:
    """Line 3 changed (dict), replaced (str) or equal to line 2 (None)."""
    lines = data.read_text().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | change) if isinstance(change, dict) else change or lines[1]
    data.write_text("\n".join(lines) + "\n")


def training(tmp_path: Path, checkpoint, data: Path, *settings: str) -> int:
    """train.py on a manifest, one stage, two steps."""
    world = checkpoint.run.parent
    cfg = tiny_config(world, **{"run.dir": str(tmp_path / "runs"), "run.stages": ("segment",), "segment.steps": 2})
    save_config(cfg, tmp_path / "tiny.yaml")
    wanted = ("data.name=manifest", f"data.manifest={data}", "data.root=null")
    return run("train.py", "--config", tmp_path / "tiny.yaml", *wanted, *settings)


@pytest.mark.parametrize(("change", "said"), LINES.values(), ids=LINES)
def test_evaluate_on_a_wrong_manifest(change, said, checkpoint, data, tmp_path, capsys):
    spoil(data, change)
    assert run("evaluate.py", "--checkpoint", checkpoint.run, "--data", data, "--out", tmp_path / "out") == 2
    assert_said(capsys, "line 3: ", said, data.name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("change", "said"), LINES.values(), ids=LINES)
def test_train_on_a_wrong_manifest(change, said, checkpoint, data, tmp_path, capsys):
    spoil(data, change)
    assert training(tmp_path, checkpoint, data) == 2
    assert_said(capsys, "line 3: ", said, data.name)
    assert not (tmp_path / "runs" / "tiny" / "last").exists()


@pytest.mark.parametrize("verb", ["validate", "show"])
def test_prepare_on_a_wrong_manifest(verb, data, tmp_path, capsys):
    spoil(data, LINES["key"][0])
    out = ("--out", tmp_path / "sheet.png") if verb == "show" else ()
    assert run("prepare.py", verb, data, *out) == 2
    assert_said(capsys, "line 3: ", LINES["key"][1])
    assert not (tmp_path / "sheet.png").exists()


# -- photographs of a manifest ----------------------------------------------------------------------------------------


@pytest.fixture(params=["cut", "gone"])
def spoilt(request, data) -> tuple[Path, str]:
    """Every photograph of the manifest is cut short or gone."""
    for record in (manifest := read_manifest(data)).records:
        path = manifest.path(record.image)
        if request.param == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:200])
    return data, {"cut": "damaged or cut short", "gone": "missing"}[request.param]


def test_train_on_bad_photographs(spoilt, checkpoint, tmp_path, capsys):
    data, said = spoilt
    assert training(tmp_path, checkpoint, data) == 2
    assert_said(capsys, said, "phantom_0000")


def test_evaluate_on_bad_photographs(spoilt, checkpoint, tmp_path, capsys):
    data, said = spoilt
    out = tmp_path / "out"
    args = ("--checkpoint", checkpoint.run, "--data", data, "--out", out, "--tasks", "masks", "--split", "all")
    assert run("evaluate.py", *args) == 2
    assert_said(capsys, said.replace("missing", "no such file"), "phantom_0000")
    assert not (out / "metrics.json").exists()


def test_prepare_show_on_bad_photographs(spoilt, tmp_path, capsys):
    data, said = spoilt
    assert run("prepare.py", "show", data, "--out", tmp_path / "sheet.png") == 2
    assert_said(capsys, said.replace("missing", "no such file"))
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_photograph_is_one_message_whichever_process_reads_it(workers, data, checkpoint):
    manifest = read_manifest(data)
    manifest.path(manifest.records[1].image).write_bytes(b"no image")
    samples = FundusDataset(list(manifest.records), manifest, checkpoint.model.processor, DialogueConfig(turns=1))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with pytest.raises(UserError) as caught:
        list(loader(samples, [[(0, 0)], [(0, 2), (0, 1)]], workers=workers))
    assert "not an image" in str(caught.value) and "\n" not in str(caught.value)
    assert torch.equal(torch.get_rng_state(), before)


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("fuse.batchsize=4",), ("fuse.batchsize: no such setting", "did you mean fuse.batch_size")),
        (("fuse.steps=many", "nonsense.a=1"), ("fuse.steps", "nonsense")),  # all of them at once
        (("fuse.steps",), ("key.sub=value",)),
        (("--config", "quickstat"), ("did you mean quickstart?",)),
        (("--config", "nowhere/mine.yaml"), ("nowhere/mine.yaml is no file",)),
        (("data.name=manifest", "data.manifest=nowhere.jsonl"), ("nowhere.jsonl",)),
        (("data.name=folder", "data.root=nowhere"), ("nowhere",)),
        (("run.start_from=nowhere",), ("nowhere",)),
    ],
)
def test_train_with_wrong_settings(words, parts, checkpoint, tmp_path, capsys):
    """The quickstart's own data and language model stand in the way of none of these errors."""
    world = checkpoint.run.parent
    save_config(tiny_config(world, **{"run.dir": str(tmp_path / "runs")}), tmp_path / "tiny.yaml")
    config = () if "--config" in words else ("--config", tmp_path / "tiny.yaml")
    assert run("train.py", *config, *words) == 2
    assert_said(capsys, *parts)


def test_a_config_that_is_no_config(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    for content in (b"run: [", b"- a\n- b\n", b"\xff\xfe\x00", b"run: 3\n"):
        path.write_bytes(content)
        assert run("train.py", "--config", path) == 2
        assert_said(capsys)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_what_may_not_be_written_is_named(number, tmp_path, capsys):
    place = tmp_path / "out"

    def write() -> None:
        raise OSError(number, os.strerror(number), str(place))  # tests may run as a user who may write everywhere

    with pytest.raises(SystemExit) as left:
        cli.run(write)
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {place}: may not be read or written; change its permissions, or name another\n"
    )
