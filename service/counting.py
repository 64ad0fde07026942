"""The loop that counts a usual request in one call. Pure.

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


@njit(cache=True, error_model="numpy")
def count(numbers, note, now_us, read_seconds, seconds):
    """Add a request to a block of numbers.

    note: the places of the histograms of the two times; how many ages; how many other places; of
    each age the place of its histogram and the event time, microseconds; then the other places,
    which grow by one.
    """
    for i in range(2 + note[2]):
        if i < 2:
            place, edges = note[i], _SECONDS
            value = seconds if i else read_seconds
        else:
            place, edges = note[2 * i], _AGES
            value = max(now_us - note[2 * i + 1], 0) / 1e6
        bucket = 0
        while bucket < edges.shape[0] and value > edges[bucket]:
            bucket += 1
        numbers[place + bucket] += 1
        total = place + edges.shape[0] + 1
        numbers[total : total + 1].view(np.float64)[0] += value
    at = 4 + 2 * note[2]
    for i in range(at, at + note[3]):
        numbers[note[i]] += 1


def warm() -> None:
    """Compile the loop, or load it where that was done before."""
    count(np.zeros(64, np.int64), np.array([0, 16, 0, 0]), 0, 0.0, 0.0)
