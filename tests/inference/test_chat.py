"""Conversations about photographs: what is remembered, left out, stopped, said again and kept apart."""

import errno
import os
import signal
import threading

import numpy as np
import pytest
from PIL import Image

from mdf.errors import UserError
from mdf.imaging.eye_side import eye_side
from mdf.imaging.phantom import draw
from mdf.inference.chat import converse, interruptible
from mdf.inference.conversation import Conversation, Sampling
from mdf.inference.gate import BANNER
from mdf.inference.report import Origin
from mdf.inference.session import ALONE, Session, describe, describe_point, difference
from tests.inference.talker import talker
from tests.scripts import run

DIAGNOSIS = "What is the diagnosis?"
SHORT = Sampling(limit=6)


@pytest.fixture(scope="module")
def predictor(checkpoint):
    """That says nothing but letters, without end: a model that learnt nothing would only say ends and blanks."""
    return talker(checkpoint)


@pytest.fixture(scope="module")
def photographs(checkpoint, predictor):
    """Two phantoms."""
    files = [checkpoint.manifest.path(r.image) for r in checkpoint.manifest.records]
    return predictor.read(files[0]), predictor.read(files[1])


@pytest.fixture
def conversation(predictor, photographs):
    return Conversation(predictor, photographs[0])


@pytest.fixture
def session(predictor, photographs):
    """One photograph."""
    session = Session(predictor, SHORT)
    session.put("photograph", photographs[0])
    return session


def talk(session, *lines, **kwargs):
    """The lines typed in a conversation; a callable is done where a line is asked for."""
    rest = iter([*lines, "/quit"])
    converse(session, read_line=lambda prompt: next(rest), **kwargs)


def test_both_sides_are_remembered_until_it_is_told_to_forget(conversation):
    first = conversation.ask(DIAGNOSIS, SHORT)
    second = conversation.ask("Are there drusen?", SHORT)
    assert [t.content for t in second.history[1:]] == [DIAGNOSIS, first.text]
    conversation.reset()
    assert conversation.ask(DIAGNOSIS, SHORT) == first


def test_the_same_question_gets_the_same_answer_at_temperature_0(conversation):
    first = conversation.ask(DIAGNOSIS, SHORT)
    again = conversation.again(SHORT)
    assert again.text == first.text and again.reading == first.reading and again.tries == 2
    assert conversation.answers == [again]
    with pytest.raises(UserError, match="nothing was asked yet"):
        Conversation(conversation.predictor, conversation.photograph).again()


def test_a_temperature_draws_and_a_seed_repeats(conversation):
    def drawn(seed, tries=1):
        conversation.reset()
        return conversation.ask("Tell me more.", Sampling(1.5, seed, 12), tries=tries).text

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1, tries=2) != drawn(1)  # another try is another draw
    for wrong in ({"temperature": 3.0}, {"temperature": float("nan")}, {"limit": 0}, {"seed": -1}, {"window": -5}):
        with pytest.raises(UserError):
            Sampling(**wrong)


def test_what_the_window_has_no_room_for_is_left_out_and_said(conversation):
    questions = [f"What do you see in part {i} of it?" for i in range(4)]
    encode = conversation.predictor.processor.encode
    for question in questions:
        answer = conversation.ask(question, SHORT)
        assert answer.dropped == ()
    window = len(encode(list(answer.history)).input_ids) + 2
    tight = conversation.ask(DIAGNOSIS, Sampling(limit=6, window=window))
    assert tight.dropped and list(tight.dropped) == questions[: len(tight.dropped)]
    assert questions[0] not in [t.content for t in tight.history]
    assert any("Beyond the model's window" in note and questions[0] in note for note in tight.notes)
    assert len(conversation.answers) == 5  # the reader keeps all of it
    with pytest.raises(UserError, match="that the model sees at once; shorten it"):
        conversation.ask("word " * 400, Sampling(limit=6, window=window))
    assert len(conversation.answers) == 5


def test_an_answer_can_be_stopped_and_what_there_is_of_it_is_kept(conversation):
    stop, heard = threading.Event(), []

    def say(text):
        heard.append(text)
        stop.set()

    answer = conversation.ask("Describe this photograph.", Sampling(limit=60), say=say, stop=stop)
    assert answer.stopped and "Stopped before its end." in answer.notes
    whole = Conversation(conversation.predictor, conversation.photograph).ask(
        "Describe this photograph.", Sampling(limit=60)
    )
    assert len(answer.text) < len(whole.text) and whole.text.startswith(answer.text)
    assert "".join(heard).strip() == answer.text


