"""What drifted is said by check and feature; sketches merge; rows are expected by the hour."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from headwater.catalog import FieldPlan, ViewPlan
from headwater.demo import flights as demo
from headwater.quality.drift import Span, compare
from headwater.quality.feature_sketches import (
    HOUR_US,
    FeatureSketch,
    Hours,
    merged,
    sketch_column,
)
from headwater.quality.objectives import mistakes
from headwater.quality.volume import volume


def alarms(view: ViewPlan, baseline: pa.Table, current: pa.Table) -> dict[str, set[str]]:
    """Feature -> the checks of it that alarm."""
    spans = [
        Span({name: sketch_column(table[name]) for name in table.column_names})
        for table in (baseline, current)
    ]
    found: dict[str, set[str]] = {}
    for check in compare(view, *spans):
        if check.alarm:
            found.setdefault(check.feature, set()).add(check.check)
    return found


def view(**tags: dict[str, str]) -> ViewPlan:
    fields = tuple(FieldPlan(name, "", tags=held) for name, held in tags.items())
    return ViewPlan("v", "row", (), fields)


# -- sketches ----------------------------------------------------------------------------------


def test_the_hours_of_a_column_make_the_whole_again_and_survive_being_stored() -> None:
    random = np.random.default_rng(1)
    times = random.integers(0, 48, 20_000) * HOUR_US + 5
    numbers = pa.array(random.normal(3, 2, 20_000), mask=random.random(20_000) < 0.1)
    words = pa.array([None if x > 90 else f"w{x}" for x in random.integers(0, 100, 20_000)])
    for column in (numbers, words, words.dictionary_encode(), pa.array(times, pa.timestamp("us"))):
        hours = Hours(times)
        parts = hours.sketches(column)
        assert list(parts) == sorted(set((times // HOUR_US * HOUR_US).tolist()))
        assert sum(hours.rows().values()) == 20_000
        stored = [msgspec.json.encode(part.as_json()) for part in parts.values()]
        read = [FeatureSketch.from_json(msgspec.json.decode(text)) for text in stored]
        whole, direct = merged(read), sketch_column(column)
        assert whole is not None
        assert (whole.rows, whole.nulls) == (20_000, column.null_count)
        assert whole.counts() == direct.counts()
        assert (whole.low, whole.high) == (direct.low, direct.high)
        assert whole.mean == pytest.approx(direct.mean)
        assert whole.std == pytest.approx(direct.std)
        assert whole.distinct_values() == direct.distinct_values()
    known = np.sort(numbers.drop_null().to_numpy())
    sketch = merged(Hours(times).sketches(numbers).values())
    assert sketch is not None
    for rank in (0.01, 0.25, 0.5, 0.9):
        (value,) = sketch.quantiles([rank])
        assert abs(np.searchsorted(known, value) / len(known) - rank) < 0.03


def test_values_without_a_number_are_nulls_and_many_categories_are_bounded() -> None:
    odd = sketch_column(pa.array([1.0, float("nan"), float("inf"), None]))
    assert (odd.rows, odd.nulls, odd.mean) == (4, 3, 1.0)
    many = sketch_column(pa.array([f"k{i}" for i in range(50_000)] + ["often"] * 5000))
    assert not many.all_counted
    assert len(many.stored().items) < 10_000
    assert many.counts()[0]["often"] >= 5000
    assert many.distinct_values() == pytest.approx(50_001, rel=0.1)
    assert sketch_column(pa.array([], pa.float64())).rows == 0


# -- checks ------------------------------------------------------------------------------------

RANDOM = np.random.default_rng(3)
QUIET = {
    "n": RANDOM.normal(size=4000),
    "c": RANDOM.choice(["a", "b", "c"], 4000),
}


@pytest.mark.parametrize(
    ("feature", "values", "tags", "expected"),
    [
        ("n", [str(x) for x in QUIET["n"]], {}, "type_changed"),
        ("n", [None if i % 10 == 0 else x for i, x in enumerate(QUIET["n"])], {}, "null_share"),
        ("n", [None] * 4000, {}, "null_share"),
        ("n", [9.0, *QUIET["n"][1:]], {"min": "-9", "max": "8"}, "out_of_range"),
        ("n", [-99.0 if i % 20 == 0 else x for i, x in enumerate(QUIET["n"])], {}, "unseen_value"),
        ("n", QUIET["n"] * 1.6, {}, "spread"),
        ("n", QUIET["n"] + 0.5, {}, "mean"),
        ("c", ["d", *QUIET["c"][1:]], {"categories": "a, b, c"}, "unknown_category"),
        ("c", ["d"] * 60 + list(QUIET["c"][60:]), {}, "new_category"),
        ("c", ["a"] * 2000 + list(QUIET["c"][2000:]), {}, "chi_squared"),
    ],
)
def test_each_fault_is_named(
    feature: str, values: Any, tags: dict[str, str], expected: str
) -> None:
    baseline = pa.table({feature: QUIET[feature]})
    kind = None if expected == "type_changed" else baseline.schema.field(feature).type
    current = pa.table({feature: pa.array(values, kind)})
    assert expected in alarms(view(**{feature: tags}), baseline, current)[feature]
    assert alarms(view(**{feature: tags}), baseline, baseline) == {}


def test_an_objective_of_its_own_decides_and_one_that_makes_no_sense_is_told() -> None:
    baseline, moved = pa.table({"n": QUIET["n"]}), pa.table({"n": QUIET["n"] + 0.5})
    assert alarms(view(n={"max_drift": "0.8"}), baseline, moved) == {}
    assert alarms(view(n={"max_drift": "0.3"}), baseline, moved)
    (mistake,) = mistakes(view(n={"max_drift": "-1"}))
    assert "greater than 0" in mistake.text


def test_the_flights_of_january_and_july_differ_where_they_do() -> None:
    """New York's weather: warmer and more humid; who flies from where stays much as it was."""
    flights = demo.load(datetime(2013, 12, 31, tzinfo=UTC))

    def month(table: pa.Table, number: int) -> pa.Table:
        first, last = datetime(2013, number, 1, tzinfo=UTC), datetime(2013, number, 31, tzinfo=UTC)
        times = table["event_timestamp"].to_pylist()
        return table.filter(pa.array([first <= t < last for t in times]))

    weather = [month(flights.weather, n) for n in (1, 7)]
    found = alarms(view(), *weather)
    assert {"mean", "ks", "psi", "js"} <= found["temp"]
    assert "mean" in found["dewp"]
    assert "origin" not in found
    (january,) = [month(flights.weather, 1)]
    halves = [january.take(np.arange(start, january.num_rows, 2)) for start in (0, 1)]
    assert alarms(view(), *halves) == {}


