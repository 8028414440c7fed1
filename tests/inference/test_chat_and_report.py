"""The real scripts on a tiny checkpoint."""

import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from mdf.errors import UserError
from mdf.imaging.eye_side import eye_side
from mdf.imaging.phantom import draw
from mdf.inference.chat import Conversation, converse
from mdf.inference.draft import impression, which_eye, write_report
from mdf.inference.gate import BANNER
from mdf.inference.predictor import Predictor
from mdf.resources import bundled
from tests.scripts import run, start


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor(checkpoint.run / "best", "cpu")


@pytest.fixture
def no_retina(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, size=(128, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "letter.png")
    return tmp_path / "letter.png"


@pytest.fixture
def photograph(checkpoint, tmp_path):
    """A phantom, in a folder of its own with metadata that names a patient."""
    file = tmp_path / "in" / "eye.jpg"
    file.parent.mkdir()
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe"  # ImageDescription
    Image.open(checkpoint.photograph).save(file, exif=exif, quality=98)
    return file


def test_one_question(checkpoint, photograph):
    done = start(
        "chat.py",
        "--checkpoint",
        checkpoint.run,
        "--image",
        photograph,
        "--ask",
        "What is the diagnosis?",
        "--max-tokens",
        5,
    )
    assert done.returncode == 0, done.stderr
    assert BANNER in done.stderr and len(done.stdout.strip().splitlines()) >= 1


def test_what_is_no_retina(checkpoint, no_retina, capsys):
    args = (
        "--checkpoint",
        checkpoint.run / "best",
        "--image",
        no_retina,
        "--ask",
        "What is the diagnosis?",
        "--max-tokens",
        5,
    )
    assert run("chat.py", *args) == 2
    captured = capsys.readouterr()
    assert captured.err.count("error:") == 1 and "letter.png is not a fundus photograph" in captured.err
    assert captured.out == ""
    assert run("chat.py", *args, "--force") == 0
    assert "WARNING: This does not look like a fundus photograph" in capsys.readouterr().out


def test_a_conversation_remembers_and_forgets(predictor, photograph, no_retina, capsys):
    seen = predictor.read(photograph)
    lines = iter(
        ["What is the diagnosis?", "", "/image", f"/image {no_retina}", "/reset", "/what", "<filename>", "/quit"]
    )
    converse(predictor, seen, read_line=lambda prompt: next(lines), limit=5)
    out = capsys.readouterr().out
    assert out.startswith(BANNER)
    assert "/image needs a file" in out and "not a fundus photograph" in out and "forgotten" in out
    assert "stands for the photograph" in out  # the placeholder is refused, the conversation goes on
    converse(predictor, seen, read_line=lambda prompt: (_ for _ in ()).throw(EOFError))  # end of input ends it

    conversation = Conversation(predictor, seen)
    first = conversation.say("What is the diagnosis?", limit=5)
    conversation.say("Are there drusen?", limit=5)
    assert [t.role for t in conversation.history] == ["system", "user", "assistant", "user", "assistant"]
    assert conversation.history[2].content == first
    conversation.reset()
    assert conversation.say("What is the diagnosis?", limit=5) == first


def test_report(checkpoint, photograph, tmp_path, capsys):
    other = tmp_path / "second" / "eye.jpg"
    other.parent.mkdir()
    shutil.copy(photograph, other)
    out = tmp_path / "reports"
    assert run("report.py", "--checkpoint", checkpoint.run, photograph, other, "--out", out, "--eye", "left") == 0
    names = {"eye.md", "eye_photograph.jpg", "eye_masks.png", "eye-2.md", "eye-2_photograph.jpg", "eye-2_masks.png"}
    assert {p.name for p in out.iterdir()} == names
    text = (out / "eye.md").read_text()
    assert text.startswith(f"> **{BANNER}**")
    assert "](eye_photograph.jpg)" in text and "](eye_masks.png)" in text
    assert b"Jane Doe" in photograph.read_bytes() and b"Jane Doe" not in (out / "eye_photograph.jpg").read_bytes()
    for part in ("Image quality", "Findings", "Impression", "Recommendation", "Limits", "Reviewer", "microaneurysms"):
        assert part in text
    for name in ("normal fundus", "diabetic retinopathy", "age-related macular degeneration", "glaucoma"):
        assert f"| {name} |" in text
    assert checkpoint.model.processor.preprocessing.hash() in text and "$" not in text
    assert np.ptp(np.asarray(Image.open(out / "eye_masks.png"))) > 100


def test_a_report_tells_the_eye_from_the_photograph_where_it_was_not_given():
    phantom = next(p for p in map(draw, range(25)) if eye_side(p.image).side)
    told, line = which_eye(phantom.image, None)
    assert told == phantom.eye and line.startswith(f"{told}, told from the photograph")
    mirrored, _ = which_eye(np.ascontiguousarray(phantom.image[:, ::-1]), None)
    assert {told, mirrored} == {"left", "right"}
    assert which_eye(phantom.image, mirrored) == (mirrored, f"{mirrored}, as given")
    side, line = which_eye(np.zeros((64, 64, 3), dtype=np.uint8), None)
    assert side is None and "not given" in line


def test_a_forced_report_has_a_warning_and_no_impression(checkpoint, no_retina, tmp_path):
    out = tmp_path / "reports"
    args = ("--checkpoint", checkpoint.run / "best", no_retina, "--out", out)
    assert run("report.py", *args) == 2 and not out.exists()
    assert run("report.py", *args, "--force") == 0
    text = (out / "letter.md").read_text()
    assert "WARNING: This does not look like a fundus photograph" in text and "No impression" in text


def test_an_edited_form(predictor, photograph, tmp_path, monkeypatch):
    folder = tmp_path / "prompts"
    shutil.copytree(bundled("prompts"), folder)
    monkeypatch.setattr(predictor.prompts, "folder", folder)
    (folder / "report_form.md").write_text("Costs $$5. $impression")
    text = write_report(predictor, photograph, tmp_path / "out").read_text()
    assert BANNER in text and "Costs $5." in text  # the banner stays although the form lost it
    (folder / "report_form.md").write_text("$impresion")
    with pytest.raises(UserError, match=r"no field \$impresion; fields are .*\$impression"):
        write_report(predictor, photograph, tmp_path / "out")
    (folder / "report_form.md").unlink()  # an older checkpoint: the form that comes with mdf
    assert "## Impression" in write_report(predictor, photograph, tmp_path / "out").read_text()


def test_impression_rules(predictor, photograph, no_retina):
    rules = yaml.safe_load((bundled("prompts") / "recommendations.yaml").read_text())
    good, bad = predictor.read(photograph), predictor.read(no_retina, force=True)
    assert impression({"glaucoma": 0.9, "normal": 0.1}, good, rules) == (
        "Glaucoma (probability 0.90).",
        rules["glaucoma"],
    )
    said, advice = impression({"glaucoma": 0.49, "normal": 0.4}, good, rules)
    assert "No confident impression" in said and advice == rules["uncertain"]
    said, advice = impression({"glaucoma": 0.9, "normal": 0.1}, bad, rules)
    assert "cannot be graded" in said and advice == rules["ungradable"]
    assert impression({"optic_neuritis": 0.9}, good, rules)[1] == rules["default"]