def test_ctrl_c_stops_the_answer_and_not_the_program(session, capsys):
    before = signal.getsignal(signal.SIGINT)  # ignored where the tests run in the background
    with interruptible() as stop:

        def press(text):
            if not stop.is_set():
                os.kill(os.getpid(), signal.SIGINT)

        answer = session.ask("Describe this photograph.", say=press, stop=stop)
    assert answer.stopped
    assert signal.getsignal(signal.SIGINT) is before
    with interruptible():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):  # the second one is as ever
            os.kill(os.getpid(), signal.SIGINT)
    presses = iter([KeyboardInterrupt, EOFError])

    def read_line(prompt):
        raise next(presses)

    converse(session, read_line=read_line)
    assert "ends the conversation" in capsys.readouterr().out


def test_a_question_of_the_prompts_gets_the_probability_of_each_answer(session):
    answer = session.ask("are there Hemorrhages")
    assert answer.asked and (answer.asked.kind, answer.asked.subject) == ("presence", "haemorrhage")
    assert answer.reading and set(answer.reading.probabilities) == {"Yes.", "No."}
    assert sum(answer.reading.probabilities.values()) == pytest.approx(1)
    mine = session.predictor.presence(session.conversation.photograph)["haemorrhage"]
    assert answer.reading.probabilities["Yes."] == pytest.approx(mine, abs=1e-4)  # as in the report
    assert "probabilities, not calibrated: " in describe(answer)[0]

    diagnosis = session.ask("Which disease does this photograph show?")
    truth = session.predictor.diagnose(session.conversation.photograph)
    assert diagnosis.reading
    assert list(diagnosis.reading.probabilities.values()) == pytest.approx(list(truth.values()), abs=1e-4)

    count = session.ask("How many drusen are there?")
    assert count.reading and count.reading.present is not None
    free = session.ask("What would a colleague say?")
    assert free.reading is None and any("no probabilities" in line for line in describe(free))


def test_what_no_photograph_tells_is_said_by_a_rule(session, capsys):
    answer = session.ask("What is the eye pressure in this eye?")
    assert answer.origin == Origin.RULE and answer.text.startswith("This cannot be told from this photograph")
    assert "tonometry" in answer.text and any("the model was not asked" in line for line in describe(answer))
    talk(session, "/maps somewhere")
    assert "there is no map of it" in capsys.readouterr().out


def test_an_operating_point_is_shown_and_applied(predictor, photographs):
    from mdf.evaluation.operating_point import OperatingPoint

    session = Session(predictor, SHORT)
    assert "No operating point" in describe_point(session.point)[0]
    classes = predictor.processor.diagnoses
    session.point = OperatingPoint(classes, 2.0, {"normal": 0.0, "amd": 1.0}, 1.0, "", 8)
    session.put("photograph", photographs[0])
    told = "\n".join(describe_point(session.point))
    assert "temperature 2.00" in told and "normal fundus 0.00" in told and "confidence of 1.00" in told
    answer = session.ask(DIAGNOSIS)
    raw = predictor.diagnose(photographs[0])
    assert answer.reading and answer.reading.calibrated and answer.reading.abstains
    assert max(answer.reading.probabilities.values()) < max(raw.values())
    line = describe(answer)[0]
    assert "(threshold 0.00: yes)" in line and "(threshold 1.00: no)" in line
    assert any("Not sure enough" in note for note in answer.notes)


def test_photographs_in_their_places_do_not_mix(predictor, photographs):
    session = Session(predictor, SHORT)
    session.put("right", photographs[0])
    session.put("left", photographs[1])
    left = session.ask("Describe this photograph.")
    assert session.places["right"].answers == []
    session.turn_to("right")
    right = session.ask("Describe this photograph.")
    alone = [Conversation(predictor, p).ask("Describe this photograph.", SHORT) for p in photographs]
    assert [right, left] == alone
    with pytest.raises(UserError, match="no photograph for “Earlier visit”"):
        session.turn_to("earlier")
    with pytest.raises(UserError, match="no place"):
        session.put("middle", photographs[0])
    answers = dict(session.ask_each(DIAGNOSIS))
    assert list(answers) == ["right", "left"]
    lines = difference(answers)
    assert lines[-1] == ALONE and "likeliest answer. Right eye: " in lines[0] and "Left eye: " in lines[0]
    session.put("right", photographs[1])
    assert session.conversation.answers == []  # another photograph, another conversation


def test_the_wrong_eye_and_the_same_picture_twice_are_said(predictor, tmp_path):
    phantom = next(p for p in map(draw, range(25)) if eye_side(p.image).side)
    Image.fromarray(phantom.image).save(tmp_path / "eye.png")
    photograph = predictor.read(tmp_path / "eye.png")
    other = "left" if phantom.eye == "right" else "right"
    session = Session(predictor, SHORT)
    assert session.put(phantom.eye, photograph) == []
    warnings = session.put(other, photograph)
    assert any(f"looks like a {phantom.eye} one" in w for w in warnings)
    assert any("the same picture" in w for w in warnings)


