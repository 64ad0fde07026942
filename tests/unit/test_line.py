"""Who begins, waits and is refused, in a loop whose time is counted and not measured."""

from __future__ import annotations

from collections import deque

import pytest

from service.line import REFUSALS, REMEMBERED, TURN_SECONDS, Line

LIMIT, CONNECTIONS = 256, 2000


def overload(load: float, take: float, refuse: float) -> tuple[list[float], int]:
    """Offer `load` times what is taken at most, over connections with one request each, for 3 s.

    A turn reads what has come, refuses at `refuse` seconds each, then begins and answers at `take`
    seconds each. Returns the sorted seconds from a request's coming to its answer, of those let in,
    and how many were refused; the first second is left out.
    """
    line: Line[float] = Line(LIMIT)
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
                    line.refused += 1
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


def refuse(line: Line[int], said: list[int], number: int) -> None:
    if line.refuses_now:
        line.refused += 1
        said.append(number)
    else:
        line.refusals.append(lambda: said.append(number))


def test_a_turn_refuses_so_many_and_the_others_in_their_order() -> None:
    line: Line[int] = Line(LIMIT)
    said: list[int] = []
    for number in range(2 * REFUSALS + 1):
        refuse(line, said, number)
    turns = [len(said)]
    while line.refusals:
        assert line.next_turn()
        turns.append(len(said))
    assert turns == [REFUSALS, 2 * REFUSALS, 2 * REFUSALS + 1]
    assert said == sorted(said)


def test_while_requests_are_refused_the_line_is_what_a_turn_begins() -> None:
    line: Line[int] = Line(9)
    line.waiting.extend(range(8))
    line.begun(3)  # of more that waited: there was no time for them
    line.under_way = 8
    assert not line.is_full, "a burst may wait in a long line"
    line.under_way = 9
    assert line.is_full
    refuse(line, [], 1)
    line.next_turn()
    line.under_way = 8
    assert line.is_full
    while len(line.waiting) > 2:
        line.waiting.pop()
    assert not line.is_full
    line.waiting.clear()
    line.begun(2)  # of all that waited: a turn may have time for more
    line.waiting.extend(range(2))
    assert not line.is_full
    line.waiting.append(3)
    assert line.is_full
    for _ in range(REMEMBERED - 1):
        assert line.next_turn()
        assert line.is_full
    assert not line.next_turn()
    assert not line.is_full
