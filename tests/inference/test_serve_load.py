"""Many visitors and many requests: nothing is mixed up, nothing is lost, and memory does not grow."""

import resource
import shutil
import threading
from types import SimpleNamespace

import pytest

from mdf.inference.conversation import Conversation, Sampling
from mdf.inference.predictor import Predictor
from mdf.inference.serve_chat import Chat, add
from mdf.inference.serve_room import Room
from mdf.inference.session import Session
from mdf.inference.visits import Visits

pytest.importorskip("gradio", reason="comes with the extra web")

VISITORS, ROUNDS = 8, 38  # 304 answers
GROWTH = 80_000  # kB that the process may grow by after the first quarter
QUESTIONS = (
    "Are there drusen?",
    "Are there haemorrhages?",
    "What is the diagnosis?",
    "How many microaneurysms are there?",
)


def memory() -> int:
    """Resident memory of this process now, kB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


@pytest.mark.slow
def test_300_requests_of_8_visitors(checkpoint, tmp_path):
    predictor = Predictor(checkpoint.run / "best", "cpu")
    room = Room(Visits(predictor, Sampling(limit=8)))
    chat = Chat(room)
    files = [checkpoint.manifest.path(r.image) for r in checkpoint.manifest.records[:VISITORS]]
    expected = []
    for file in files:
        session = Session(predictor, Sampling(limit=8))
        session.put("photograph", predictor.read(file))
        expected.append(
            [Conversation(predictor, session.conversation.photograph).ask(q, Sampling(limit=8)) for q in QUESTIONS]
        )
    sizes, wrong = [], []

    def visitor(number):
        try:
            for i in range(ROUNDS):
                key = f"{number} {i}"
                upload = tmp_path / f"{number}-{i}.png"
                shutil.copy(files[number], upload)
                add(room, key, str(upload), "photograph")
                question = QUESTIONS[(number + i) % len(QUESTIONS)]
                *_, last = chat.ask(key, None, question)
                said = room.visits.of(key).session.conversation.answers
                if said != [expected[number][(number + i) % len(QUESTIONS)]] or question not in last[0]:
                    wrong.append((number, i))
                chat.leave(SimpleNamespace(session_hash=key))
                if number == 0:
                    sizes.append(memory())
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=visitor, args=(n,)) for n in range(VISITORS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(sizes) == ROUNDS
    assert sizes[-1] - sizes[ROUNDS // 4] < GROWTH, sizes
    assert not room.visits.visits and not list(room.visits.root.iterdir())
    room.visits.close()
