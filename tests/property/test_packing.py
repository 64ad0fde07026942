"""Columnar packing writes the very bytes that one row at a time would be, for any values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.arrow import arrow_type
from headwater.catalog import FieldPlan, JoinKeyPlan, ViewPlan
from headwater.codec import RowCodec, entity_text
from headwater.interning import KeyTable, entity_texts
from headwater.online.rows import RowPacker

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "INT32": st.integers(-(2**31), 2**31 - 1),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "BOOL": st.booleans(),
    "UNIX_TIMESTAMP": st.integers(-(2**50), 2**50),
    "FLOAT": st.floats(width=32),
    "DOUBLE": st.floats(),
    "STRING": st.text(max_size=300),
    "BYTES": st.binary(max_size=300),
    "INT64_LIST": st.lists(st.integers(-100, 100), max_size=3),
}
TIMES = st.integers(-(2**60), 2**60)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[Any]], bool, bool]:
    types = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=18))
    row = st.tuples(TIMES, TIMES, st.integers(0, 9), st.integers(0, 2**60),
                    *(st.none() | VALUES[t] for t in types))  # fmt: skip
    return types, draw(st.lists(row, max_size=8)), draw(st.booleans()), draw(st.booleans())


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables())
def test_packed_columns_are_the_rows_packed_one_by_one(
    case: tuple[list[str], list[list[Any]], bool, bool],
) -> None:
    types, rows, has_created, has_offset = case
    fields = tuple(FieldPlan(f"f{i}", t) for i, t in enumerate(types))
    view = ViewPlan("v", "row", (JoinKeyPlan("k", "INT64"),), fields)
    cells = [_array([row[4 + i] for row in rows], t) for i, t in enumerate(types)]
    ts, created, partition, offset = (
        np.array([row[i] for row in rows], np.int64) for i in range(4)
    )
    packed = RowPacker(view).pack(
        ts, created if has_created else None, cells,
        partition if has_offset else None, offset if has_offset else None,
    )  # fmt: skip
    codec = RowCodec.of(view)
    assert packed.tolist() == [
        codec.pack(
            row[0], row[1] if has_created else None, row[2] if has_offset else -1,
            row[3] if has_offset else -1, row[4:],
        )
        for row in rows
    ]  # fmt: skip


def _array(values: list[Any], value_type: str) -> pa.Array:
    if value_type == "UNIX_TIMESTAMP":
        return pa.array(values, pa.int64()).cast(arrow_type(value_type))
    return pa.array(values, arrow_type(value_type))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-(2**63), 2**63 - 1), st.text(max_size=20), st.booleans()),
        max_size=20,
    )
)
def test_keys_are_numbered_by_their_text(rows: list[tuple[int, str, bool]]) -> None:
    columns = [
        pa.array([row[i] for row in rows], t)
        for i, t in enumerate((pa.int64(), pa.string(), pa.bool_()))
    ]
    for chosen in ([0], [1], [0, 1, 2]):
        found = entity_texts([columns[i] for i in chosen], len(rows))
        wanted = [entity_text([row[i] for i in chosen]) for row in rows]
        assert found.tolist() == wanted
        table, order = KeyTable(), list(dict.fromkeys(wanted))
        half = len(rows) // 2
        numbers = [
            *table.intern(entity_texts([columns[i][:half] for i in chosen], half)),
            *table.intern(entity_texts([columns[i][half:] for i in chosen], len(rows) - half)),
        ]
        assert numbers == [order.index(text) for text in wanted]
        assert table.texts.tolist() == order