# -- rows by the hour --------------------------------------------------------------------------

DAY = 24 * HOUR_US
NOW = 1000 * DAY


def rows(first: int, last: int, seed: int = 5) -> dict[int, int]:
    """Rows of some hours before NOW: by day 1,000 an hour, at night none, at weekends half."""
    random = np.random.default_rng(seed)
    made = {}
    for hour in range(first, last):
        at = NOW + hour * HOUR_US
        level = 0 if at // HOUR_US % 24 < 6 else 1000 // (2 if at // DAY % 7 < 2 else 1)
        if level:
            made[at] = int(random.poisson(level * random.gamma(400, 0.0025)))
    return made


def told(past: dict[int, int], current: dict[int, int]) -> set[str]:
    return {c.check for c in volume(past, current, NOW, NOW + DAY) if c.alarm}


def test_fewer_rows_than_at_that_hour_are_told_and_nights_and_weekends_are_not() -> None:
    past = rows(-28 * 24, 0)
    for day in range(7):
        since = NOW - day * DAY
        before = {at: n for at, n in past.items() if at < since}
        checks = volume(before, rows(-day * 24, 24 - day * 24, day), since, since + DAY)
        assert checks
        assert not [check for check in checks if check.alarm]
    today = rows(0, 24)
    busy = NOW + 12 * HOUR_US
    assert told(past, today | {busy: today[busy] // 2}) == {"partial_data"}
    assert told(past, {at: n for at, n in today.items() if at != busy}) == {"source_dropped"}
    assert told(past, {}) == {"source_dropped"}
    assert volume({}, today, NOW, NOW + DAY) == []
