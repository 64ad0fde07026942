"""Which requests are begun, which wait, which are refused, in one turn of the event loop. Pure.

An event loop reads every socket that has something before it does anything else: with many clients
a turn would grow, and everybody's wait with it. So a turn begins few requests, the others stand in
line, and only so many of them are let in. Who comes then is refused. That takes time as well, so it
gets half of what all else takes, and who is refused later asks again later: refusing cannot take
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
#: Refusing, and reading what is refused, may take so much of what the rest takes. What a turn
#: leaves of that the next may take, up to so many seconds; and so many in any turn.
REFUSING_SHARE = 0.5
REFUSING_SECONDS = 0.004
LEAST_SECONDS = 0.00025
#: Seconds without a refusal after which a burst may make the line long again.
REMEMBERED_SECONDS = 0.05

T = TypeVar("T")
Soon = Callable[[Callable[[], None]], object]


class Line(Generic[T]):
    """The requests of one event loop; `limit` of them are let in at once.

    `soon` has a function called in the next turn, before anything else that it is given.
    """

    def __init__(
        self, limit: int, soon: Soon, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._limit, self._soon, self._clock = limit, soon, clock
        #: Requests let in and not ended, waiting ones among them.
        self.under_way = 0
        self.waiting: deque[T] = deque()
        #: How many more may begin as they come.
        self.at_once = AT_ONCE
        #: Requests of those that waited that a turn has time to begin.
        self._a_turn = AT_ONCE
        #: Until when this turn refuses and since when, 0 before it does; for how long it may.
        self._until = self._since = 0.0
        self._may_take = REFUSING_SECONDS
        #: When the last turn had refused what waited for it, and the refusals that wait now.
        self._turned_at = 0.0
        self.refusals: deque[Callable[[], None]] = deque()
        #: Whether the next turn is told of.
        self._turning = False

    @property
    def is_full(self) -> bool:
        """Whether the next one is refused."""
        if self.under_way >= self._limit:
            return True
        if len(self.waiting) < self._a_turn:
            return False
        return bool(self._until) or self._clock() - self._turned_at < REMEMBERED_SECONDS

    def refuses_at(self, now: float) -> bool:
        """Whether this turn refuses one more, at `now` by the clock; else it is for `refusals`."""
        if not self._until:
            self._since, self._until = now, now + max(self._may_take, LEAST_SECONDS)
            if not self._turning:
                self._turning = True
                self._soon(self._next_turn)
        return now < self._until and not self.refusals

    def begun(self, count: int) -> None:
        """So many of those that waited were begun in a turn."""
        # By the best of the last turns: one in which the machine did something else says little.
        # Where none is left there was time for more; how many more, the next turns find out.
        a_turn = self._a_turn
        a_turn = a_turn * 15 // 16 if self.waiting else min(a_turn * 17 // 16 + 1, self._limit)
        self._a_turn = max(count, a_turn)

    def _next_turn(self) -> None:
        """Refuse those that wait for it: the sockets are read."""
        now = read = self._clock()
        took = read - self._since if self._until else 0.0
        rest = read - self._turned_at - took
        may_take = min(self._may_take - took + rest * REFUSING_SHARE, REFUSING_SECONDS)
        until = read + max(may_take, LEAST_SECONDS)
        while self.refusals and now < until:
            self.refusals.popleft()()
            now = self._clock()
        self._may_take = max(may_take - (now - read), -REFUSING_SECONDS)
        self._until, self._turned_at = 0.0, now
        # Only where there is work: a loop that goes round for nothing takes time from others.
        self._turning = bool(self.refusals)
        if self._turning:
            self._soon(self._next_turn)
