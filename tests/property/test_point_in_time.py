"""The ASOF join against a plain search through every row."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.catalog import (
    BatchSourcePlan,
    Catalog,
    FeatureRefPlan,
    FieldPlan,
    JoinKeyPlan,
    ViewPlan,
)
from headwater.offline.training_set import build

US = pa.timestamp("us", tz="UTC")
KEYS = st.sampled_from(["1", "11", "12", "2"])
#: a, b, event time, created, value
ROW = st.tuples(KEYS, KEYS, st.integers(0, 12), st.integers(0, 3), st.none() | st.integers(0, 9))
LABEL = st.tuples(KEYS, KEYS, st.integers(-2, 20))


def expected(rows: list[Any], label: Any, ttl: int) -> int | None:
    """The value of the greatest (event time, created) in the label's reach; the later of two."""
    a, b, t = label
    mine = [
        (ts, created, i, value)
        for i, (ra, rb, ts, created, value) in enumerate(rows)
        if (ra, rb) == (a, b) and ts <= t and (not ttl or ts >= t - ttl)
    ]
    value: int | None = max(mine)[3] if mine else None
    return value


def catalog(path: Path, ttl: int, keys: tuple[str, ...], feature: str) -> Catalog:
    view = ViewPlan(
        name="v",
        kind="row",
        join_keys=tuple(JoinKeyPlan(key, "STRING") for key in keys),
        features=(FieldPlan(feature, "INT64"),),
        ttl_us=ttl,
        batch=BatchSourcePlan("s", "parquet", str(path), "ts", "created"),
    )
    return Catalog(project="p", version="", redis_url="", log_root="", views={"v": view})


def joined(rows: list[Any], labels: list[Any], ttl: int, feature: str = "value") -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * 5
    types = [pa.string(), pa.string(), US, US, pa.int64()]
    names = ["a", "b", "ts", "created", feature]
    table = pa.table(
        [pa.array(list(c), t) for c, t in zip(columns, types, strict=True)], names=names
    )
    given_labels = list(zip(*labels, strict=True))
    frame = pa.table(
        {
            "b": pa.array(given_labels[1]),
            "event_timestamp": pa.array(given_labels[2], US),
            "a": pa.array(given_labels[0]),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        pq.write_table(table, path)
        wanted = [FeatureRefPlan("v", (feature,))]
        return build(catalog(path, ttl, ("a", "b"), feature), wanted, frame)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, max_size=40), st.lists(LABEL, min_size=1, max_size=15), st.integers(0, 6))
def test_each_label_gets_the_newest_row_in_reach(
    rows: list[Any], labels: list[Any], ttl: int
) -> None:
    found = joined(rows, labels, ttl)
    assert found["value"].to_pylist() == [expected(rows, label, ttl) for label in labels]
    assert found["a"].to_pylist() == [a for a, _, _ in labels]
    assert found["value"].type == pa.int64()


def test_a_feature_may_have_any_name() -> None:
    for name in ("value_y", "event", "key", "t_us", 'a "quoted" name', "__hw_time"):
        found = joined([("1", "2", 5, 0, 7)], [("1", "2", 6), ("2", "1", 6)], 0, name)
        assert found[name].to_pylist() == [7, None], name
