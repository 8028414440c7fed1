"""The real scripts on a tiny checkpoint."""

import numpy as np
import pytest
from PIL import Image

from mdf.inference.chat import Conversation, converse
from mdf.inference.gate import BANNER
from mdf.inference.predictor import Predictor
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
