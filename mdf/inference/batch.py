"""Work on many photographs that can be shared among processes, stopped, and gone on with by the same command.

OUT/batch.json says what is made of what: a command with another model or other options is refused there.
OUT/index.1-of-4.jsonl has a line for each item that process 1 of 4 is through with, {id, status, seconds, at, …}:

    done     its result is whole in OUT
    refused  its photographs can be read, but a person has to decide: no retina, eye sides that contradict each other
    failed   something cannot be read, or broke

What was refused or failed is tried again where that is asked for.

The latest line of an item counts, whichever process wrote it, so that the next command may share the rest among more
processes or fewer. A result is written before its line: what a killed process had begun is done again.
"""

import errno
import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from mdf.errors import UserError
from mdf.files import write_text

DONE, REFUSED, FAILED = "done", "refused", "failed"
PLAN = "batch.json"
AHEAD = 2  # items decoded while the model works on one
IN_A_ROW = 10  # items that break one after the other: then the fault is not theirs
SHOWN = 10  # items that were not done, in one message

T = TypeVar("T")
L = TypeVar("L")
Line = dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """One process of several: every item whose place in the list is `number` modulo `of` is its."""

    number: int = 0  # from 0
    of: int = 1

    def __str__(self) -> str:
        return f"{self.number + 1}-of-{self.of}"

    def share(self, items: Sequence[T]) -> Sequence[T]:
        return items[self.number :: self.of]


def processes(rank: str = "RANK", world: str = "WORLD_SIZE") -> tuple[int, int]:
    """This process's number and how many there are, as a launcher says it. Raises UserError for other values."""
    number, of = os.environ.get(rank, "0"), os.environ.get(world, "1")
    if not (number.isdigit() and of.isdigit() and int(number) < int(of)):
        raise UserError(f"{rank}={number} and {world}={of}: process numbers go from 0 to {world} - 1")
    return int(number), int(of)