def test_wrong_words_are_said_and_the_conversation_goes_on(session, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 255, size=(128, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "letter.png")
    (tmp_path / "there.md").write_text("mine")
    talk(
        session, "", "/image", f"/image {tmp_path / 'letter.png'}", "/what", "<filename>", "/left", "/again", "/maps m",
        f"/save {tmp_path / 'there.md'}", f"/save {tmp_path / 'no' / 'where.md'}", "/point", "/reset", DIAGNOSIS,
    )  # fmt: skip
    out = capsys.readouterr().out
    assert out.startswith(BANNER) and (tmp_path / "there.md").read_text() == "mine"
    for part in (
        "/image needs a word more", "not a fundus photograph", "stands for the photograph", "no photograph for",
        "nothing was asked yet, so that there is nothing to answer", "so that there is nothing to show",
        "is there already", "is no folder", "No operating point", "forgotten", "probabilities",
    ):  # fmt: skip
        assert part in out, part
    converse(session, read_line=lambda prompt: (_ for _ in ()).throw(EOFError))  # end of input ends it


def test_maps_of_the_last_answer(session, tmp_path, capsys):
    talk(session, DIAGNOSIS, f"/maps {tmp_path / 'maps'}")
    assert (tmp_path / "maps" / "mean.png").is_file() and "mean.png" in capsys.readouterr().out


def test_stale_masks_are_left_out_and_that_is_said(session, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(session.predictor.model.config, "stale_masks", True)
    talk(session, DIAGNOSIS, f"/maps {tmp_path / 'maps'}")
    out = capsys.readouterr().out
    assert "The masks are left out" in out and "masks.png" not in out and (tmp_path / "maps" / "mean.png").is_file()


def test_a_place_that_cannot_be_written_ends_no_conversation(session, tmp_path, capsys, monkeypatch):
    def full(*args, **how):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr("mdf.inference.explain.explain", full)
    with monkeypatch.context() as closed:
        closed.setattr("mdf.inference.chat.os.access", lambda path, mode: False)
        talk(session, DIAGNOSIS, f"/save {tmp_path / 't.md'}", f"/maps {tmp_path}", "Are there drusen?")
    out = capsys.readouterr().out
    assert f"error: {tmp_path} may not be written into" in out and "No space left" in out
    assert len(session.conversation.answers) == 2


def test_a_transcript_whose_name_was_taken_meanwhile_gets_a_number(session, tmp_path, capsys):
    (tmp_path / "t-2.md").write_text("mine")
    file = tmp_path / "t.md"
    talk(session, DIAGNOSIS, f"/save {file}", "Are there drusen?", save_to=file)
    assert f"transcript: {tmp_path / 't-3.md'}" in capsys.readouterr().out
    assert "Are there drusen?" in (tmp_path / "t-3.md").read_text() and "drusen" not in file.read_text()
    assert (tmp_path / "t-2.md").read_text() == "mine"


def test_a_transcript_is_a_draft_and_is_written_only_when_asked(session, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    talk(session, DIAGNOSIS)
    assert not list(tmp_path.iterdir())
    talk(session, "/both Are there drusen?", f"/save {tmp_path / 'one.md'}", save_to=tmp_path / "two.md")
    text = (tmp_path / "one.md").read_text()
    assert text == (tmp_path / "two.md").read_text()
    assert text.startswith(f"> **{BANNER}**") and "Not signed by anybody" in text
    assert DIAGNOSIS in text and "Are there drusen?" in text and "(draft)" in text
    assert str(session.conversation.photograph.path.parent) not in text


def test_the_script_refuses_what_does_not_fit_together(checkpoint, tmp_path, capsys):
    (tmp_path / "there.md").write_text("mine")
    given = ["--checkpoint", checkpoint.run]
    eye = ["--image", checkpoint.photograph]
    for words, said in (
        ([], "there is no photograph"),
        ([*eye, "--left", checkpoint.photograph, "--ask", "Why?"], "about one photograph"),
        ([*eye, "--maps", "m"], "goes with --ask"),
        ([*eye, "--temperature", 5], "temperature must be from 0"),
        ([*eye, "--save", tmp_path / "there.md"], "is there already"),
        ([*eye, "--save", tmp_path / "no" / "t.md"], "is no folder"),
    ):
        assert run("chat.py", *given, *words) == 2
        assert said in capsys.readouterr().err


def test_the_script_writes_a_transcript_of_one_question(checkpoint, tmp_path, capsys):
    out = tmp_path / "t.md"
    words = ["--right", checkpoint.photograph, "--ask", DIAGNOSIS, "--save", out, "--max-tokens", 5]
    assert run("chat.py", "--checkpoint", checkpoint.run, *words) == 0
    printed = capsys.readouterr()
    assert DIAGNOSIS in out.read_text() and "probabilities" in printed.err and "probabilities" not in printed.out
