"""Columns of times as messages spell them, to UTC microseconds. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from headwater.times import micros

Int64 = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: The first and the last microsecond of the years 1 to 9999, which every later step can show.
MIN_US, MAX_US = -62_135_596_800_000_000, 253_402_300_799_999_999
WANTED = "an ISO 8601 time or an epoch number in s, ms, us or ns, in the years 1 to 9999"
#: Texts parsed at once after one of all has failed.
_CHUNK = 256
#: From here on a text has date, hours, minutes and seconds (or a zone), and Arrow and Python agree
#: about it; they do not about "2024-01-01Z".
_FULL_LENGTH = 19


#: Units that whole numbers of a known unit come in, as nanoseconds.
UNITS_NS = {"days": 86_400 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


class Times(NamedTuple):
    """Arrays [n]: microseconds (0 for none), whether there is a time, and what is no time."""

    us: Int64
    valid: Bools
    bad: Bools


_Reader = Callable[[Sequence[Any]], Times]


def times(cells: Sequence[Any]) -> Times:
    """ISO 8601 texts, epoch numbers and None, in any mixture, each as `micros` reads it.

    A time outside the years 1 to 9999 is bad.
    """
    kinds = set(map(type, cells))
    kinds.discard(type(None))
    read: _Reader = _one_by_one
    if len(kinds) == 1:
        read = _READERS.get(kinds.pop(), _one_by_one)
    return _within(*read(cells))


def numbered(values: Int64, valid: Bools) -> Times:
    """Epoch numbers whose magnitude tells their unit, as `times` reads them; 0 where not valid."""
    return _within(*_magnitudes(values, valid))


def _within(us: Int64, valid: Bools, bad: Bools) -> Times:
    if len(us) and us.min() >= MIN_US and us.max() <= MAX_US:
        return Times(us, valid, bad)
    bad = bad | (valid & ((us < MIN_US) | (us > MAX_US)))
    return Times(np.where(bad, 0, us), valid & ~bad, bad)


def scaled(cells: Sequence[int | None], unit: str) -> Times:
    """Whole numbers of a unit in `UNITS_NS` since the epoch, and None; bad as in `times`."""
    factor = UNITS_NS[unit]
    try:
        values, valid = _filled(pa.array(cells, pa.int64()))
    except OverflowError:
        exact = [None if c is None or abs(c) > 2**62 else c for c in cells]
        found = scaled(exact, unit)
        bad = np.array([c is not None and e is None for c, e in zip(cells, exact, strict=True)])
        return Times(found.us, found.valid, found.bad | bad)
    if factor < 1000:
        us = values // (1000 // factor)
    else:
        per_us = factor // 1000
        us = np.clip(values, MIN_US // per_us - 1, MAX_US // per_us + 1) * per_us
    bad = valid & ((us < MIN_US) | (us > MAX_US))
    return Times(np.where(bad, 0, us), valid & ~bad, bad)


def _one_by_one(cells: Sequence[Any]) -> Times:
    n = len(cells)
    us, valid, bad = np.zeros(n, np.int64), np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    for row, cell in enumerate(cells):
        if cell is None:
            continue
        try:
            us[row] = micros(cell)
            valid[row] = True
        except (ValueError, OverflowError):
            bad[row] = True
    return Times(us, valid, bad)


def _integers(cells: Sequence[int | None]) -> Times:
    try:
        column = pa.array(cells, pa.int64())
    except OverflowError:
        return _one_by_one(cells)
    return _magnitudes(*_filled(column))


def _magnitudes(values: Int64, valid: Bools) -> Times:
    bad = np.zeros(len(valid), np.bool_)
    size = np.abs(values).astype(np.uint64)  # also right for the smallest int64
    if len(size) and size.min() >= 10**11 and size.max() < 10**14:  # milliseconds, as most are
        return Times(values * 1000, valid, bad)
    units = [size < 10**11, size < 10**14, size < 10**17]
    us = np.select(units, [values * 1_000_000, values * 1000, values], values // 1000)
    return Times(us, valid, bad)


def _floats(cells: Sequence[float | None]) -> Times:
    values, valid = _filled(pa.array(cells, pa.float64()))
    bad = ~(np.abs(values) < 1e20)  # NaN as well
    values = np.where(bad, 0.0, values)
    size = np.abs(values)
    us = np.select(
        [size < 1e11, size < 1e14, size < 1e17],
        [np.rint(values * 1_000_000), np.rint(values * 1000), np.trunc(values)],
        np.floor_divide(values, 1000),
    ).astype(np.int64)
    return Times(us, valid & ~bad, bad)


def _texts(cells: Sequence[str | None]) -> Times:
    whole = _parse(cells)
    if whole is not None:
        return whole
    parts = [cells[at : at + _CHUNK] for at in range(0, len(cells), _CHUNK)]
    done = [_parse(part) or _one_by_one(part) for part in parts]
    return Times(*(np.concatenate(arrays) for arrays in zip(*done, strict=True)))


def _parse(cells: Sequence[str | None]) -> Times | None:
    """Texts that are all spelled alike, in full; None where they are not."""
    try:
        texts = pa.array(cells, pa.string())
    except UnicodeEncodeError:
        return None
    shortest = pc.min(pc.binary_length(texts)).as_py()
    if shortest is not None and shortest < _FULL_LENGTH:
        return None
    for unit in ("us", "ns"):
        for zone in ("UTC", None):
            try:
                column = texts.cast(pa.timestamp(unit, zone))
            except pa.ArrowInvalid:
                continue
            values, valid = _filled(column.cast(pa.int64()))
            us = values if unit == "us" else values // 1000
            return Times(us, valid, np.zeros(len(valid), np.bool_))
    return None


def _filled(column: pa.Array) -> tuple[Any, Bools]:
    """(values with 0 for null, valid) of a numeric column."""
    if not column.null_count:
        return column.to_numpy(), np.ones(len(column), np.bool_)
    return column.fill_null(0).to_numpy(), np.asarray(column.is_valid())


_READERS: dict[type, _Reader] = {int: _integers, float: _floats, str: _texts}
