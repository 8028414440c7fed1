"""The visitors of one model: each has a session and a folder of its own, and the model serves one at a time.

What a visitor brought is removed when the visit ends: when the page is left, or after some time without use.
"""

import hashlib
import logging
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdf.errors import UserError
from mdf.inference.conversation import Sampling
from mdf.inference.predictor import Predictor
from mdf.inference.session import Session

log = logging.getLogger("mdf.serve")

IDLE = 30 * 60.0  # seconds without use after which a visit ends
MOST = 64  # visits at a time


class Turns:
    """A lock that is given in the order in which it was asked for."""

    def __init__(self) -> None:
        self.guard, self.waiting, self.taken = threading.Lock(), deque[threading.Event](), False

    def __enter__(self) -> None:
        with self.guard:
            if not self.taken:
                self.taken = True
                return
            mine = threading.Event()
            self.waiting.append(mine)
        mine.wait()

    def __exit__(self, *error: Any) -> None:
        with self.guard:
            if self.waiting:
                self.waiting.popleft().set()  # it stays taken
            else:
                self.taken = False


@dataclass
class Visit:
    """One visitor. Nothing of it outlives `Visits.leave`."""

    name: str  # for the log: of the session's secret nothing can be told from it
    session: Session
    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)  # ends what is being answered
    used: float = field(default_factory=time.monotonic)
    warnings: dict[str, list[str]] = field(default_factory=dict)  # of the photographs, by place
    drafts: dict[str, Any] = field(default_factory=dict)  # what the report tab keeps
    left: bool = False


class Visits:
    """Visits by the page's session."""

    def __init__(self, predictor: Predictor, sampling: Sampling | None = None, idle: float = IDLE, most: int = MOST):
        self.predictor, self.sampling, self.idle, self.most = predictor, sampling or Sampling(), idle, most
        self.root = Path(tempfile.mkdtemp(prefix="mdf-visits-"))  # readable by this user alone
        self.turns, self.guard = Turns(), threading.Lock()
        self.visits: dict[str, Visit] = {}

    def of(self, key: str | None) -> Visit:
        """The visit of a page; a new one where there is none. Raises UserError where there are too many."""
        if not key:
            raise UserError("this page has no session; load it anew")
        self.sweep()
        with self.guard:
            if key not in self.visits:
                if len(self.visits) >= self.most:
                    raise UserError(f"{self.most} people are here already; come back in a while")
                name = hashlib.sha256(key.encode()).hexdigest()[:8]
                folder = Path(tempfile.mkdtemp(dir=self.root))
                self.visits[key] = Visit(name, Session(self.predictor, self.sampling), folder)
                log.info("visit %s begins, %d here", name, len(self.visits))
            visit = self.visits[key]
            visit.used = time.monotonic()
            return visit

    @contextmanager
    def model(self, visit: Visit, what: str, *, apart: bool = False) -> Iterator[threading.Event]:
        """The model for this visitor alone, in turn; yields what the visitor sets to stop. The log says who, what and
        how long, and nothing of what was asked or answered. `apart`: done beside a conversation, whose stop neither
        ends it nor is taken back by it.
        """
        asked = time.monotonic()
        stop = threading.Event() if apart else visit.stop
        stop.clear()
        with self.turns:
            if visit.left:
                raise UserError("the visit has ended")
            if stop.is_set():
                raise UserError("stopped before it began")
            start = time.monotonic()
            try:
                yield stop
            finally:
                visit.used = time.monotonic()
                log.info(
                    "visit %s: %s, %.2f s after %.2f s of waiting", visit.name, what, visit.used - start, start - asked
                )

    def leave(self, key: str | None) -> None:
        """End a visit: what is being answered stops, photographs and conversation are removed."""
        with self.guard:
            visit = self.visits.pop(key or "", None)
        if visit is None:
            return
        visit.left = True
        visit.stop.set()
        visit.session.places.clear()
        visit.session.current = None
        visit.drafts.clear()
        shutil.rmtree(visit.folder, ignore_errors=True)
        log.info("visit %s ends, %d here", visit.name, len(self.visits))

    def sweep(self) -> None:
        """End the visits that nobody uses any more."""
        limit = time.monotonic() - self.idle
        with self.guard:
            old = [key for key, visit in self.visits.items() if visit.used < limit]
        for key in old:
            self.leave(key)

    def close(self) -> None:
        """End all visits."""
        for key in list(self.visits):
            self.leave(key)
        shutil.rmtree(self.root, ignore_errors=True)
