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

_SECONDS, _AGES = np.array(SECONDS), np.array(AGES)


@njit(cache=True, error_model="numpy", inline="always")
def _observe(numbers, place, edges, value):
    """Add a value to the histogram at a place: its bucket's count, and the sum behind them."""
    bucket = 0
    while bucket < edges.shape[0] and value > edges[bucket]:
        bucket += 1
    numbers[place + bucket] += 1
    total = place + edges.shape[0] + 1
    numbers[total : total + 1].view(np.float64)[0] += value


@njit(cache=True, error_model="numpy")
def count_times(numbers, read_place, place, read_seconds, seconds):
    """Add a request's times to two histograms."""
    _observe(numbers, read_place, _SECONDS, read_seconds)
    _observe(numbers, place, _SECONDS, seconds)


@njit(cache=True, error_model="numpy")
def count_singles(
    numbers, places, entities, views, nulls, error, now_us, begun, read_at, ended_at, event_us,
    status, sizes,
):  # fmt: skip
    """Add requests for one entity each, answered together, to a block of numbers.

    places: of the histograms of the store's times and of the requests', and of the count of such
    requests. entities: places that grow by one a request. views [views, 3]: the place of the
    histogram of ages, the first row in `status`, whether it has packed rows. nulls [features]: the
    place of each one's codes; `error` stands for a row that is held and was not read. begun
    [2, n]: when each request came, and when the store was asked, seconds. event_us [views, n];
    status [features, n], none where all are PRESENT; sizes [views, n] of what the store held.
    """
    n = begun.shape[1]
    for i in range(n):
        _observe(numbers, places[0], _SECONDS, read_at - begun[1, i])
        _observe(numbers, places[1], _SECONDS, ended_at - begun[0, i])
    numbers[places[2]] += n
    for place in entities:
        numbers[place] += n
    for v in range(views.shape[0]):
        for i in range(n):
            if event_us[v, i]:
                age = max(now_us - event_us[v, i], 0) / 1e6
                _observe(numbers, views[v, 0], _AGES, age)
    if not status.shape[0]:
        return
    for v in range(views.shape[0]):
        last = views[v + 1, 1] if v + 1 < views.shape[0] else status.shape[0]
        for i in range(n):
            unread = views[v, 2] and sizes[v, i] and not event_us[v, i]
            for f in range(views[v, 1], last):
                if status[f, i]:
                    numbers[nulls[f] + (error if unread else status[f, i])] += 1


def warm() -> None:
    """Compile the loops, or load them where that was done before."""
    numbers, none = np.zeros(64, np.int64), np.zeros((1, 1), np.int64)
    count_times(numbers, 0, 16, 0.0, 0.0)
    count_singles(
        numbers, np.zeros(3, np.int64), none[0], np.zeros((1, 3), np.int64), none[0], 0, 0,
        np.zeros((2, 1)), 0.0, 0.0, none, np.zeros((1, 1), np.uint8), none,
    )  # fmt: skip
