"""Which requests are begun, which wait, which are refused, in one turn of the event loop. Pure.

An event loop reads every socket that has something before it does anything else: with many clients
a turn would grow, and everybody's wait with it. So a turn begins few requests, the others stand in
line, and only so many of them are let in. Who comes then is refused. That takes time as well, so a
turn refuses so many at most, and who is refused later asks again later: refusing cannot take
all of the time, whatever comes (docs/decisions.md has the figures).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

#: Requests that may begin as they come, while none waits; more once Redis has answered one.
AT_ONCE = 32
#: Beginning those that wait may take so many seconds of a turn; their answers take some three times
#: as long.
TURN_SECONDS = 0.001
#: Refusals of a turn: about 1 ms, and twice that where their heads must be parsed.
REFUSALS = 96

T = TypeVar("T")


class Line(Generic[T]):
    """The requests of one event loop; `limit` of them are let in at once."""

    def __init__(self, limit: int) -> None:
        self._limit, self._limit_while_refusing = limit, max(1, limit * 2 // 3)
        #: Requests let in and not ended, waiting ones among them.
        self.under_way = 0
        self.waiting: deque[T] = deque()
        #: How many more may begin as they come.
        self.at_once = AT_ONCE
        #: Refusals of this turn, and those that wait for the next ones.
        self.refused = 0
        self.refusals: deque[Callable[[], None]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether the next one is refused.

        While refusals wait, refusing takes up to a third of the time and the line moves more slowly
        by it: it is shorter then, so that the wait in it stays the same.
        """
        limit = self._limit_while_refusing if self.refusals else self._limit
        return self.under_way >= limit

    def refuse(self, say: Callable[[], None]) -> None:
        """Say so now, or in a later turn."""
        if self.refusals or self.refused >= REFUSALS:
            self.refusals.append(say)
        else:
            self.refused += 1
            say()

    def next_turn(self) -> bool:
        """Refuse those that wait for it; whether another turn is to follow."""
        self.refused = min(len(self.refusals), REFUSALS)
        for _ in range(self.refused):
            self.refusals.popleft()()
        return self.refused > 0
