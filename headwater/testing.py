"""Feature definitions, tested like code: values on sample events at chosen times.

    from headwater.testing import Project

    def test_only_the_last_hour_counts():
        rows = Project("feature_repo").values(
            "customer_orders",
            events=[{"customer_id": "a", "amount": 5.0, "ordered_at": "2026-01-01T10:00:00Z"}],
            at=["2026-01-01T10:30:00Z", "2026-01-01T12:00:00Z"],
        )
        assert [row["orders_1h"] for row in rows] == [1, 0]

The values come from the code that makes training sets, from an offline log (or a batch source)
that the events are written to: what the definition does here it does in production.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from headwater import catalog_files
from headwater.arrow import TIMESTAMP, arrow_type
from headwater.catalog import BatchSourcePlan, Catalog, StreamSourcePlan, ViewPlan
from headwater.errors import HeadwaterError
from headwater.offline.log import ARRIVED, OFFSET, PARTITION, TOPIC, EventLog, log_schema
from headwater.offline.point_in_time import Labels, Past, features_at
from headwater.offline.spec import TIME_COLUMN
from headwater.times import micros

Rows = Sequence[Mapping[str, Any]]
#: ISO 8601 (naive is UTC), an epoch number whose magnitude tells the unit, or a datetime.
Time = str | int | float | datetime


class Project:
    """The definitions of a Feast project as its files have them, applied or not.

    Raises HeadwaterError for definitions that cannot be served, as `headwater plan` does.
    """

    def __init__(self, repo: str | Path = "feature_repo") -> None:
        self.catalog: Catalog = catalog_files.read(Path(repo).resolve())

    def values(
        self,
        view: str,
        events: Rows | str | Path,
        at: Sequence[Time | Mapping[str, Any]] | None = None,
    ) -> list[dict[str, Any]]:
        """A view's features over sample events, for entities at times.

        events: as they are on the topic, before any field mapping; for a batch view, rows of its
        source. Or a file of them: .jsonl, .json (a list), .csv or .parquet. Each counts, in the
        order given; lateness is a worker's business. at: times, each for every entity in the
        events; or rows with the view's join keys and `event_timestamp`; None is the time of the
        last event. Returns one dict a row: keys, `event_timestamp` (UTC) and the features; None
        where there is no value. Raises HeadwaterError for what does not fit the definitions.
        """
        plan = self.catalog.views.get(view)
        if plan is None:
            raise HeadwaterError(
                f"there is no feature view {view!r}; there are {', '.join(self.catalog.views)}"
            )
        rows = read_rows(events) if isinstance(events, str | Path) else list(events)
        with tempfile.TemporaryDirectory(prefix="headwater-test-") as folder:
            if plan.stream:
                stream, sample = _logged(self.catalog.streams[plan.stream], rows, folder)
                event = stream.field_mapping.get(stream.timestamp_field, stream.timestamp_field)
                catalog = msgspec.structs.replace(self.catalog, streams={stream.name: stream})
            else:
                plan, sample = _stored(plan, rows, folder)
                event, catalog = plan.batch.timestamp_field if plan.batch else "", self.catalog
            labels = _labels(plan, sample, event, at)
            times = labels[TIME_COLUMN].cast(pa.int64()).to_numpy()
            keys = {key.name: key.name for key in plan.join_keys}
            for name, column in features_at(
                catalog, plan, Labels(labels, times), keys, plan.feature_names, Past()
            ):
                labels = labels.append_column(name, column)
        found: list[dict[str, Any]] = labels.to_pylist()
        return found


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl, .json, .csv or .parquet file. Raises HeadwaterError naming the line."""
    path = Path(path)
    if not path.exists():
        raise HeadwaterError(f"there is no file {path}; give sample events")
    found: list[dict[str, Any]]
    try:
        if path.suffix == ".parquet":
            found = pq.read_table(path).to_pylist()
        elif path.suffix == ".csv":
            found = pa.csv.read_csv(path).to_pylist()
        elif path.suffix == ".json":
            found = json.loads(path.read_text())
        else:
            found = []
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if line.strip():
                    found.append(_object(line, f"{path}:{number}"))
    except (pa.ArrowInvalid, json.JSONDecodeError) as error:
        raise HeadwaterError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise HeadwaterError(f"{path} holds no list of objects; give one object an event")
    return found


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise HeadwaterError(f"{where}: {error}; give one JSON object a line") from error
    if not isinstance(found, dict):
        raise HeadwaterError(f"{where}: {line[:40]!r} is no JSON object; give one a line")
    return found


