"""A limit to wrong passwords: who guesses has to wait, longer with each wrong one; and so has everybody where many do.

Nothing of what was tried is kept, and of who tried a few letters of a hash that tell one from another in the log.
"""

import hashlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger("mdf.serve")

FREE = 5  # wrong passwords of one address before it has to wait
WAIT, LONGEST = 30.0, 3600.0  # seconds after the next one, twice as many after each further one, and at most
OF_ALL = 100  # wrong passwords of all addresses within LONGEST before nobody may try
KNOWN = 10_000  # addresses at a time


class Tries:
    """Ask `wait` before a password is looked at: it counts as wrong until `right` says otherwise, so that many at once
    are no way round.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.wrong: dict[str, tuple[int, float]] = {}  # how many, and until when to wait
        self.latest: deque[float] = deque()  # when the wrong ones of all were said

    def wait(self, who: str) -> int:
        """Whole seconds until `who` may try, 0 where they may now, which counts as a try."""
        now = self.clock()
        while self.latest and self.latest[0] <= now - LONGEST:
            self.latest.popleft()
        count, until = self.wrong.get(who, (0, 0.0))
        if len(self.latest) >= OF_ALL:
            until = max(until, self.latest[0] + LONGEST)
        if until > now:
            return math.ceil(until - now)
        count += 1
        pause = 0.0 if count < FREE else min(WAIT * 2 ** (count - FREE), LONGEST)
        self.wrong[who] = (count, now + pause)
        self.latest.append(now)
        if len(self.wrong) > KNOWN:
            self.wrong.pop(next(iter(self.wrong)))
        return 0

    def right(self, who: str) -> None:
        """The last try of `who` was right: it counts no more."""
        self.wrong.pop(who, None)
        if self.latest:
            self.latest.pop()

    def said(self, who: str, seconds: int) -> None:
        """Write into the log that somebody has to wait."""
        name = hashlib.sha256(who.encode()).hexdigest()[:8]
        log.warning("too many wrong passwords, address %s waits %d s", name, seconds)
