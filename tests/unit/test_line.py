"""Who begins, waits and is refused, in a loop whose time is counted and not measured."""

from __future__ import annotations

from collections import deque
from functools import partial

import pytest

from service.line import REFUSING_SECONDS, REMEMBERED, TURN_SECONDS, Line

LIMIT, CONNECTIONS = 256, 2000


def overload(load: float, take: float, refuse: float) -> tuple[list[float], int]:
    """Offer `load` times what is taken at most, over connections with one request each, for 3 s.

    A turn reads what has come, refuses at `refuse` seconds each, then begins and answers at `take`
    seconds each. Returns the sorted seconds from a request's coming to its answer, of those let in,
    and how many were refused; the first second is left out.
    """
    line: Line[float] = Line(LIMIT, lambda: now)
    now, due, idle, refused, waited = 0.0, 0.0, CONNECTIONS, 0, []
    sent: deque[float] = deque()

    def say() -> None:
        nonlocal now, idle, refused
        now += refuse
        idle += 1
        refused += now > 1.0

    while now < 4.0:
        while due <= now and idle:
            sent.append(due)
            due, idle = due + take / load, idle - 1
        if not (sent or line.waiting or line.refusals):
            now = due
            continue
        due = max(due, now) if not idle else due
        line.next_turn()
        while sent:
            if line.is_full:
                sent.popleft()
                if line.refuses_now:
                    line.refusing += refuse
                    say()
                else:
                    line.refusals.append(say)
            else:
                line.under_way += 1
                line.waiting.append(sent.popleft())
        until, begun = now + TURN_SECONDS * 4, []
        while line.waiting and now < until:
            now += take
            begun.append(line.waiting.popleft())
        line.begun(len(begun))
        line.under_way -= len(begun)
        idle += len(begun)
        waited += [now - one for one in begun if now > 1.0]
    return sorted(waited), refused


def p99(found: list[float]) -> float:
    return found[len(found) * 99 // 100]


@pytest.mark.parametrize("take", [40e-6, 200e-6, 1e-3])
@pytest.mark.parametrize("refuse", [5e-6, 11e-6, 20e-6])
def test_at_three_times_the_load_most_is_served_and_waits_no_longer(
    take: float, refuse: float
) -> None:
    full, few = overload(1.1, take, refuse)
    triple, many = overload(3.0, take, refuse)
    assert few < many
    assert p99(triple) < 1.4 * p99(full)
    assert len(triple) > 0.7 * len(full)


def test_a_turn_refuses_for_so_long_and_the_others_in_their_order() -> None:
    now, said = 0.0, list[int]()
    line: Line[int] = Line(LIMIT, lambda: now)
    each = REFUSING_SECONDS / 9.5

    def say(number: int) -> None:
        nonlocal now
        now += each
        said.append(number)

    for number in range(25):
        if line.refuses_now:
            say(number)
            line.refusing += each
        else:
            line.refusals.append(partial(say, number))
    turns = [len(said)]
    while line.refusals:
        assert line.next_turn()
        turns.append(len(said))
    assert turns == [10, 20, 25]
    assert said == sorted(said)


def test_while_requests_are_refused_the_line_is_what_a_turn_begins() -> None:
    line: Line[int] = Line(100)
    line.waiting.extend(range(80))
    line.begun(60)
    line.under_way = 90
    assert not line.is_full, "a burst may wait in a long line"
    line.under_way = 100
    assert line.is_full
    line.refusing = 1e-6
    assert line.next_turn()
    line.under_way = 90
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
    line.waiting.extend(range(69))
    assert not line.is_full
    line.waiting.append(1)
    assert line.is_full
    for _ in range(REMEMBERED - 1):
        assert line.next_turn()
        assert line.is_full
    assert not line.next_turn()
    assert not line.is_full
