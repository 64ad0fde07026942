"""Which requests are begun, which wait, which are refused, in one turn of the event loop. Pure.

An event loop reads every socket that has something before it does anything else: with many clients
a turn would grow, and everybody's wait with it. So a turn begins few requests, the others stand in
line, and only so many of them are let in. Who comes then is refused. That takes time as well, so a
turn refuses for so long at most, and who is refused later asks again later: refusing cannot take
all of the time, whatever comes (docs/decisions.md has the figures).

A line that is as long as the limit is for a burst, which passes. Where it does not pass, a long
line serves nobody sooner, for work is there without it: so while there are refusals, the line is
what one turn has time to begin.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

#: Requests that may begin as they come, while none waits; more once Redis has answered one.
AT_ONCE = 32
#: Beginning those that wait may take so many seconds of a turn; their answers take some three times
#: as long.
TURN_SECONDS = 0.001
#: Refusing may take so many seconds of a turn; to read what is refused takes as long again.
REFUSING_SECONDS = 0.001
#: Turns without a refusal after which a burst may make the line long again.
REMEMBERED = 8

T = TypeVar("T")


class Line(Generic[T]):
    """The requests of one event loop; `limit` of them are let in at once."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._limit, self._clock = limit, clock
        #: Requests let in and not ended, waiting ones among them.
        self.under_way = 0
        self.waiting: deque[T] = deque()
        #: How many more may begin as they come.
        self.at_once = AT_ONCE
        #: Requests of those that waited that a turn has time to begin.
        self._a_turn = AT_ONCE
        #: Seconds of this turn that refusing has taken, and the refusals that wait for the next.
        self.refusing = 0.0
        self.refusals: deque[Callable[[], None]] = deque()
        #: Turns for which the line stays short.
        self._short = 0

    @property
    def is_full(self) -> bool:
        """Whether the next one is refused."""
        if self.under_way >= self._limit:
            return True
        return self._short > 0 and len(self.waiting) >= self._a_turn

    @property
    def refuses_now(self) -> bool:
        """Whether this turn may refuse one more; what that takes is to be added to `refusing`."""
        return self.refusing < REFUSING_SECONDS and not self.refusals

    def begun(self, count: int) -> None:
        """So many of those that waited were begun in a turn."""
        # By the best of the last turns: one in which the machine did something else says little.
        self._a_turn = max(count, self._a_turn * 15 // 16 if self.waiting else self._a_turn)

    def next_turn(self) -> bool:
        """Refuse those that wait for it; whether another turn is to follow."""
        self._short = REMEMBERED if self.refusing else self._short - 1
        start = now = self._clock()
        while self.refusals and now - start < REFUSING_SECONDS:
            self.refusals.popleft()()
            now = self._clock()
        self.refusing = now - start
        return self._short > 0 or bool(self.refusals)
