"""Compiled loops of profiles: one pass over a column for moments, buckets and HyperLogLog."""

# Numba compiles a subset of Python: explicit loops and int indices are the idiom here.
from __future__ import annotations

import math

import numpy as np
from numba import njit

REGISTERS = 4096
#: Sign, 11 bits of exponent, 6 of fraction.
SHIFT = 46
BUCKETS = 1 << (64 - SHIFT)


@njit(cache=True, nogil=True)
def mix(x):
    """splitmix64's finalizer: every bit of the word depends on every other."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True)
def see(registers, hashed):
    """HyperLogLog: the register's longest run of leading zeros."""
    at = hashed >> np.uint64(52)
    rest = hashed << np.uint64(12)
    held = registers[at]
    # Longer than the run that is held only where that many bits are zero: seldom, soon.
    if held < 53 and (held == 0 or rest >> np.uint64(64 - held) == 0):
        run = 1
        while run < 53 and not rest >> np.uint64(63):
            rest <<= np.uint64(1)
            run += 1
        registers[at] = run


@njit(cache=True, nogil=True)
def add_moments(n, mean, squares, low, high, moments):
    """Merge a batch's moments into (count, mean, squared deviations, min, max): Chan's update."""
    if n:
        delta, total = mean - moments[1], moments[0] + n
        moments[2] += squares + delta * delta * moments[0] * n / total
        moments[1] += delta * n / total
        moments[0] = total
        moments[3], moments[4] = min(moments[3], low), max(moments[4], high)


@njit(cache=True, nogil=True)
def add_floats(values, moments, buckets, registers):
    """Add values; returns how many were not a number."""
    bits = values.view(np.uint64)
    n, total, squares, low, high = 0, 0.0, 0.0, np.inf, -np.inf
    for i in range(values.shape[0]):
        x = values[i]
        if x == x:
            n += 1
            total += x
            low, high = min(low, x), max(high, x)
            buckets[bits[i] >> np.uint64(SHIFT)] += 1
            see(registers, mix(bits[i] if x != 0.0 else np.uint64(0)))
    mean = total / max(n, 1)
    for i in range(values.shape[0]):
        if values[i] == values[i]:
            squares += (values[i] - mean) * (values[i] - mean)
    add_moments(n, mean, squares, low, high, moments)
    return values.shape[0] - n


@njit(cache=True, nogil=True)
def add_integers(values, moments, buckets, registers):
    """As `add_floats`, hashed as integers; none is absent."""
    floats = np.empty(1, np.float64)
    bits = floats.view(np.uint64)
    total, squares, low, high = 0.0, 0.0, np.inf, -np.inf
    for i in range(values.shape[0]):
        x = float(values[i])
        floats[0] = x
        total += x
        low, high = min(low, x), max(high, x)
        buckets[bits[0] >> np.uint64(SHIFT)] += 1
        see(registers, mix(np.uint64(values[i])))
    mean = total / max(values.shape[0], 1)
    for i in range(values.shape[0]):
        squares += (values[i] - mean) * (values[i] - mean)
    add_moments(values.shape[0], mean, squares, low, high, moments)
    return 0


@njit(cache=True, nogil=True)
def add_hashes(hashes, registers):
    for i in range(hashes.shape[0]):
        see(registers, mix(hashes[i]))


@njit(cache=True)
def cardinality(registers):
    """Distinct values that the registers saw; linear counting where few are set."""
    total, empty = 0.0, 0
    for i in range(registers.shape[0]):
        total += 2.0 ** -float(registers[i])
        empty += registers[i] == 0
    m = registers.shape[0]
    estimate = 0.7213 / (1 + 1.079 / m) * m * m / total
    if estimate <= 2.5 * m and empty > 0:
        return m * math.log(m / empty)
    return estimate


@njit(cache=True)
def quantile(buckets, q):
    """The middle of the bucket that holds the lower quantile; negative numbers run downwards."""
    half = buckets.shape[0] // 2
    total = 0
    for i in range(buckets.shape[0]):
        total += buckets[i]
    rank, seen = q * (total - 1), 0
    out = np.zeros(1, np.uint64)
    for i in range(buckets.shape[0]):
        # Buckets of negative numbers come first, the greatest size foremost.
        at = buckets.shape[0] - 1 - i if i < half else i - half
        seen += buckets[at]
        if seen > rank:
            out[0] = (np.uint64(at) << np.uint64(SHIFT)) | np.uint64(1 << (SHIFT - 1))
            if at == 0 or at == half:
                return 0.0
            return out.view(np.float64)[0]
    return 0.0