def choose_shard(words: str | None = None) -> Shard:
    """The share of this process: "2/4" is the second of four machines, whose processes divide it further; None leaves
    it to the launcher. Raises UserError for other words, and where the launcher spans machines by itself.
    """
    if words is None:
        return Shard(*processes())
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", words)
    number, of = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= of:
        raise UserError(f"--shard {words}: must be I/N with I from 1 to N, such as 1/4 to 4/4 on four machines")
    rank, world = processes()
    local, beside = processes("LOCAL_RANK", "LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in os.environ else (rank, world)
    if beside != world:
        raise UserError(f"--shard {words}: the launcher shares the work among its {world} processes; leave it out")
    return Shard((number - 1) * beside + local, of * beside)


def share_machine(device: str | None) -> str | None:
    """The device of this process, where a launcher started several on a machine with GPUs; on the CPU they share the
    cores.
    """
    import torch

    from mdf.training.devices import choose_threads

    local, beside = os.environ.get("LOCAL_RANK", "0"), os.environ.get("LOCAL_WORLD_SIZE", "1")
    threads = choose_threads(0, int(beside))
    if threads is not None:
        torch.set_num_threads(threads)
    if device is None and torch.cuda.is_available() and int(beside) > 1:
        return f"cuda:{int(local) % torch.cuda.device_count()}"
    return device


def read_plan(out: Path) -> dict[str, Any]:
    """What OUT/batch.json says. Raises UserError where there is none."""
    try:
        return json.loads((out / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{out} holds no batch of results: {PLAN} cannot be read ({error})") from None


def read_lines(out: Path) -> dict[str, Line]:
    """The latest line of each item, by all processes. A line that was cut short by a kill is as good as none."""
    found: dict[str, Line] = {}
    for file in sorted(out.glob("index.*-of-*.jsonl")):
        with file.open(encoding="utf-8", errors="replace") as stream:
            for text in stream:
                try:
                    line = json.loads(text)
                    if line["id"] not in found or found[line["id"]]["at"] <= line["at"]:
                        found[line["id"]] = line
                except (ValueError, KeyError, TypeError):
                    continue
    return found


class Ledger:
    """The lines of one process in the folder `out`, and what all processes there have in common.

    Args:
        plan: everything that decides what the results are; has to be the same for all processes and commands.
    """

    def __init__(self, out: str | Path, plan: Mapping[str, Any], shard: Shard | None = None):
        self.out, self.plan, self.shard = Path(out), dict(plan), shard or Shard()
        self.file = self.out / f"index.{self.shard}.jsonl"

    def begin(self, items: int) -> None:
        """Make the folder, or go on in it. Raises UserError where it holds the results of another plan."""
        from filelock import FileLock

        self.out.mkdir(parents=True, exist_ok=True)
        with FileLock(self.out / ".batch.lock"):
            path = self.out / PLAN
            before = read_plan(self.out) if path.exists() else {"items": None, **self.plan}
            differ = [k for k in dict.fromkeys([*before, *self.plan]) if k != "items"]
            differ = [k for k in differ if before.get(k) != self.plan.get(k)]
            if differ:
                there = "; ".join(f"{k}: {said(before.get(k))}, now {said(self.plan.get(k))}" for k in differ)
                raise UserError(
                    f"{self.out} holds results that were made otherwise ({there}); "
                    "give the same command to go on with them, or another --out"
                )
            if before["items"] != items:  # photographs may be added from one command to the next
                write_text(path, json.dumps({**self.plan, "items": items}, indent=2) + "\n")

    @contextmanager
    def held(self) -> Iterator[None]:
        """This process's lines for itself. Raises UserError where another process writes them."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.out / f".{self.file.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"another process is at work on share {self.shard} in {self.out}; wait for it") from None
        try:
            if self.file.exists() and not self.file.read_bytes().endswith(b"\n"):
                with self.file.open("ab") as stream:  # a kill cut the last line short
                    stream.write(b"\n")
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def write(self, line: Mapping[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({**line, "at": datetime.now(UTC).isoformat()}) + "\n")


def said(value: Any) -> str:
    """A value of a plan; of a long one its beginning."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


@dataclass(frozen=True)
class Outcome:
    """How a command ended: `mine` are the lines of this process's share; of the items of all processes `left` have no
    line and `failed` have failed. `launched`: a launcher started several processes.
    """

    mine: dict[str, Line]
    left: int = 0
    stopped: bool = False
    failed: int = 0
    launched: bool = False

    @property
    def whole(self) -> bool:
        """Whether every item of every process has its line."""
        return not self.left

    def of(self, status: str) -> dict[str, Line]:
        return {id_: line for id_, line in self.mine.items() if line["status"] == status}

    @property
    def code(self) -> int:
        """The exit code: 143 stopped by SIGTERM, 1 something failed, 0 done."""
        from mdf.training.run import STOPPED

        if self.stopped:
            return STOPPED
        if self.launched:  # a launcher ends all processes as soon as one fails: only the last may say so
            return int(self.whole and self.failed > 0)
        return int(bool(self.of(FAILED)))

    def summary(self, noun: str) -> str:
        """What came of it, with the first of those that were not done."""
        counts = [f"{len(self.of(status))} {status}" for status in (DONE, REFUSED, FAILED)]
        lines = [f"{noun}: {', '.join(counts)}" + (", stopped: give the same command to go on" if self.stopped else "")]
        bad = [*self.of(FAILED).values(), *self.of(REFUSED).values()]
        lines += [f"  {line['status']}: {line['id']}: {line.get('reason', '')}" for line in bad[:SHOWN]]
        lines += [f"  … and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
        lines += ["--retry tries again what failed or was refused, once it is mended"] if bad else []
        return "\n".join(lines)


def left(items: Mapping[str, T], ledger: Ledger, again: Callable[[Line], bool]) -> list[str]:
    """Ids of this process's share that have no line, or one that is to be done again."""
    known = read_lines(ledger.out)
    return [id_ for id_ in ledger.shard.share(list(items)) if id_ not in known or again(known[id_])]


def work_through(
    items: Mapping[str, T],
    ledger: Ledger,
    load: Callable[[T], L],
    work: Callable[[T, L], Line],
    *,
    name: str,
    again: Callable[[Line], bool] = lambda line: False,
    size: Callable[[T], int] = lambda item: 1,
) -> Outcome:
    """Do this process's share of what is left, one item after the other, and write down what came of each.

    `load` runs in a thread, AHEAD items before `work`, which returns what is to stand in the item's line. What they
    raise makes the item a failed one, a UserError of `work` a refused one, and the next item follows.

    Args:
        items: by their ids, in an order that is the same for all processes.
        name: what progress is called.
        again: whether an item with this line is done once more.
        size: photographs of an item, which progress counts.
    """
    from mdf.evaluation.photographs import Progress
    from mdf.training.run import stop_signal

    mine = ledger.shard.share(list(items))
    with ledger.held(), stop_signal() as stop, ThreadPoolExecutor(1) as pool:
        todo = left(items, ledger, again)
        if len(todo) < len(mine):
            print(f"{name}: {len(mine) - len(todo)} of {len(mine)} are there already", flush=True)
        progress = Progress(name, sum(size(items[id_]) for id_ in todo))
        waiting: deque = deque()
        broken, stopped = 0, False
        try:
            for number, id_ in enumerate(todo):
                if stop.is_set():
                    stopped = True
                    break
                for ahead in todo[number + len(waiting) : number + 1 + AHEAD]:
                    waiting.append(pool.submit(load, items[ahead]))
                start = time.monotonic()
                line, error = attempt(items[id_], waiting.popleft().result, work)
                ledger.write({"id": id_, **line, "seconds": round(time.monotonic() - start, 3)})
                progress.step(size(items[id_]))
                broken = broken + 1 if error else 0
                if error and broken == IN_A_ROW:
                    print(f"{name}: {broken} items broke one after the other; the fault is not theirs", flush=True)
                    raise error
        finally:
            pool.shutdown(cancel_futures=True)
    lines = read_lines(ledger.out)
    return Outcome(
        mine={id_: lines[id_] for id_ in mine if id_ in lines},
        left=sum(id_ not in lines for id_ in items),
        stopped=stopped,
        failed=sum(lines[id_]["status"] == FAILED for id_ in items if id_ in lines),
        launched=processes()[1] > 1,
    )


def attempt(item: T, loaded: Callable[[], L], work: Callable[[T, L], Line]) -> tuple[Line, Exception | None]:
    """The line of an item, and what broke where that was not the user's to mend. A full disk ends everything."""
    try:
        ready = loaded()
    except UserError as error:
        return {"status": FAILED, "reason": str(error)}, None
    except Exception as error:
        return broke(error)
    try:
        return {"status": DONE, **work(item, ready)}, None
    except UserError as error:
        return {"status": REFUSED, "reason": str(error)}, None
    except Exception as error:
        return broke(error)


def broke(error: Exception) -> tuple[Line, Exception]:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        raise error
    first = (str(error).splitlines() or [""])[0]
    return {"status": FAILED, "reason": f"{type(error).__name__}: {first}"}, error
