"""Numbers and times as compiled loops write them, against orjson and Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.json_kernels import (
    NUMBER_BYTES,
    REAL,
    SECONDS,
    TIME_BYTES,
    WHOLE,
    put_time,
    write_vectors,
)
from headwater.times import FIRST_US, LAST_US
from service import answer

NONE = np.empty(0, np.uint8)


def written(words: Any, how: int) -> list[bytes]:
    """Each number as one feature of an answer."""
    n, ends = len(words), np.empty(len(words), np.int64)
    out = np.empty(n * (NUMBER_BYTES + TIME_BYTES + 60), np.uint8)
    write_vectors(
        NONE, np.zeros(n, np.int64), words.view(np.int64)[None], np.zeros((1, n), np.uint8),
        np.zeros((1, n), np.int64), np.array([[0, 0, 0, how]]), np.frombuffer(b"|", np.uint8),
        np.array([0, 1]), out, ends,
    )  # fmt: skip
    text = out[: ends[-1]].tobytes().split(b'{"values":[')[1:]
    return [one.partition(b"|")[0] for one in text]


def by_orjson(numbers: Any) -> list[bytes]:
    text: bytes = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)
    return text[1:-1].split(b",")


EDGES = np.concatenate(
    [
        2.0 ** np.arange(-1074, 1024),
        np.nextafter(2.0 ** np.arange(-1074, 1024), 0),
        np.nextafter(2.0 ** np.arange(-1074, 1024), np.inf),
        10.0 ** np.arange(-323, 309),
        np.arange(2000) / 1000,
        [0.0, -0.0, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 2.0**53 + 2],
    ]
)


def test_floats_at_every_power_are_the_shortest_that_read_back() -> None:
    both = np.concatenate([EDGES, -EDGES])
    assert written(both, REAL) == by_orjson(both)


def test_a_million_floats_of_any_bits_are_the_shortest_that_read_back() -> None:
    chance = np.random.default_rng(5)
    for _ in range(10):
        numbers = chance.integers(-(2**63), 2**63 - 1, 100_000).view(np.float64)
        numbers = numbers[np.isfinite(numbers)]
        assert written(numbers, REAL) == by_orjson(numbers)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_floats_that_people_write(numbers: list[float]) -> None:
    array = np.array(numbers)
    assert written(array, REAL) == by_orjson(array)


def test_what_json_has_no_number_for_is_named() -> None:
    numbers = np.array([np.nan, np.inf, -np.inf])
    assert written(numbers, REAL) == [b'"NaN"', b'"Infinity"', b'"-Infinity"']


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_whole_numbers_and_seconds(numbers: list[int]) -> None:
    array = np.array(numbers, np.int64)
    assert written(array, WHOLE) == [b"%d" % number for number in numbers]
    assert written(array, SECONDS) == [b"%d" % (number // 1_000_000) for number in numbers]


@pytest.mark.parametrize("unit", [1, 1000, 1_000_000])
def test_times_are_as_the_general_way_writes_them(unit: int) -> None:
    chance = np.random.default_rng(unit)
    times = chance.integers(FIRST_US // unit, LAST_US // unit, 20_000) * unit
    times = np.concatenate([times, [FIRST_US, LAST_US, 0, -1, 1, -(2**63), 2**63 - 1]])
    out = np.empty(TIME_BYTES, np.uint8)
    found = [out[: put_time(out, 0, time_us)].tobytes() for time_us in times]
    assert b",".join(found) == b",".join(map(answer.time_text, times.tolist()))
