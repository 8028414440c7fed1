"""What the page's handlers do: an answer that is stopped, a photograph that is replaced, the tables of many."""

import shutil
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mdf.errors import UserError
from mdf.imaging.eye_side import EyeSide
from mdf.inference import serve_chat
from mdf.inference.conversation import Sampling
from mdf.inference.serve_batch import MOST, Batch
from mdf.inference.serve_chat import STANDARD, Chat, add, to_begin_with
from mdf.inference.serve_report import FORCE, make_draft
from mdf.inference.serve_room import Room
from mdf.inference.upload import admit
from mdf.inference.visits import Visits
from tests.inference.talker import talker


@pytest.fixture(scope="module")
def predictor(checkpoint):
    """That says nothing but letters, without end."""
    return talker(checkpoint)


@pytest.fixture
def room(predictor):
    room = Room(Visits(predictor, Sampling(limit=200)))
    yield room
    room.visits.close()


@pytest.fixture
def bring(room, checkpoint, tmp_path):
    """Uploads a phantom under a name; returns the upload, which is not there any more."""

    def one(key, name="eye.png", number=0, place="photograph"):
        file = tmp_path / name
        shutil.copy(checkpoint.manifest.path(checkpoint.manifest.records[number].image), file)
        add(room, key, str(file), place)
        assert not file.exists()
        return room.visits.of(key)

    return one


def test_only_questions_that_the_checkpoint_was_trained_on_are_offered(predictor, monkeypatch):
    monkeypatch.setattr(predictor.processor, "questions", ())  # not recorded: all of them
    assert to_begin_with(predictor) == list(STANDARD)
    monkeypatch.setattr(predictor.processor, "questions", ("diagnosis", "report"))
    assert to_begin_with(predictor) == ["What is the diagnosis?", "Describe this photograph."]


def test_an_answer_is_stopped_and_what_there_is_of_it_stays(room, bring):
    visit, chat = bring("key"), Chat(room)
    steps = chat.ask("key", None, "Tell me more.")
    assert "Tell me more." in next(steps)[0] and "aria-busy" in next(steps)[0]
    chat.stop("key", None)
    *_, last = steps
    (answer,) = visit.session.conversation.answers
    assert answer.stopped and "Stopped before its end." in last[0] and "aria-busy" not in last[0]
    assert len(answer.text.split()) < 200


def test_who_leaves_in_the_middle_leaves_nothing_behind(room, bring):
    visit, chat = bring("key"), Chat(room)
    steps = chat.ask("key", None, "Tell me more.")
    next(steps), next(steps)
    chat.leave(SimpleNamespace(session_hash="key"))
    steps.close()
    other = bring("other")
    assert visit.left and not visit.folder.exists() and not other.left
    with room.visits.model(other, "answer"):  # the model is free again
        pass


def test_a_photograph_that_comes_while_its_visitor_leaves_is_not_kept(room, bring, monkeypatch):
    def slow(*args):
        room.visits.leave("key")
        return admit(*args)

    monkeypatch.setattr(serve_chat, "admit", slow)
    with pytest.raises(UserError, match="the visit has ended"):
        bring("key")
    assert not list(room.visits.root.iterdir())


def test_the_stop_of_the_chat_stops_none_of_many_photographs(room, checkpoint, tmp_path):
    file, tables = tmp_path / "eye.png", []
    shutil.copy(checkpoint.photograph, file)
    thread = threading.Thread(target=lambda: tables.extend(step[1] for step in Batch(room).go("key", None, [file])))
    with room.visits.turns:  # the chat answers
        thread.start()
        while not room.visits.turns.waiting:
            time.sleep(0.001)
        Chat(room).stop("key", None)
    thread.join()
    assert "1 of 1" in tables[-1] and "stopped" not in tables[-1]


def test_a_replaced_photograph_is_removed_and_its_conversation_too(room, bring):
    visit = bring("key", "a.png", place="right")
    first = visit.session.conversation.photograph.path
    room.visits.sampling = visit.session.sampling = Sampling(limit=4)
    visit.session.ask("Are there drusen?")
    bring("key", "b.png", 1, place="right")
    assert not first.exists() and visit.session.conversation.answers == []
    assert visit.session.conversation.photograph.path.name == "b.png"


def test_the_file_tells_the_eye_and_may_not_contradict(room, bring):
    visit = bring("key", "patient 7 OD.png")
    assert visit.session.current == "right" and "file name says so" in visit.warnings["right"][0]
    with pytest.raises(UserError, match="right") as caught:
        bring("key", "patient 7 OD.png", place="left")
    assert "/" not in str(caught.value)  # no folder of this machine is told
    assert len([p for p in room.visits.root.rglob("*") if p.is_file()]) == 1
    assert bring("key", "plain.png", 1).session.current == "photograph"


def test_two_eyes_that_look_exchanged_are_drafted_when_that_is_ticked(room, bring, monkeypatch):
    told = iter([EyeSide("left", 0.9), EyeSide("right", 0.9)] * 2)
    monkeypatch.setattr("mdf.inference.draft.eye_side", lambda *args: next(told))
    visit = bring("key", "a.png", place="right")
    bring("key", "b.png", 1, place="left")
    with pytest.raises(UserError) as caught:
        make_draft(room, visit, "ICO 2017")
    said = str(caught.value)
    assert said.startswith("“Right eye” was given as the right eye and “Left eye” as the left, but they look exchanged")
    assert f"or tick “{FORCE}” to go on" in said and "/" not in said and "--" not in said
    report, _ = make_draft(room, visit, "ICO 2017", force=True)
    assert all(any("is it mirrored or mixed up" in f.text for f in eye.flags) for eye in report.eyes)


def test_what_is_no_retina_is_not_kept(room, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (128, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "letter.png")
    with pytest.raises(UserError, match=r"letter is not a fundus photograph .*It was not kept"):
        add(room, "key", str(tmp_path / "letter.png"), "photograph")
    assert not [p for p in room.visits.root.rglob("*") if p.is_file()]
    with pytest.raises(UserError, match="no file was chosen"):
        add(room, "key", None, "photograph")


def test_an_answer_without_a_map_says_so(room, bring):
    visit, chat = bring("key"), Chat(room)
    visit.session.ask("What is the eye pressure?")
    with pytest.raises(UserError, match="there is no map of it"):
        chat.evidence("key", SimpleNamespace(index=0))
    for index in (1, -1, "0", None):
        with pytest.raises(UserError, match="not there any more"):
            chat.evidence("key", SimpleNamespace(index=index))


def test_one_bad_file_never_stops_the_rest(room, checkpoint, tmp_path):
    good, bad, dark = tmp_path / "good.png", tmp_path / "bad.png", tmp_path / "dark.png"
    shutil.copy(checkpoint.photograph, good)
    bad.write_text("<html>")
    pixels = np.asarray(Image.open(checkpoint.photograph).convert("RGB"))
    Image.fromarray((pixels * 0.08).astype(np.uint8)).save(dark)
    *_, (_, table, link, _) = Batch(room).go("key", None, [str(bad), str(good), str(dark)])
    assert "3 of 3" in table and "not a photograph" in table and "photographs.csv" in link
    assert not any(f.exists() for f in (good, bad, dark))
    assert not [p for p in room.visits.root.rglob("*") if p.is_file()]
    for files in ([], [str(tmp_path / f"{i}.png") for i in range(MOST + 1)]):
        with pytest.raises(UserError, match=f"choose 1 to {MOST} photographs"):
            list(Batch(room).go("key", None, files))
