"""The sketches of a project: a Delta table beside its logs, a row a view, feature and hour.

Several rows of one key add up; how far was sketched is noted in the commit that adds the rows,
with a Delta transaction, so that nothing counts twice, whoever sketches at the same time.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, TableNotFoundError

from headwater.arrow import TIMESTAMP
from headwater.catalog import Catalog
from headwater.errors import LogConflictError
from headwater.offline.data_files import dataset_of
from headwater.offline.files import storage_options
from headwater.offline.log import PROPERTIES, log_errors
from headwater.quality.drift import Span
from headwater.quality.feature_sketches import HOUR_US, FeatureSketch, Stored, merged

Origin = Literal["offline", "served", "predictions", "mark"]
#: The origin of rows that say how far a thing has been sketched: JSON in `type`; `rows` counts up.
_MARK: Origin = "mark"
#: The feature of rows that count a view's rows.
ROWS = ""
_TIDIED = "tidied"
#: Rows that are made for the table at once.
_BATCH_ROWS = 10_000
#: Hours after which what lies in them is put together.
_TIDY_HOURS = 6
_SCHEMA = pa.schema(
    [
        pa.field("origin", pa.string(), False),
        pa.field("service", pa.string(), False),
        pa.field("view", pa.string(), False),
        pa.field("feature", pa.string(), False),
        pa.field("hour", TIMESTAMP, False),
        pa.field("type", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("rows", pa.int64()),
        pa.field("nulls", pa.int64()),
        pa.field("mean", pa.float64()),
        pa.field("squares", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("numbers", pa.binary()),
        pa.field("items", pa.binary()),
        pa.field("distinct", pa.binary()),
    ]
)
_STORED = Stored.__struct_fields__


class Key(NamedTuple):
    """Whose sketch: `service` is "" offline; `hour` in microseconds."""

    origin: Origin
    service: str
    view: str
    feature: str
    hour: int


class Mark(NamedTuple):
    """How far a thing has been sketched, as of a version of the table."""

    progress: dict[str, int]
    table: DeltaTable


Sketches = dict[Key, FeatureSketch]


class SketchTable:
    """Reads and adds sketches. Raises StoreUnavailableError where the table cannot be."""

    def __init__(self, catalog: Catalog) -> None:
        self.path = f"{catalog.log_root.rstrip('/')}/_sketches"
        self._options = storage_options(self.path)

    def mark(self, name: str) -> Mark:
        """How far a thing has been sketched."""
        with log_errors(self.path):
            table = self._open() or self._made()
            wanted = (ds.field("origin") == _MARK) & (ds.field("service") == name)
            held = dataset_of(table).to_table(["rows", "type"], wanted).sort_by("rows")
        text = held["type"][-1].as_py() if held.num_rows else "{}"
        return Mark(msgspec.json.decode(text, type=dict[str, int]), table)

    def add(
        self, name: str, mark: Mark, now_us: int, chunks: Iterable[Sketches] = (),
        replaced: str = "",
    ) -> None:  # fmt: skip
        """Add sketches and note how far a thing has been sketched with them, both or neither.

        mark: the one that `mark` gave, whose progress is read after the last of the chunks; where
        another process has noted one since, LogConflictError is raised. replaced: the rows that
        this is true of go.
        """

        def note() -> dict[str, Any]:
            row = _row(Key(_MARK, name, "", "", now_us), FeatureSketch("", "other"))
            row["rows"] = _number(mark.table, name)
            row["type"] = msgspec.json.encode(mark.progress).decode()
            return row

        def rows() -> Iterator[dict[str, Any]]:
            for chunk in chunks:
                yield from (_row(key, one) for key, one in chunk.items())
            yield note()

        predicate = None
        if replaced:
            predicate = f"({replaced}) OR (origin = '{_MARK}' AND service = {quoted(name)})"
        _write(mark.table, rows(), name, predicate)

    def read(
        self, origin: Origin, view: str, from_us: int, until_us: int,
        features: Iterable[str] | None = None, service: str | None = None,
    ) -> Sketches:  # fmt: skip
        """The sketches of the hours that begin in [from_us, until_us); `service` None is all."""
        table = self._open()
        if table is None:
            return {}
        wanted = (
            (ds.field("origin") == origin) & (ds.field("view") == view)
            & (ds.field("hour") >= pa.scalar(from_us, TIMESTAMP))
            & (ds.field("hour") < pa.scalar(until_us, TIMESTAMP))
        )  # fmt: skip
        if features is not None:
            wanted &= ds.field("feature").isin(list(features))
        if service is not None:
            wanted &= ds.field("service") == service
        with log_errors(self.path):
            return _sketches(dataset_of(table).to_table(filter=wanted))

    def span(
        self, origin: Origin, view: str, from_us: int, until_us: int, service: str | None = None
    ) -> Span:
        """All of a view's features over some hours."""
        return span_of(self.read(origin, view, from_us, until_us, None, service))

    def hours(self, origin: Origin, view: str, from_us: int, until_us: int) -> dict[int, int]:
        """The rows of each hour."""
        return span_of(self.read(origin, view, from_us, until_us, [ROWS])).hours

    def views(self, origin: Origin) -> list[str]:
        """The views that there are sketches of."""
        table = self._open()
        if table is None:
            return []
        wanted = (ds.field("origin") == origin) & (ds.field("feature") == ROWS)
        with log_errors(self.path):
            held = dataset_of(table).to_table(["view"], wanted)
        return sorted(pc.unique(held["view"]).to_pylist())

    def tidy(self, now_us: int, keep_us: int = 0) -> None:
        """Make one row of each key of hours that are over, and few files of many; drop the hours
        that began more than `keep_us` ago (0: none)."""
        until = (now_us // HOUR_US - 1) * HOUR_US
        held = self.mark(_TIDIED)
        since, table = held.progress.get("until", 0), held.table
        if until - since < _TIDY_HOURS * HOUR_US:
            return
        with log_errors(self.path):
            field, ends = ds.field("hour"), [pa.scalar(us, TIMESTAMP) for us in (since, until)]
            within = (field >= ends[0]) & (field < ends[1])
            rows = dataset_of(table).to_table(filter=within)
            marks = rows.filter(ds.field("origin") == _MARK).sort_by("rows").to_pylist()
            newest = {row["service"]: row for row in marks}
            kept = [_row(key, one) for key, one in _sketches(rows).items()] + [*newest.values()]
            low, high = (moment.as_py().isoformat() for moment in ends)
            _write(table, kept, _TIDIED, f"hour >= '{low}' AND hour < '{high}'")
            self.add(_TIDIED, Mark({"until": until}, table), now_us)
            if keep_us:
                oldest = pa.scalar(now_us - keep_us, TIMESTAMP).as_py().isoformat()
                with contextlib.suppress(CommitFailedError):  # somebody writes: the next time
                    table.delete(f"origin <> '{_MARK}' AND hour < '{oldest}'")
            table.optimize.compact()
            table.vacuum(retention_hours=24, dry_run=False, enforce_retention_duration=False)
            table.create_checkpoint()

    def _open(self) -> DeltaTable | None:
        with log_errors(self.path):
            try:
                return DeltaTable(self.path, storage_options=self._options)
            except TableNotFoundError:
                return None

    def _made(self) -> DeltaTable:
        if "://" not in self.path:
            Path(self.path).mkdir(parents=True, exist_ok=True)
        return DeltaTable.create(
            self.path, _SCHEMA, "ignore", configuration=PROPERTIES, storage_options=self._options
        )


def _write(
    table: DeltaTable, rows: Iterable[Mapping[str, Any]], name: str, predicate: str | None
) -> None:
    """One commit; of two from one version under one name the second is refused.

    The rows wait on disk: they are more than memory need hold, and may come by reading Delta
    tables, which cannot be done inside a writing of one.
    """
    mark = Transaction(name, _number(table, name))
    with TemporaryDirectory(prefix="headwater-sketches-") as folder:
        path = str(Path(folder) / "rows.arrow")
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, _SCHEMA) as stream:
            for batch in _batches(rows):
                stream.write_batch(batch)
        with pa.memory_map(path) as source, pa.ipc.open_stream(source) as reader:
            _commit(table, reader, mark, predicate)


