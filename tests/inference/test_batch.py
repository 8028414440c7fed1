"""Work on many items: shared, stopped, gone on with, and never stopped by one of them. No model is needed for that."""

import errno
import json
import os
import signal

import pytest

from mdf.errors import UserError
from mdf.inference.batch import AHEAD, IN_A_ROW, Ledger, Shard, choose_shard, read_lines, work_through
from mdf.training.run import STOPPED

ITEMS = {f"eye {n}": n for n in range(12)}
PLAN = {"made": "squares", "checkpoint": "run 1234"}


class Squares:
    """Writes the square of each number into a file; what was worked on, and how far loading went ahead."""

    def __init__(self, out):
        self.out, self.loaded, self.worked, self.ahead = out, 0, [], 0

    def load(self, number):
        self.loaded += 1
        return number

    def work(self, number, loaded):
        assert number == loaded
        self.worked.append(number)
        self.ahead = max(self.ahead, self.loaded - len(self.worked))
        (self.out / f"{number}.txt").write_text(str(number**2))
        return {"square": number**2}


def go(out, squares=None, *, items=ITEMS, shard=None, retry=False, plan=PLAN, load=None, work=None):
    squares = squares or Squares(out)
    ledger = Ledger(out, plan, shard)
    ledger.begin(len(items))
    return work_through(
        items,
        ledger,
        load or squares.load,
        work or squares.work,
        name="squares",
        again=lambda line: retry and line["status"] == "failed",
    )


def results(out):
    """All that is in a folder but times: files, and what the lines say."""
    lines = {i: {k: v for k, v in line.items() if k not in ("at", "seconds")} for i, line in read_lines(out).items()}
    return lines, {p.name: p.read_text() for p in out.glob("*.txt")}


def test_every_item_gets_its_result_and_a_line(tmp_path):
    outcome = go(tmp_path)
    assert outcome.code == 0 and outcome.whole and list(outcome.mine) == list(ITEMS)
    lines, files = results(tmp_path)
    assert lines["eye 3"] == {"id": "eye 3", "status": "done", "square": 9} and files["3.txt"] == "9"
    assert json.loads((tmp_path / "batch.json").read_text()) == {**PLAN, "items": 12}