def _logged(stream: StreamSourcePlan, rows: Rows, folder: str) -> tuple[StreamSourcePlan, pa.Table]:
    """The source with a log of its own that holds the rows, and the rows as columns."""
    kinds = {field.name: field.type for field in stream.fields}
    own = msgspec.structs.replace(stream, log_path=f"{folder}/log", history=None)
    sample = _columns(rows, kinds, f"the Kafka source {stream.name!r}", {stream.timestamp_field})
    sample = sample.rename_columns([stream.field_mapping.get(n, n) for n in sample.column_names])
    event = sample[stream.field_mapping.get(stream.timestamp_field, stream.timestamp_field)]
    n, topic = len(rows), stream.topics[0]
    more = {
        TOPIC: pa.array([topic] * n, pa.string()),
        PARTITION: pa.array(np.zeros(n, np.int32)),
        OFFSET: pa.array(np.arange(n)),
        ARRIVED: event.combine_chunks(),
    }
    for name, column in more.items():
        sample = sample.append_column(name, column)
    if n:
        EventLog(own).append(sample.select(log_schema(own).names), {(topic, 0): n - 1})
    return own, sample


def _stored(plan: ViewPlan, rows: Rows, folder: str) -> tuple[ViewPlan, pa.Table]:
    """The view with a batch source of its own that holds the rows, and the rows as columns."""
    source = plan.batch
    if source is None:
        raise HeadwaterError(f"feature view {plan.name!r} has no source to read events from")
    if plan.udf is not None or source.format == "query":
        raise HeadwaterError(
            f"feature view {plan.name!r} is made by a query or function of its own"
        )
    back = {new: old for old, new in source.field_mapping.items()}
    typed = {key.name: key.type for key in plan.join_keys} | {f.name: f.type for f in plan.features}
    kinds = {back.get(name, name): kind for name, kind in typed.items()}
    times = {name for name in (source.timestamp_field, source.created_field) if name}
    kinds |= dict.fromkeys(times, "UNIX_TIMESTAMP")
    sample = _columns(rows, kinds, f"the source {source.name!r}", {source.timestamp_field})
    pq.write_table(sample, f"{folder}/rows.parquet")
    own = BatchSourcePlan(
        source.name, "parquet", f"{folder}/rows.parquet", source.timestamp_field,
        source.created_field, source.field_mapping,
    )  # fmt: skip
    shown = sample.rename_columns([source.field_mapping.get(n, n) for n in sample.column_names])
    return msgspec.structs.replace(plan, batch=own), shown


def _columns(rows: Rows, kinds: Mapping[str, str], source: str, needed: set[str]) -> pa.Table:
    """Rows as columns of the types that the source declares; what a row lacks is null."""
    for number, row in enumerate(rows, 1):
        unknown = sorted(row.keys() - kinds.keys())
        if unknown:
            raise HeadwaterError(
                f"event {number} has {unknown}, which {source} has not; it has {sorted(kinds)}"
            )
        lacking = sorted(name for name in needed if row.get(name) is None)
        if lacking:
            raise HeadwaterError(f"event {number} lacks {lacking}, which {source} needs")
    return pa.table(
        {name: _column(name, kind, [row.get(name) for row in rows]) for name, kind in kinds.items()}
    )


def _column(name: str, kind: str, cells: Sequence[Any]) -> pa.Array:
    wanted = arrow_type(kind)
    for number, cell in enumerate(cells, 1):
        try:
            pa.scalar(_cell(cell, wanted), wanted)
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise HeadwaterError(f"event {number}: {name} is a {kind}, not {cell!r}") from error
    return pa.array([_cell(cell, wanted) for cell in cells], wanted)


def _cell(value: Any, wanted: pa.DataType) -> Any:
    """A value as Arrow takes it; text may be a number, as on a command line or in a CSV file."""
    if value is None:
        return value
    if isinstance(value, str) and pa.types.is_integer(wanted):
        return int(value)
    if isinstance(value, str) and pa.types.is_floating(wanted):
        return float(value)
    if pa.types.is_string(wanted) and not isinstance(value, str):
        return str(value)
    if wanted != TIMESTAMP:
        return value
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return micros(value)


def _labels(
    plan: ViewPlan, sample: pa.Table, event: str, at: Sequence[Time | Mapping[str, Any]] | None
) -> pa.Table:
    """Keys and times that values are asked for, as columns."""
    keys = {key.name: key.type for key in plan.join_keys}
    if at is None:
        at = sorted(sample[event].to_pylist())[-1:]
    asked = [row for row in at if isinstance(row, Mapping)]
    if not asked:
        missing = sorted(keys.keys() - set(sample.column_names))
        if missing:
            raise HeadwaterError(
                f"the events have no {missing}; say which entities, with rows in `at`"
            )
        entities = list(dict.fromkeys(zip(*(sample[name].to_pylist() for name in keys),
                                          strict=True)) if keys else [()])  # fmt: skip
        asked = [
            {**dict(zip(keys, entity, strict=True)), TIME_COLUMN: time}
            for entity in entities if None not in entity for time in at
        ]  # fmt: skip
    elif len(asked) < len(at):
        raise HeadwaterError("`at` mixes times and rows; give one or the other")
    kinds = {**keys, TIME_COLUMN: "UNIX_TIMESTAMP"}
    return _columns(asked, kinds, f"feature view {plan.name!r}", set(kinds))
