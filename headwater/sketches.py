"""Partials over eight bytes: distinct counts, quantiles, first and last n, extremes of text.

Each is a pure function of the set of events it saw, whatever the order of merging, so what was
served online is recomputed offline to the bit. Partials are plain msgpack values.

- count_distinct: the 2,048 smallest 64-bit hashes (k minimum values; Bar-Yossef et al. 2002).
  Exact up to 2,048 distinct values; above, the standard error is 1/sqrt(2046) = 2.2 %.
- quantile: counts in logarithmic buckets (DDSketch; Masson, Rim and Lee 2019). The value returned
  is within 1 % of the exact lower quantile, relative to its size.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import msgspec

DISTINCT_HASHES = 2048
RELATIVE_ERROR = 0.01
LOG_GAMMA = math.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))
ZERO_BUCKET = 1 << 40

#: An event as sketches see it: (event time, sequence, value).
Timed = tuple[int, int, Any]
Partial = Any


def is_sketch(function: str, kind: str) -> bool:
    """Whether an aggregation is held as a sketch and not in 8-byte slots."""
    if function in {"count_distinct", "quantile", "last_n", "first_n"}:
        return True
    return kind == "object" and function in {"first", "last", "min", "max"}


def lift(function: str, parameter: float, events: Sequence[Timed]) -> Partial:
    """The partial of some events whose values are not null."""
    if function == "count_distinct":
        return _smallest({value_hash(value) for _, _, value in events})
    if function == "quantile":
        counts: dict[int, int] = {}
        for _, _, value in events:
            bucket = _bucket(float(value))
            counts[bucket] = counts.get(bucket, 0) + 1
        return counts
    if function in {"min", "max"}:
        values = [value for _, _, value in events]
        return [min(values) if function == "min" else max(values)] if values else []
    return _ends(function, parameter, events)


def empty(function: str) -> Partial:
    """The partial of no event."""
    return {} if function == "quantile" else []


def add(function: str, parameter: float, partial: Partial, event: Timed) -> None:
    """Add one event, whose value is not null, to a partial in place."""
    value = event[2]
    if function == "count_distinct":
        _insert(partial, value_hash(value))
    elif function == "quantile":
        bucket = _bucket(float(value))
        partial[bucket] = partial.get(bucket, 0) + 1
    elif function in {"min", "max"}:
        if not partial:
            partial.append(value)
        elif (value < partial[0]) == (function == "min") and value != partial[0]:
            partial[0] = value
    else:
        partial[:] = _ends(function, parameter, [*partial, event])


def merge(function: str, parameter: float, a: Partial, b: Partial) -> Partial:
    """The partial of the union of two disjoint sets of events."""
    if function == "count_distinct":
        return _smallest(set(a) | set(b))
    if function == "quantile":
        merged = dict(a)
        for bucket, count in b.items():
            merged[bucket] = merged.get(bucket, 0) + count
        return merged
    if function in {"min", "max"}:
        if not a or not b:
            return a or b
        return [min(a[0], b[0]) if function == "min" else max(a[0], b[0])]
    return _ends(function, parameter, [*a, *b])


def finalize(function: str, parameter: float, partial: Partial) -> Any:
    """The value of a feature; null (or 0 for a count) when no event was seen."""
    if function == "count_distinct":
        if len(partial) < DISTINCT_HASHES:
            return len(partial)
        return estimate(partial[-1])
    if not partial:
        return None
    if function == "quantile":
        return _quantile(partial, parameter)
    if function in {"min", "max"}:
        return partial[0]
    if function in {"first", "last"}:
        return partial[0][2]
    return [value for _, _, value in partial]


def estimate(largest: int) -> int:
    """Distinct values, from the largest of the `DISTINCT_HASHES` smallest hashes."""
    return round((DISTINCT_HASHES - 1) / (largest / 2.0**64))


def value_hash(value: Any) -> int:
    """64 bits of a value, the same everywhere."""
    if isinstance(value, float):
        value += 0.0  # -0.0 equals 0.0, and so must its hash
    digest = hashlib.blake2b(msgspec.msgpack.encode(value), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _insert(hashes: list[int], value: int) -> None:
    """Keep the smallest distinct hashes, ascending."""
    at = bisect_left(hashes, value)
    if at < DISTINCT_HASHES and (at == len(hashes) or hashes[at] != value):
        hashes.insert(at, value)
        del hashes[DISTINCT_HASHES:]


def _smallest(hashes: set[int]) -> list[int]:
    return sorted(hashes)[:DISTINCT_HASHES]


def _ends(function: str, parameter: float, events: Sequence[Timed]) -> list[list[Any]]:
    """First or last n events in order of time; last is newest first only for the single value."""
    n = 1 if function in {"first", "last"} else int(parameter)
    ordered = sorted((list(event) for event in events), key=lambda event: (event[0], event[1]))
    return ordered[:n] if function.startswith("first") else ordered[-n:]


def _bucket(value: float) -> int:
    """Index of a value's logarithmic bucket, odd for negative values."""
    if value == 0.0:
        return ZERO_BUCKET
    return 2 * math.ceil(math.log(abs(value)) / LOG_GAMMA) + (value < 0)


def centre(bucket: int) -> float:
    """The value that stands for a bucket."""
    if bucket == ZERO_BUCKET:
        return 0.0
    size = 2 * math.exp((bucket // 2) * LOG_GAMMA) / (math.exp(LOG_GAMMA) + 1)
    return -size if bucket % 2 else size


def _quantile(counts: dict[int, int], q: float) -> float:
    rank = q * (sum(counts.values()) - 1)
    seen = 0
    ordered = sorted((centre(bucket), count) for bucket, count in counts.items())
    for middle, count in ordered:
        seen += count
        if seen > rank:
            return middle
    return ordered[-1][0]
