"""A view's features at each label's time: rows by ASOF join, windows by their definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.arrow import arrow_type
from headwater.catalog import Catalog, ViewPlan, column_kind
from headwater.offline.sources import CREATED, EVENT, SEQUENCE, connect, quoted, view_rows
from headwater.windows import Column, EventBatch, Int64, WindowProgram

NUMBER, TIME = "__hw_number", "__hw_time"


def features_at(
    catalog: Catalog,
    view: ViewPlan,
    labels: pa.Table,
    times: Int64,
    columns: Mapping[str, str],
    names: Sequence[str],
) -> list[pa.ChunkedArray | pa.Array]:
    """The named features of a view for each label, in the labels' order; null where none.

    times: label times [labels], microseconds. columns: join key -> its column in `labels`.
    """
    rows = view_rows(catalog, view)
    keys = [labels[columns[key.name]].cast(arrow_type(key.type)) for key in view.join_keys]
    for key in view.join_keys:
        at = rows.column_names.index(key.name)
        rows = rows.set_column(at, key.name, rows[key.name].cast(arrow_type(key.type)))
        rows = rows.filter(pc.is_valid(rows[key.name]))
    if view.kind == "window":
        return _windows(view, rows, keys, times, names)
    return _rows(view, rows, keys, times, names)


def _rows(
    view: ViewPlan, rows: pa.Table, keys: Sequence[pa.ChunkedArray], times: Int64,
    names: Sequence[str],
) -> list[pa.ChunkedArray | pa.Array]:  # fmt: skip
    key_names = [f"__hw_key{i}" for i in range(len(keys))]
    arrays = [pa.array(np.arange(len(times))), pa.array(times), *keys]
    labels = pa.table(arrays, names=[NUMBER, TIME, *key_names])
    inner = {f"__hw_f{i}": rows[name] for i, name in enumerate(names)}
    order = [f"{quoted(CREATED)} DESC NULLS LAST"] if CREATED in rows.column_names else []
    own = {EVENT: rows[EVENT].cast(pa.int64()), SEQUENCE: rows[SEQUENCE]}
    if order:
        own[CREATED] = rows[CREATED]
    held = pa.table(
        {
            **dict(zip(key_names, (rows[k.name] for k in view.join_keys), strict=True)),
            **own,
            **inner,
        }
    )
    old = f"labels.{quoted(TIME)} - newest.{quoted(EVENT)} > {view.ttl_us}"
    known = "" if not view.ttl_us else f"CASE WHEN {old} THEN NULL ELSE "
    features = [f"{known}newest.{quoted(n)}{' END' if known else ''} AS {quoted(n)}" for n in inner]
    join = " AND ".join(f"labels.{quoted(k)} = newest.{quoted(k)}" for k in key_names) or "1 = 1"
    text = (files("headwater.offline") / "asof.sql").read_text()
    sql = text.format(
        keys=", ".join(map(quoted, key_names)) or "1",
        event=quoted(EVENT), order=", ".join([*order, f"{quoted(SEQUENCE)} DESC"]),
        number=quoted(NUMBER), time=quoted(TIME), features=", ".join(features) or "1", join=join,
    )  # fmt: skip
    with connect() as connection:
        connection.register("labels", labels)
        connection.register("rows", held)
        found = connection.sql(sql).to_arrow_table()
    return [found[n] for n in inner]


def _windows(
    view: ViewPlan, rows: pa.Table, keys: Sequence[pa.ChunkedArray], times: Int64,
    names: Sequence[str],
) -> list[pa.ChunkedArray | pa.Array]:  # fmt: skip
    program = WindowProgram.of(view)
    event_key, label_key = dense_keys([rows[k.name] for k in view.join_keys], keys,
                                      rows.num_rows, len(times))  # fmt: skip
    ts = rows[EVENT].cast(pa.int64()).to_numpy()
    # SEQUENCE is (partition, offset) in one number; as the source's low bits and the offset.
    sequence = rows[SEQUENCE].to_numpy()
    kinds = {a.column: column_kind(a.column_type) for a in view.aggregations}
    columns = {}
    for name in program.columns:
        column = rows[name].combine_chunks()
        valid = np.asarray(column.is_valid())
        if kinds[name] == "object":
            columns[name] = Column(column.to_pylist(), valid)
            continue
        kind = pa.int64() if kinds[name] == "int" else pa.float64()
        values = column.cast(kind).fill_null(0).to_numpy(zero_copy_only=False)
        columns[name] = Column(values, valid)
    events = EventBatch(event_key, ts, sequence & ((1 << 48) - 1), sequence >> 48, ts, columns)
    found = program.at(events, label_key, times)
    made = {a.name: (a, column) for a, column in zip(view.aggregations, found, strict=True)}
    return [_arrow(made[name][1], made[name][0].output_type) for name in names]


def _arrow(values: Sequence[object], value_type: str) -> pa.Array:
    if value_type == "UNIX_TIMESTAMP":
        return pa.array(values, pa.int64()).cast(arrow_type(value_type))
    return pa.array(values, arrow_type(value_type))


def dense_keys(
    events: Sequence[pa.ChunkedArray], labels: Sequence[pa.ChunkedArray], n: int, m: int
) -> tuple[Int64, Int64]:
    """Key tuples of n events and m labels as numbers from 0, equal where the tuples are."""
    code = np.zeros(n + m, np.int64)
    for ours, theirs in zip(events, labels, strict=True):
        both = pa.chunked_array([*ours.chunks, *theirs.chunks], type=ours.type).combine_chunks()
        part = both.dictionary_encode(null_encoding="encode").indices.to_numpy()
        joined = code * (int(part.max(initial=0)) + 1) + part
        code = np.unique(joined, return_inverse=True)[1].astype(np.int64)
    return code[:n], code[n:]
