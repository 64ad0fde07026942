"""Who begins, waits and is refused, in a loop whose time is counted and not measured."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

import pytest

from service.line import (
    LEAST_SECONDS,
    REFUSING_SECONDS,
    REFUSING_SHARE,
    REMEMBERED_SECONDS,
    TURN_SECONDS,
    Line,
)

LIMIT = 256


class Loop:
    """Turns of a loop, by a clock that work moves."""

    def __init__(self) -> None:
        self.now = 1.0
        self._soon: list[Callable[[], None]] = []
        self.line: Line[float] = Line(LIMIT, self._soon.append, lambda: self.now)

    def turn(self) -> bool:
        """Call what is to be called in the next turn; whether there was anything."""
        called = list(self._soon)
        self._soon.clear()
        for one in called:
            one()
        return bool(called)


def overload(
    load: float, take: float, refuse: float, connections: int
) -> tuple[list[float], list[float]]:
    """Offer `load` times what is taken at most, over connections with one request each, for 3 s.

    A turn reads what has come and refuses, at `refuse` seconds each of which reading takes half,
    then begins and answers at `take` seconds each. Returns the sorted seconds from a request's
    coming to its answer, of those let in and of those refused; the first second is left out.
    """
    loop = Loop()
    line, begin, end = loop.line, loop.now + 1.0, loop.now + 4.0
    due, idle = loop.now, connections
    sent: deque[float] = deque()
    waited: tuple[list[float], list[float]] = ([], [])

    def answered(came: float, refused: bool) -> None:
        nonlocal idle
        idle += 1
        if loop.now > begin:
            waited[refused].append(loop.now - came)

    def say(came: float) -> None:
        loop.now += refuse / 2
        answered(came, True)

    while loop.now < end:
        while due <= loop.now and idle:
            sent.append(due)
            due, idle = due + take / load, idle - 1
        if not (sent or line.waiting or line.refusals):
            loop.now = due
            continue
        due = max(due, loop.now) if not idle else due
        while sent:
            if not line.is_full:
                line.under_way += 1
                line.waiting.append(sent.popleft())
                continue
            loop.now += refuse / 2
            if line.refuses_at(loop.now):
                say(sent.popleft())
            else:
                line.refusals.append(partial(say, sent.popleft()))
        loop.turn()
        until, begun = loop.now + TURN_SECONDS * 4, []
        while line.waiting and loop.now < until:
            loop.now += take
            begun.append(line.waiting.popleft())
        line.begun(len(begun))
        line.under_way -= len(begun)
        for one in begun:
            answered(one, False)
    return sorted(waited[False]), sorted(waited[True])


def p99(found: list[float]) -> float:
    return found[len(found) * 99 // 100]


@pytest.mark.parametrize("connections", [3 * LIMIT, 2000])
@pytest.mark.parametrize("take", [24e-6, 40e-6, 200e-6, 1e-3])
@pytest.mark.parametrize("refuse", [5e-6, 7e-6, 20e-6])
def test_at_three_times_the_load_most_is_served_and_waits_no_longer(
    take: float, refuse: float, connections: int
) -> None:
    full, few = overload(1.1, take, refuse, connections)
    triple, many = overload(3.0, take, refuse, connections)
    assert len(few) < len(many)
    assert p99(triple) < 2 * p99(full)
    assert len(triple) > 0.6 * len(full)
    if connections == 3 * LIMIT and 4 * refuse < take:
        assert p99(many) < p99(triple)


def test_a_turn_refuses_for_so_long_and_the_others_in_their_order() -> None:
    loop, said = Loop(), list[int]()
    each = REFUSING_SECONDS / 9.5

    def say(number: int) -> None:
        loop.now += each
        said.append(number)

    for number in range(40):
        if loop.line.refuses_at(loop.now):
            say(number)
        else:
            loop.line.refusals.append(partial(say, number))
    turns = [len(said)]
    for rest in (REFUSING_SECONDS / REFUSING_SHARE, REFUSING_SECONDS / REFUSING_SHARE / 2, 0, 0):
        loop.now += rest
        assert loop.turn()
        turns.append(len(said))
    assert each > LEAST_SECONDS
    assert turns == [10, 20, 25, 26, 27]
    assert said == sorted(said)


def test_while_requests_are_refused_the_line_is_what_a_turn_begins() -> None:
    loop = Loop()
    line = loop.line
    line.waiting.extend(range(80))
    line.begun(60)
    line.under_way = LIMIT - 10
    assert not line.is_full, "a burst may wait in a long line"
    line.under_way = LIMIT
    assert line.is_full
    assert line.refuses_at(loop.now)
    loop.now += 1e-6
    assert loop.turn()
    line.under_way = LIMIT - 10
    assert line.is_full
    while len(line.waiting) > 59:
        line.waiting.pop()
    assert not line.is_full
    for _ in range(60):
        line.begun(10)  # of more that waited: there was no time for them
    assert line.is_full
    while len(line.waiting) > 15:
        line.waiting.pop()
    assert line.is_full
    line.waiting.clear()
    line.begun(70)
    line.begun(2)  # of all that waited: a turn has time for more
    line.waiting.extend(range(74))
    assert not line.is_full
    line.waiting.append(1)
    assert line.is_full
    assert not loop.turn(), "a loop goes round for nothing"
    loop.now += REMEMBERED_SECONDS * 0.9
    assert line.is_full
    loop.now += REMEMBERED_SECONDS * 0.2
    assert not line.is_full
