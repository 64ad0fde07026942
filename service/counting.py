"""The loops that count usual requests in one call. Pure.

A call into compiled code costs as much as four additions from Python to a worker's block; such a
request takes over twenty.
"""

from __future__ import annotations

import numpy as np
from numba import njit

#: Upper edges of the histograms of times that requests and stores take, and of ages; seconds.
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
AGES = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0, 604800.0, 2592000.0)
#: Of the histogram of entities in a request.
ENTITIES = (1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 10000.0)

#: So many ages since 1970, in microseconds, are less than an integer can be.
_NO_OVERFLOW = 4_096

_SECONDS, _AGES, _ENTITIES = np.array(SECONDS), np.array(AGES), np.array(ENTITIES)


@njit(cache=True, error_model="numpy", inline="always")
def _bucket(edges, value):
    bucket = 0
    while bucket < edges.shape[0] and value > edges[bucket]:
        bucket += 1
    return bucket


@njit(cache=True, error_model="numpy", inline="always")
def _observe(numbers, place, edges, value):
    """Add a value to the histogram at a place: its bucket's count, and the sum behind them."""
    numbers[place + _bucket(edges, value)] += 1
    total = place + edges.shape[0] + 1
    numbers[total : total + 1].view(np.float64)[0] += value


@njit(cache=True, error_model="numpy", inline="always")
def _count_use(numbers, place, requests, entities, now_us):
    """Add requests to a caller's (`service.uses`), unless the place is less than 0."""
    if place >= 0:
        numbers[place] += requests
        numbers[place + 1] += entities
        numbers[place + 2] = now_us // 1_000_000


@njit(cache=True, error_model="numpy", inline="always")
def _count_ages(numbers, place, now_us, event_us):
    """Add the ages of event times (0: none) to the histogram at a place."""
    n, sum_of_all = event_us.shape[0], 0.0
    # Mostly all are in one bucket, which two of them tell.
    first, last, sum_of_us = np.int64(now_us), np.int64(0), np.int64(0)
    for i in range(n):
        first, last = min(first, event_us[i]), max(last, event_us[i])
        sum_of_us += now_us - event_us[i]
    bucket = _bucket(_AGES, (now_us - last) / 1e6)
    if first > 0 and last <= now_us and n <= _NO_OVERFLOW and bucket == _bucket(
        _AGES, (now_us - first) / 1e6
    ):  # fmt: skip
        numbers[place + bucket] += n
        sum_of_all = sum_of_us / 1e6
    else:
        for i in range(n):
            if event_us[i]:
                age = max(now_us - event_us[i], 0) / 1e6
                sum_of_all += age
                numbers[place + _bucket(_AGES, age)] += 1
    total = place + _AGES.shape[0] + 1
    numbers[total : total + 1].view(np.float64)[0] += sum_of_all


@njit(cache=True, error_model="numpy")
def count_request(
    numbers, note, place, entities_place, use, n, now_us, answered, event_us, read_seconds, seconds
):  # fmt: skip
    """Add a request that has ended: its times, its n entities to a caller's; and where it was
    `answered`, how many entities, to the histogram at a place, what was asked for and how old it
    is, of event_us [views, n], as `note` says. The rest is as for `count_singles`."""
    _observe(numbers, note[0], _SECONDS, read_seconds)
    _observe(numbers, place, _SECONDS, seconds)
    _count_use(numbers, use, 1, n, now_us)
    if not answered:
        return
    views = 4 + note[2]
    _observe(numbers, entities_place, _ENTITIES, float(n))
    for at in range(4, views):
        numbers[note[at]] += n
    for v in range(event_us.shape[0]):
        _count_ages(numbers, note[views + 3 * v], now_us, event_us[v])


@njit(cache=True, error_model="numpy")
def count_singles(
    numbers, note, place, use, error, now_us, begun, n, read_at, ended_at, event_us, status, nulls,
    sizes,
):  # fmt: skip
    """Add n requests for one entity each, answered together, to a block of numbers.

    note: the place of the histogram of the store's times, that of the count of such requests; how
    many places grow by one a request, how many views there are; these places; of each view the
    place of the histogram of ages, its first row in `status`, whether it has packed rows; of each
    feature the place of its codes. place: of the histogram of the requests' times. use: of a
    caller's requests, entities and last time, or less than 0. `error` stands for a row that is held
    and was not read. begun: when each request came and when the store was asked, seconds. event_us
    [views, n]; status [features, n], of which `nulls` are not PRESENT; sizes [views * n] of what
    the store held.
    """
    for i in range(n):
        _observe(numbers, note[0], _SECONDS, read_at - begun[2 * i + 1])
        _observe(numbers, place, _SECONDS, ended_at - begun[2 * i])
    numbers[note[1]] += n
    _count_use(numbers, use, n, n, now_us)
    n_views, views = note[3], 4 + note[2]
    for at in range(4, views):
        numbers[note[at]] += n
    for v in range(n_views):
        _count_ages(numbers, note[views + 3 * v], now_us, event_us[v])
    if not nulls:
        return
    codes = views + 3 * n_views
    for v in range(n_views):
        view = views + 3 * v
        last = note[view + 4] if v + 1 < n_views else status.shape[0]
        for i in range(n):
            unread = note[view + 2] and sizes[v * n + i] and not event_us[v, i]
            for f in range(note[view + 1], last):
                if status[f, i]:
                    numbers[note[codes + f] + (error if unread else status[f, i])] += 1


def warm() -> None:
    """Compile the loops, or load them where that was done before."""
    numbers, none = np.zeros(64, np.int64), np.zeros((1, 1), np.int64)
    count_request(numbers, np.zeros(9, np.int64), 0, 0, -1, 0, 0, True, none, 0.0, 0.0)
    count_singles(
        numbers, np.zeros(9, np.int64), 0, -1, 0, 0, np.zeros(2), 1, 0.0, 0.0, none,
        np.zeros((1, 1), np.uint8), 0, none[0],
    )  # fmt: skip
