"""Visitors of one model: apart from each other, served in turn, and gone without a trace."""

import threading
import time

import pytest

from mdf.errors import UserError
from mdf.inference.conversation import Sampling
from mdf.inference.predictor import Predictor
from mdf.inference.serve_room import failure, spoken
from mdf.inference.visits import Turns, Visits


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor(checkpoint.run / "best", "cpu")


@pytest.fixture
def visits(predictor):
    visits = Visits(predictor, Sampling(limit=5), most=9)
    yield visits
    visits.close()


def test_a_lock_is_given_in_the_order_in_which_it_was_asked_for():
    turns, order, asked = Turns(), [], []

    def take(number):
        with turns:
            order.append(number)

    with turns:
        threads = [threading.Thread(target=take, args=(i,)) for i in range(5)]
        for i, thread in enumerate(threads):
            thread.start()
            while len(turns.waiting) <= i:
                time.sleep(0.001)
            asked.append(i)
    for thread in threads:
        thread.join()
    assert order == asked and not turns.taken


def test_visitors_at_once_are_not_mixed_up(visits, predictor, checkpoint):
    """Eight, each with a photograph and a question of their own."""
    files = [checkpoint.manifest.path(r.image) for r in checkpoint.manifest.records[:8]]
    kinds = ("microaneurysms", "haemorrhages", "drusen", "hard exudates")
    questions = [f"Are there {kinds[i % 4]}?" for i in range(8)]
    found, errors = {}, []

    def come(i):
        try:
            visit = visits.of(f"key {i}")
            with visits.model(visit, "photograph"):
                visit.session.put("photograph", predictor.read(files[i]))
            for _ in range(2):
                words = list(
                    spoken(visits, visit, "answer", lambda say, stop: visit.session.ask(questions[i], say=say))
                )
            found[i] = visit.session.conversation.answers, words
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=come, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(found) == 8
    for i, (answers, _) in found.items():
        alone = Visits(predictor, Sampling(limit=5))
        visit = alone.of("alone")
        visit.session.put("photograph", predictor.read(files[i]))
        assert [visit.session.ask(questions[i]) for _ in range(2)] == answers
        alone.close()


def test_nothing_is_left_of_a_visit(visits, predictor, checkpoint):
    visit = visits.of("key")
    file = visit.folder / "eye.png"
    file.write_bytes(checkpoint.photograph.read_bytes())
    visit.session.put("photograph", predictor.read(file))
    visits.leave("key")
    assert visit.stop.is_set() and visit.left and not visit.folder.exists() and not visit.session.places
    with pytest.raises(UserError, match="the visit has ended"), visits.model(visit, "answer"):
        pass
    visits.leave("key")  # leaving twice is no harm
    assert visits.of("key") is not visit
    visits.close()
    assert not visits.root.exists()


def test_a_visit_that_nobody_uses_ends(visits):
    visit = visits.of("key")
    visit.used -= visits.idle + 1
    visits.sweep()
    assert visit.left and not visits.visits


def test_more_than_there_is_room_for_are_sent_away(visits):
    for i in range(9):
        visits.of(f"key {i}")
    with pytest.raises(UserError, match="9 people are here already"):
        visits.of("one more")
    with pytest.raises(UserError, match="no session"):
        visits.of(None)


def test_who_leaves_in_the_middle_stops_the_answer(visits):
    visit, seen = visits.of("key"), []

    def work(say, stop):
        while not stop.is_set():
            say("word ")
            time.sleep(0.001)
        seen.append("stopped")

    words = spoken(visits, visit, "answer", work)
    assert next(words).startswith("word")
    words.close()
    with visits.turns:  # the model is free again
        assert seen == ["stopped"]


def test_stopped_while_waiting_is_stopped(visits):
    visit, raised = visits.of("key"), []

    def wait():
        try:
            with visits.model(visit, "answer"):
                raise AssertionError("it was to be stopped")
        except UserError as error:
            raised.append(str(error))

    with visits.turns:
        thread = threading.Thread(target=wait)
        thread.start()
        while not visits.turns.waiting:
            time.sleep(0.001)
        visit.stop.set()
    thread.join()
    assert raised == ["stopped before it began"]


def test_what_is_done_beside_a_conversation_has_a_stop_of_its_own(visits):
    visit, done = visits.of("key"), []

    def beside():
        with visits.model(visit, "one of many", apart=True) as stop:
            done.append((visit.stop.is_set(), stop.is_set()))

    with visits.model(visit, "answer"):
        visit.stop.set()  # before the other one asks for its turn, and while it waits
        thread = threading.Thread(target=beside)
        thread.start()
        while not visits.turns.waiting:
            time.sleep(0.001)
    thread.join()
    assert done == [(True, False)]


def test_the_log_tells_nothing_of_what_a_visitor_brought(visits, predictor, checkpoint, tmp_path, caplog):
    caplog.set_level("INFO", logger="mdf.serve")
    secret = tmp_path / "Jane Doe.png"
    secret.write_bytes(checkpoint.photograph.read_bytes())
    visit = visits.of("session secret")
    with visits.model(visit, "answer"):
        visit.session.put("photograph", predictor.read(secret))
        answer = visit.session.ask("Does Jane Doe have drusen?")
    try:
        raise RuntimeError("Jane Doe")
    except RuntimeError as error:
        shown = failure(error)
    visits.leave("session secret")
    told = caplog.text + shown
    assert visit.name in told and "RuntimeError" in told and "failure" in shown
    for word in ("Jane", "drusen", "secret", answer.text or "drusen"):
        assert word not in told
    assert "Are you there?" in failure(UserError("Are you there?"))  # an error of the visitor's own is shown
