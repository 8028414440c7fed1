"""`report.py` as a user runs it: what it writes, and what it refuses before anything is written."""

import json

import numpy as np
import pytest
from PIL import Image

from mdf.imaging.phantom import draw
from tests.scripts import run

pytest.importorskip("mdf.inference.render", reason="needs what writes reports")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe"
    for name, seed, eye in (("r", 3, "right"), ("l", 4, "left")):
        Image.fromarray(draw(seed, eye=eye).image).save(folder / f"{name}.jpg", exif=exif, quality=98)
    noise = np.random.default_rng(0).integers(0, 255, size=(128, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "letter.png")
    return folder


def test_both_eyes_become_one_report_and_the_next_visit_says_what_changed(checkpoint, files, tmp_path, capsys):
    out = tmp_path / "reports"
    both = ("--checkpoint", checkpoint.run, "--left", files / "l.jpg", "--right", files / "r.jpg", "--out", out)
    assert run("report.py", *both, "--format", "json,md", "--patient", "P-1") == 0
    report = json.loads((out / "l_r.json").read_text())
    assert [eye["laterality"]["eye"] for eye in report["eyes"]] == ["left", "right"] and report["comparison"]
    assert all(b"Jane Doe" not in path.read_bytes() for path in out.iterdir())
    assert "l_r.json" in capsys.readouterr().out
    again = ("--checkpoint", checkpoint.run, files / "l.jpg", "--eye", "left", "--earlier", out / "l_r.json")
    assert run("report.py", *again, "--out", out, "--format", "json") == 0
    assert json.loads((out / "l.json").read_text())["since"]


def test_photographs_of_one_name_from_two_folders_do_not_overwrite_each_other(checkpoint, files, tmp_path):
    other = tmp_path / "r.jpg"
    other.write_bytes((files / "l.jpg").read_bytes())
    args = ("--checkpoint", checkpoint.run, files / "r.jpg", other, "--format", "json", "--out", tmp_path / "out")
    assert run("report.py", *args) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"r.json", "r-2.json"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "which photograph"),
        (("{l}", "--format", "docx"), "'docx' is no format of a report; must be of md, html, pdf, json, fhir"),
        (("{l}", "--rules", "mine"), "--rules mine: no such rule set; choose from ICO 2017, ADA, NHS"),
        (("--left", "{l}"), "--left and --right go together"),
        (("--left", "{l}", "--right", "{r}", "--eye", "left"), "--left and --right go together"),
        (("{l}", "{r}", "--patient", "P"), "belong to one report"),
        (("{l}", "--earlier", "{l}"), "cannot be read"),
        (("{l}", "--earlier", "none.json"), "cannot be read"),
        (("{letter}",), "is not a fundus photograph"),
        (("{l}", "--sign", "inkblot"), "'inkblot' is neither a diagnosis nor a finding"),
        (("--left", "{l}", "--right", "{l}"), "are the same photograph"),
        (("--left", "{r}", "--right", "{l}"), "but they look exchanged"),
    ],
)
def test_wrong_input_gets_one_message_and_nothing_is_written(checkpoint, files, tmp_path, capsys, words, said):
    places = {"l": files / "l.jpg", "r": files / "r.jpg", "letter": files / "letter.png"}
    args = [word.format(**places) for word in words]
    code = run("report.py", "--checkpoint", checkpoint.run, *args, "--out", tmp_path / "out")
    error = capsys.readouterr().err
    assert code == 2 and error.count("error:") == 1 and said in error
    assert not (tmp_path / "out").exists()