def test_shards_together_make_what_one_process_makes(tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    go(alone)
    for number in (2, 0):
        assert not go(shared, shard=Shard(number, 3)).whole
    last = go(shared, shard=Shard(1, 3))
    assert last.whole and last.mine.keys() == {"eye 1", "eye 4", "eye 7", "eye 10"}
    assert results(shared) == results(alone)
    assert {p.name for p in shared.glob("index.*.jsonl")} == {f"index.{n}-of-3.jsonl" for n in (1, 2, 3)}


def test_a_killed_process_goes_on_and_makes_what_was_never_stopped(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    go(whole)
    first = Squares(killed)

    def dies(number, loaded):
        if number == 5:
            raise KeyboardInterrupt
        return first.work(number, loaded)

    with pytest.raises(KeyboardInterrupt):
        go(killed, work=dies)
    index = killed / "index.1-of-1.jsonl"
    index.write_bytes(index.read_bytes()[:-20])  # and the last line was not written to its end
    second = Squares(killed)
    assert go(killed, second).whole
    assert first.worked == [0, 1, 2, 3, 4] and second.worked == list(range(4, 12))
    assert results(killed) == results(whole)


def test_sigterm_ends_after_the_present_item(tmp_path):
    squares = Squares(tmp_path)

    def asked_to_stop(number, loaded):
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return squares.work(number, loaded)

    before = signal.getsignal(signal.SIGTERM)
    outcome = go(tmp_path, squares, work=asked_to_stop)
    assert outcome.stopped and outcome.code == STOPPED == 143 and not outcome.whole
    assert squares.worked == [0, 1, 2, 3] and "same command to go on" in outcome.summary("squares")
    assert signal.getsignal(signal.SIGTERM) == before
    assert go(tmp_path, squares).code == 0 and squares.worked == list(range(12))


def test_sigterm_during_the_last_item_changes_nothing(tmp_path):
    outcome = go(tmp_path, items={"eye": 1}, work=lambda number, loaded: os.kill(os.getpid(), signal.SIGTERM) or {})
    assert outcome.code == 0 and outcome.whole


def test_one_bad_item_is_listed_with_its_reason_and_stops_nothing(tmp_path):
    squares = Squares(tmp_path)

    def load(number):
        if number == 1:
            raise UserError("photograph 1.jpg: damaged or cut short")
        if number == 2:
            raise ZeroDivisionError("division by zero")
        return number

    def work(number, loaded):
        if number == 3:
            raise UserError("which eye is it?")
        if number == 4:
            raise RuntimeError("out of memory\nand more")
        return squares.work(number, number)

    outcome = go(tmp_path, load=load, work=work)
    assert outcome.code == 1 and outcome.whole and squares.worked == [0, *range(5, 12)]
    told = {id_: (line["status"], line["reason"]) for id_, line in outcome.mine.items() if line["status"] != "done"}
    assert told == {
        "eye 1": ("failed", "photograph 1.jpg: damaged or cut short"),
        "eye 2": ("failed", "ZeroDivisionError: division by zero"),
        "eye 3": ("refused", "which eye is it?"),
        "eye 4": ("failed", "RuntimeError: out of memory"),
    }
    summary = outcome.summary("squares")
    assert "8 done, 1 refused, 3 failed" in summary and "failed: eye 1: photograph 1.jpg" in summary
    again = Squares(tmp_path)
    assert go(tmp_path, again).code == 1 and again.worked == []  # nothing is tried again by itself
    assert go(tmp_path, again, retry=True).code == 0 and again.worked == [1, 2, 4]


def test_a_bad_item_of_one_process_does_not_let_a_launcher_end_the_others(tmp_path, monkeypatch):
    def work(number, loaded):
        if number == 0:
            raise RuntimeError("broken")
        return {}

    no_launcher(monkeypatch, {"RANK": "0", "WORLD_SIZE": "2"})
    assert go(tmp_path, shard=choose_shard(), work=work).code == 0  # else all are ended
    no_launcher(monkeypatch, {"RANK": "1", "WORLD_SIZE": "2"})
    assert go(tmp_path, shard=choose_shard(), work=work).code == 1  # the last one speaks for all


def test_a_fault_that_is_not_the_photographs_ends_the_work(tmp_path):
    def broken(number, loaded):
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        go(tmp_path, work=broken)
    assert len(read_lines(tmp_path)) == IN_A_ROW


def test_a_full_disk_ends_the_work_and_blames_no_photograph(tmp_path):
    def full(number, loaded):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        go(tmp_path, work=full)
    assert read_lines(tmp_path) == {}


def test_little_is_decoded_ahead(tmp_path):
    squares = Squares(tmp_path)
    go(tmp_path, squares, items={str(n): n for n in range(200)})
    assert len(squares.worked) == 200 and squares.ahead <= AHEAD


def test_more_or_fewer_processes_go_on_with_the_same_work(tmp_path):
    squares = Squares(tmp_path)
    go(tmp_path, squares, shard=Shard(0, 4))
    assert go(tmp_path, squares).whole
    assert sorted(squares.worked) == list(range(12))


def test_items_may_be_added(tmp_path):
    go(tmp_path)
    squares = Squares(tmp_path)
    assert go(tmp_path, squares, items={"eye -1": -1, **ITEMS}).whole and squares.worked == [-1]
    assert json.loads((tmp_path / "batch.json").read_text())["items"] == 13


def test_another_checkpoint_or_option_is_refused_in_one_message(tmp_path):
    go(tmp_path)
    before = results(tmp_path)
    with pytest.raises(
        UserError, match=r"made otherwise \(checkpoint: run 1234, now run 5678\); give the same command"
    ):
        go(tmp_path, plan={**PLAN, "checkpoint": "run 5678"})
    with pytest.raises(UserError, match=r"\(eye: null, now left\)"):
        go(tmp_path, plan={**PLAN, "eye": "left"})
    assert results(tmp_path) == before


def test_two_processes_do_not_share_a_share(tmp_path):
    ledger = Ledger(tmp_path, PLAN, Shard(0, 2))
    ledger.begin(12)
    with ledger.held():
        with pytest.raises(UserError, match="another process is at work on share 1-of-2"):
            go(tmp_path, shard=Shard(0, 2))
        assert go(tmp_path, shard=Shard(1, 2)).code == 0
    assert go(tmp_path, shard=Shard(0, 2)).whole


@pytest.mark.parametrize(
    ("words", "launcher", "shard"),
    [
        (None, {}, Shard(0, 1)),
        ("2/4", {}, Shard(1, 4)),
        (None, {"RANK": "3", "WORLD_SIZE": "8"}, Shard(3, 8)),
        ("2/4", {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, Shard(3, 8)),
    ],
)
def test_the_share_is_named_by_hand_or_by_the_launcher(monkeypatch, words, launcher, shard):
    no_launcher(monkeypatch, launcher)
    assert choose_shard(words) == shard


@pytest.mark.parametrize(
    ("words", "launcher", "said"),
    [
        ("0/4", {}, "--shard 0/4: must be I/N"),
        ("5/4", {}, "I from 1 to N"),
        ("half", {}, "--shard half"),
        (None, {"RANK": "2", "WORLD_SIZE": "2"}, "WORLD_SIZE=2"),
        ("1/2", {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}, "leave it out"),
    ],
)
def test_a_share_that_cannot_be_is_refused(monkeypatch, words, launcher, said):
    no_launcher(monkeypatch, launcher)
    with pytest.raises(UserError, match=said):
        choose_shard(words)


def no_launcher(monkeypatch, environment):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
