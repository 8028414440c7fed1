"""`report.py` as a user runs it: what it writes, and what it refuses before anything is written."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mdf.imaging.phantom import draw
from tests.scripts import SCRIPTS, environment, run

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


def test_the_report_of_another_patient_is_never_overwritten(checkpoint, files, tmp_path, capsys):
    out, other = tmp_path / "out", tmp_path / "r.jpg"
    other.write_bytes((files / "l.jpg").read_bytes())
    args = ("--checkpoint", checkpoint.run, "--format", "json", "--out", out)
    assert run("report.py", *args, files / "r.jpg") == 0
    first = (out / "r.json").read_bytes()
    for _ in range(2):  # a draft is written anew
        assert run("report.py", *args, other) == 0
        assert {path.name for path in out.iterdir()} == {"r.json", "r-2.json"}
    assert (out / "r.json").read_bytes() == first
    (out / "r-2.review-1.json").write_bytes((out / "r-2.json").read_bytes())
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert run("report.py", *args, files / "r.jpg", other) == 2
    assert "r-2.json has been reviewed (r-2.review-1.json)" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_eye_that_its_name_contradicts_is_known_before_anything_is_written(checkpoint, files, tmp_path, capsys):
    wrong = tmp_path / "2_left.jpg"
    wrong.write_bytes((files / "l.jpg").read_bytes())
    args = ("--checkpoint", checkpoint.run, files / "r.jpg", wrong, "--eye", "right", "--out", tmp_path / "out")
    assert run("report.py", *args) == 2
    assert "but its name says left" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_known_before_the_model_works(
    checkpoint, files, tmp_path, capsys, monkeypatch
):
    file = tmp_path / "file"
    file.write_text("mine")
    args = ("--checkpoint", checkpoint.run, "--format", "json", "--out")
    for words in ((files / "l.jpg",), ("--data", files)):
        for out in (file, file / "below"):
            assert run("report.py", *args, out, *words) == 2
            assert f"{file} is no folder" in capsys.readouterr().err
        with monkeypatch.context() as closed:
            closed.setattr("mdf.inference.render.os.access", lambda path, mode: False)
            assert run("report.py", *args, tmp_path / "new", *words) == 2
        assert f"{tmp_path} may not be written into" in capsys.readouterr().err
    assert file.read_text() == "mine" and not (tmp_path / "new").exists()


def test_an_earlier_report_may_begin_with_a_byte_order_mark(checkpoint, files, tmp_path):
    from tests.inference.reports import full_report

    (tmp_path / "before.json").write_text(full_report().to_json(), encoding="utf-8-sig")  # as editors on Windows save
    args = ("--checkpoint", checkpoint.run, files / "r.jpg", "--eye", "right", "--out", tmp_path, "--format", "json")
    assert run("report.py", *args, "--earlier", tmp_path / "before.json") == 0
    assert json.loads((tmp_path / "r.json").read_text())["since"]


def test_the_verbs_that_look_at_no_photograph_start_without_torch(tmp_path):
    """They read and write text; torch alone takes seconds to start."""
    from tests.inference.reports import full_report

    draft = tmp_path / "case.json"
    draft.write_text(full_report().to_json(), encoding="utf-8")
    changed = full_report()
    changed.eyes[0].impression.text = "Mine."
    (tmp_path / "case.edits.json").write_text(changed.to_json(), encoding="utf-8")
    (tmp_path / "batch.json").write_text('{"made": "reports", "format": "html", "items": 0}', encoding="utf-8")
    edits = ("--edits", tmp_path / "case.edits.json", "--reviewer", "Dr A")
    review = ("review", draft, *edits, "--format", "md,html,fhir")
    code = "try: runpy.run_path(sys.argv[0], run_name='__main__')\nfinally: print(sorted(sys.modules))"
    for words in (review, ("export", tmp_path, "--out", tmp_path / "r.jsonl"), ("summary", tmp_path)):
        argv = [str(SCRIPTS / "report.py"), *map(str, words)]
        args = [sys.executable, "-c", f"import runpy, sys; sys.argv = {argv!r}\n{code}"]
        done = subprocess.run(args, capture_output=True, text=True, timeout=120, env=environment())
        assert done.returncode == 0, done.stderr
        assert "'mdf.inference'" in done.stdout
        assert not [name for name in ("torch", "transformers", "scipy") if f"'{name}'" in done.stdout], words
    assert (tmp_path / "case.review-1.html").is_file() and (tmp_path / "index.html").is_file()


def test_maps_of_each_depth_go_into_the_page_and_the_pdf(checkpoint, files, tmp_path):
    args = ("--checkpoint", checkpoint.run, files / "r.jpg", "--eye", "right", "--out", tmp_path)
    assert run("report.py", *args, "--format", "html,pdf", "--maps") == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("data-map=") == 2 and "depth 1, stride 2" in page and "depth 3, stride 8" in page
    assert "no proof of what it saw there" in page
    pypdf = pytest.importorskip("pypdf", reason="reads the PDF back")
    text = "".join(p.extract_text() for p in pypdf.PdfReader(tmp_path / "r.pdf").pages)
    assert "Depth 1, stride 2" in text and "no proof of what it saw there" in " ".join(text.split())
    assert run("report.py", *args, "--format", "html") == 0  # without its JSON nobody can tell whose r.html is
    assert "data-map=" not in (tmp_path / "r-2.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "which photograph"),
        (("{l}", "--format", "docx"), "'docx' is no format of a report; must be of md, html, pdf, json, fhir"),
        (("{l}", "--rules", "mine"), "--rules mine: no such rule set; choose from ICO 2017, ADA, NHS"),
        (("--left", "{l}"), "--left and --right go together"),
        (("--left", "{l}", "--right", "{r}", "--eye", "left"), "--left and --right go together"),
        (("{l}", "{r}", "--patient", "P"), "belong to one report"),
        (("--left", "{l}", "--right", "{r}", "--known", "macular oedema"), "'macular oedema': of which eye?"),
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
