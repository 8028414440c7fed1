"""Maps on the photograph, and `chat.py --maps`."""

import json

import numpy as np
import pytest
from PIL import Image

from mdf.errors import UserError
from mdf.imaging.frame import Frame
from mdf.inference.conversation import Answer, Conversation
from mdf.inference.explain import draw_masks, explain, heat
from mdf.inference.predictor import Predictor
from mdf.inference.report import Origin
from tests.scripts import run

QUESTION = "Are there haemorrhages?"


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor(checkpoint.run / "best", "cpu")


def test_maps_of_an_answer(checkpoint, predictor, tmp_path):
    photograph = predictor.read(checkpoint.photograph, force=True)
    written = explain(predictor, photograph, QUESTION, "No. There are none.", tmp_path / "maps")
    names = ["mean.png", "depth_1.png", "depth_3.png", "gradient.png", "overlay.png", "masks.png", "maps.json"]
    assert [f.name for f in written] == names and sorted(names) == sorted(f.name for f in (tmp_path / "maps").iterdir())
    height, width = photograph.image.shape[:2]
    for name in names[:-1]:
        picture = Image.open(tmp_path / "maps" / name)
        assert not picture.getexif() and np.asarray(picture).std() > 5
        assert name not in ("overlay.png", "masks.png") or picture.size == (width, height)
    said = json.loads((tmp_path / "maps" / "maps.json").read_text())
    assert said["words"] == ["No.", "There", "are", "none."] and said["depths"] == [1, 3, 1, 3]
    total = np.array(said["maps"]).sum((2, 3)) + np.array(said["nothing"])
    assert said["unplaced"].startswith(f"{np.mean(said['nothing']):.0%} of the attention went to no place")
    assert total == pytest.approx(np.ones((4, 4)), abs=1e-3)


def test_stale_masks_are_not_drawn(checkpoint, predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(predictor.model.config, "stale_masks", True)
    (tmp_path / "masks.png").write_bytes(b"of an earlier answer")
    written = explain(predictor, predictor.read(checkpoint.photograph, force=True), QUESTION, "No.", tmp_path)
    assert "masks.png" not in [f.name for f in written] and not (tmp_path / "masks.png").exists()
    assert json.loads((tmp_path / "maps.json").read_text())["colours"] == {}


def test_the_brightest_place_of_an_overlay_is_that_of_the_map():
    image = np.full((90, 120, 3), 100, dtype=np.uint8)
    values = np.zeros((90, 120))
    values[30:40, 70:80] = 1
    drawn = heat(image, values, 1.0).astype(int)
    assert (drawn[35, 75] != drawn[0, 0]).any() and (drawn[0, 0] == drawn[80, 10]).all()
    assert drawn.sum(2).argmax() in range(30 * 120 + 70, 40 * 120)


def test_a_mask_is_outlined_where_it_lies():
    image = np.zeros((60, 100, 3), dtype=np.uint8)
    mask = np.zeros((32, 32))
    mask[8:16, 8:16] = 1
    drawn = draw_masks(image, Frame(60, 100, (20, 0, 80, 60)), {"disc": mask})
    rows, columns = np.nonzero(drawn.any(2))
    assert (rows.min(), rows.max()) == (15, 29) and (columns.min(), columns.max()) == (35, 49)
    assert drawn[15, 40].sum() > drawn[22, 42].sum() > 0  # the rim above the veil


def test_what_cannot_be_drawn_is_refused(checkpoint, predictor, tmp_path, monkeypatch):
    photograph = predictor.read(checkpoint.photograph, force=True)
    with pytest.raises(UserError, match="the answer is empty"):
        explain(predictor, photograph, QUESTION, " ", tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        explain(predictor, photograph, QUESTION, "No.", tmp_path / "file")
    monkeypatch.setattr(predictor.model.fusion, "layers", ())
    with pytest.raises(UserError, match="no adapters"):
        explain(predictor, photograph, QUESTION, "No.", tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_chat_writes_maps_beside_its_answer(checkpoint, tmp_path, capsys, monkeypatch):
    asked = ["--checkpoint", checkpoint.run, "--image", checkpoint.photograph, "--force"]
    assert run("chat.py", *asked, "--maps", tmp_path / "maps") == 2
    assert "--ask" in capsys.readouterr().err

    def say_no(self, question, asked, sampling, say, stop, tries):  # a model that learnt nothing may say nothing
        say("No.")
        return Answer(question, "No.", Origin.MODEL_TEXT, asked, history=(self.predictor.model.system_turn(),))

    monkeypatch.setattr(Conversation, "generate", say_no)
    code = run("chat.py", *asked, "--ask", QUESTION, "--maps", tmp_path / "maps")
    out = capsys.readouterr()
    assert code == 0, out.err
    assert (tmp_path / "maps" / "mean.png").is_file() and "mean.png" in out.err and "went to no place" in out.err
    assert out.out.strip().endswith("No.")