def _commit(
    table: DeltaTable, rows: pa.RecordBatchReader, mark: Transaction, predicate: str | None
) -> None:
    path = table.table_uri
    with log_errors(path):
        try:
            write_deltalake(
                table, rows, mode="overwrite" if predicate else "append", predicate=predicate,
                commit_properties=CommitProperties(app_transactions=[mark]),
            )  # fmt: skip
        except CommitFailedError as error:
            raise LogConflictError(f"another process wrote to {path} at the same time") from error


def _batches(rows: Iterable[Mapping[str, Any]]) -> Iterator[pa.RecordBatch]:
    left = iter(rows)
    while some := list(islice(left, _BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist(some, _SCHEMA)


def _number(table: DeltaTable, name: str) -> int:
    """The number of the next commit under a name."""
    return int(table.transaction_version(name) or 0) + 1


def span_of(sketches: Mapping[Key, FeatureSketch]) -> Span:
    """The sketches of one view over all their hours."""
    parts: dict[str, list[FeatureSketch]] = defaultdict(list)
    hours: dict[int, int] = defaultdict(int)
    for key, sketch in sketches.items():
        if key.feature == ROWS:
            hours[key.hour] += sketch.rows
        else:
            parts[key.feature].append(sketch)
    found = {name: merged(some) for name, some in parts.items()}
    return Span({name: one for name, one in found.items() if one is not None}, dict(hours))


def add_to(held: Sketches, key: Key, sketch: FeatureSketch) -> None:
    """Add to what is held of a key; of two types, to that with the more rows."""
    before = held.get(key)
    whole = sketch if before is None else merged([before, sketch])
    if whole is not None:
        held[key] = whole


def _row(key: Key, sketch: FeatureSketch) -> dict[str, Any]:
    moment = pa.scalar(key.hour, TIMESTAMP)
    return {**key._asdict(), "hour": moment, **msgspec.structs.asdict(sketch.stored())}


def _sketches(rows: pa.Table) -> Sketches:
    found: dict[Key, list[FeatureSketch]] = defaultdict(list)
    hours = rows["hour"].cast(pa.int64()).to_pylist()
    for row, hour in zip(rows.drop_columns(["hour"]).to_pylist(), hours, strict=True):
        if row["origin"] != _MARK:
            key = Key(row["origin"], row["service"], row["view"], row["feature"], hour)
            found[key].append(FeatureSketch.of(Stored(**{name: row[name] for name in _STORED})))
    whole = {key: some[0] if len(some) == 1 else merged(some) for key, some in found.items()}
    return {key: one for key, one in whole.items() if one is not None}


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
