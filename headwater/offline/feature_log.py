"""The feature log: vectors as they were served, in Parquet files that say what they are made of.

Columns are Feast's (join keys, request inputs, `<view>__<feature>` with `__timestamp` and
`__status`, `__log_timestamp`, `__log_date`, `__request_id`) and ours: `__catalog` is the version of
the definitions, `__provenance__<view>` what the values were made of
(`headwater.online.provenance`), `__whole` a number among the file's `wholes`: how far the views'
state was whole when it was read, null where nothing is known; `__replaced__<view>`, where the view
enforces an objective, says of which vectors its values were replaced.

    for part in FeatureLog("data/feature-log/airport_board").read(since_us=...):
        part.plan.catalog, part.table
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from headwater.arrow import TIMESTAMP, arrow_type
from headwater.catalog import Catalog, FeatureRefPlan, ViewPlan
from headwater.errors import HeadwaterError
from headwater.offline.files import filesystem, open_target, write_file

LOG_TIME, LOG_DATE, REQUEST_ID = "__log_timestamp", "__log_date", "__request_id"
CATALOG, WHOLE = "__catalog", "__whole"
#: Feast's numbers of the statuses, in the order of `headwater.online.columns.STATUS_NAMES`.
STATUS_CODES = (1, 2, 3, 4)
_METADATA = b"headwater"
_NAME = re.compile(r"(\d{8}T\d{6}\.\d{6})-[0-9a-f]+\.parquet")
#: How names of files begin.
TIME_FORMAT = "%Y%m%dT%H%M%S.%f"

#: view -> [(topic, partition, the offset before which all events were in the state)].
Whole = dict[str, list[tuple[str, int, int]]]


class LoggedRead(msgspec.Struct, frozen=True):
    """Features of one view that were read; `columns` are the log's columns of its join keys."""

    view: str
    alias: str
    features: tuple[str, ...]
    columns: tuple[str, ...]


class LogPlan(msgspec.Struct, frozen=True):
    """What a file's vectors are: of which service ("" for features by name), by which definitions.

    `catalog` holds what the vectors need of it, without code: that is only ever taken from a
    registry. `on_demand` are the on-demand views that were computed.
    """

    catalog: Catalog
    service: str
    reads: tuple[LoggedRead, ...]
    on_demand: tuple[str, ...] = ()

    def key_types(self) -> dict[str, str]:
        """The log's key columns and their types."""
        return {
            column: key.type
            for read in self.reads
            for column, key in zip(read.columns, self.view(read).join_keys, strict=True)
        }

    def request_types(self) -> dict[str, str]:
        return {
            f.name: f.type for n in self.on_demand for f in self.catalog.on_demand[n].request_fields
        }

    def view(self, read: LoggedRead) -> ViewPlan:
        return self.catalog.views[read.view]


class _FileData(msgspec.Struct):
    plan: LogPlan
    wholes: list[Whole]


@dataclass(frozen=True)
class Part:
    """Logged vectors of one plan. wholes: what `__whole` counts into."""

    plan: LogPlan
    table: pa.Table
    wholes: list[Whole]

    def times(self) -> pa.Array:
        return self.table[LOG_TIME].cast(pa.int64()).to_numpy()


def log_plan(
    catalog: Catalog, service: str, reads: Sequence[LoggedRead], on_demand: Sequence[str]
) -> LogPlan:
    """A plan with the part of the catalogue that it needs."""
    views = {read.view: catalog.views[read.view] for read in reads}
    streams = {v.stream: catalog.streams[v.stream] for v in views.values() if v.stream}
    demanded = {name: catalog.on_demand[name] for name in on_demand}
    strip = msgspec.structs.replace
    part = strip(
        catalog, redis_url="", entities={}, push_sources={}, services={}, streams=streams,
        views={
            n: strip(v, udf=strip(v.udf, body=b"") if v.udf else None) for n, v in views.items()
        },
        on_demand={n: strip(v, code=strip(v.code, body=b"")) for n, v in demanded.items()},
    )  # fmt: skip
    return LogPlan(part, service, tuple(reads), tuple(on_demand))


def with_code(catalog: Catalog, registry: Catalog) -> tuple[Catalog, list[str]]:
    """A log's catalogue with the code that a registry holds under the same text.

    Returns the names of the views whose code the registry no longer has as well.
    """
    gone: list[str] = []
    views, demanded = dict(catalog.views), dict(catalog.on_demand)
    for name, view in catalog.views.items():
        if view.udf is not None:
            now = registry.views.get(name)
            held = now.udf if now is not None else None
            if held is None or (held.text, held.name) != (view.udf.text, view.udf.name):
                gone.append(name)
            else:
                views[name] = msgspec.structs.replace(view, udf=held)
    for name, plan in catalog.on_demand.items():
        there = registry.on_demand.get(name)
        if there is None or (there.code.text, there.code.name) != (plan.code.text, plan.code.name):
            gone.append(name)
        else:
            demanded[name] = msgspec.structs.replace(plan, code=there.code)
    return msgspec.structs.replace(catalog, views=views, on_demand=demanded), gone


class FeatureLog:
    """A folder of logged vectors."""

    def __init__(self, path: str, endpoint: str = "") -> None:
        self.path, self._endpoint = path, endpoint

    def write(
        self, plan: LogPlan, table: pa.Table, wholes: Sequence[Whole], name: str = ""
    ) -> None:
        """Add vectors as a file, whole or not at all. Raises OSError where the store fails.

        name: a time before which none of them was served (`TIME_FORMAT`), and hex digits of its
        own; a file of the same name is replaced. Without one it is made up.
        """
        data = msgspec.json.encode(_FileData(plan, list(wholes)))
        schema = pa.schema(_never_null(table.schema), {_METADATA: data})
        table = pa.Table.from_arrays(table.columns, schema=schema)
        store, folder = open_target(self.path, self._endpoint)
        name = name or new_name(pc.min(table[LOG_TIME]).cast(pa.int64()).as_py())
        write_file(table, store, f"{folder}/{name}.parquet", **_cheaply(table))

    def read(
        self, since_us: int | None = None, until_us: int | None = None, rows: int = 500_000
    ) -> Iterator[Part]:
        """Vectors that were served within the times (both inclusive), about `rows` at once.

        Files that Headwater's service did not write are left out. Raises HeadwaterError where
        there is no log.
        """
        waiting: list[Part] = []
        held = 0
        for store, info in self._files(until_us):
            part = _read(store, info.path, since_us, until_us)
            if part is None or not part.table.num_rows:
                continue
            if waiting and (part.plan != waiting[0].plan or held >= rows):
                yield _together(waiting)
                waiting, held = [], 0
            waiting.append(part)
            held += part.table.num_rows
        if waiting:
            yield _together(waiting)

    def read_written(self, since_us: int, until_us: int) -> Iterator[tuple[Part, int]]:
        """The files that were written after `since_us` and up to `until_us`, and when."""
        for store, info in self._files(None):
            written = info.mtime_ns // 1000
            if since_us < written <= until_us:
                part = _read(store, info.path, None, None)
                if part is not None:
                    yield part, written

    def exists(self) -> bool:
        """Whether there is anything at the path."""
        try:
            filesystem(self.path, self._endpoint)
        except (FileNotFoundError, OSError):
            return False
        return True

    def folders(self) -> list[str]:
        """The names of the folders in it; none where it does not exist."""
        if not self.exists():
            return []
        store, path = filesystem(self.path, self._endpoint)
        found = store.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return sorted(i.base_name for i in found if i.type == pafs.FileType.Directory)

    def _files(self, until_us: int | None) -> Iterator[tuple[pafs.FileSystem, pafs.FileInfo]]:
        """Files that may hold vectors up to a time, in the order of their first vector."""
        try:
            store, path = filesystem(self.path, self._endpoint)
            found = store.get_file_info(pafs.FileSelector(path, recursive=True))
        except (FileNotFoundError, OSError) as error:
            raise HeadwaterError(
                f"there is no feature log at {self.path}: {error}; docs/verify.md says how to "
                "keep one"
            ) from error
        for info in sorted(found, key=lambda info: info.base_name):
            name = _NAME.fullmatch(info.base_name)
            if name is None:
                continue
            first = datetime.strptime(name[1], TIME_FORMAT).replace(tzinfo=UTC).timestamp() * 1e6
            if until_us is None or first <= until_us + 1:
                yield store, info


def new_name(first_us: int) -> str:
    """A name for vectors of which none was served before a time."""
    time = datetime.fromtimestamp(first_us / 1e6, UTC).strftime(TIME_FORMAT)
    return f"{time}-{secrets.token_hex(6)}"


def _statuses(names: Sequence[str]) -> set[str]:
    """The columns of statuses."""
    there = set(names)
    return {status for name in names if (status := f"{name}__status") in there}


def _never_null(schema: pa.Schema) -> Iterator[pa.Field]:
    """Fields of which those that are never null say so: it need not be written of each value."""
    never = {LOG_TIME, LOG_DATE, REQUEST_ID, CATALOG} | _statuses(schema.names)
    for field in schema:
        yield field.with_nullable(field.name not in never)


def _cheaply(table: pa.Table) -> dict[str, Any]:
    """How Parquet is written: by what costs least for what a column holds.

    Floating numbers hardly repeat, so that a dictionary or compression would only look for what is
    not there; times differ by little, unless all are one; whole numbers are small; ids of requests
    are alike but for their ends; statuses are one in long runs; all else repeats. Nobody asks for
    statistics of features.
    """
    schema = table.schema
    leaves = {path: kind for field in schema for path, kind in _leaves(field.name, field.type)}
    floats = {path for path, kind in leaves.items() if pa.types.is_floating(kind)}
    times = {path for path, kind in leaves.items() if pa.types.is_timestamp(kind)}
    whole = {path for path, kind in leaves.items() if pa.types.is_int64(kind)}
    statuses = _statuses(schema.names)
    features = {name.removesuffix("__status") for name in statuses}
    known = features | statuses | {f"{name}__timestamp" for name in features}
    alike = {path for path in times & known if _is_one(table[path])}
    differ = times - alike
    return {
        "use_dictionary": [
            path for path in leaves if path not in floats | times | whole | statuses | {REQUEST_ID}
        ],
        "column_encoding": dict.fromkeys(differ, "DELTA_BINARY_PACKED"),
        "compression": {path: "none" if path in floats | differ else "snappy" for path in leaves},
        "write_statistics": [path for path in leaves if path.partition(".")[0] not in known],
        "write_batch_size": 1 << 16,
    }


def _is_one(column: pa.ChunkedArray) -> bool:
    """Whether all values are the same."""
    if column.null_count or not len(column) or column[0] != column[-1]:
        return False
    ends = pc.min_max(column)
    return bool(ends["min"] == ends["max"])


def _leaves(path: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """Parquet's columns of a column of Arrow's."""
    if pa.types.is_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", field.type)
    elif pa.types.is_dictionary(kind):
        yield path, kind.value_type
    else:
        yield path, kind


def named_logs(catalog: Catalog, root: str) -> dict[str, FeatureLog]:
    """Feature service -> its log: services' own, and the folders in `root` (a setting)."""
    found = {
        s.name: FeatureLog(s.logging.path, s.logging.s3_endpoint)
        for s in catalog.services.values()
        if s.logging is not None
    }
    for name in FeatureLog(root).folders() if root else ():
        found.setdefault(name, FeatureLog(f"{root.rstrip('/')}/{name}"))
    return {name: log for name, log in found.items() if log.exists()}


def _read(store: pafs.FileSystem, path: str, since: int | None, until: int | None) -> Part | None:
    try:
        with store.open_input_file(path) as source, pq.ParquetFile(source) as file:
            data = (file.schema_arrow.metadata or {}).get(_METADATA)
            if data is None:
                return None
            table = file.read()
    except (OSError, pa.ArrowInvalid) as error:
        raise HeadwaterError(f"{path} in the feature log cannot be read: {error}") from error
    for us, within in ((since, pc.greater_equal), (until, pc.less_equal)):
        if us is not None:
            table = table.filter(within(table[LOG_TIME], pa.scalar(us, TIMESTAMP)))
    held = msgspec.json.decode(data, type=_FileData)
    return Part(held.plan, table.replace_schema_metadata(None), held.wholes)


def _together(parts: Sequence[Part]) -> Part:
    wholes: list[Whole] = []
    tables = []
    for part in parts:
        at = part.table.column_names.index(WHOLE)
        number = pc.add(part.table[WHOLE], pa.scalar(len(wholes), pa.int32()))
        tables.append(part.table.set_column(at, WHOLE, number))
        wholes += part.wholes
    # Files of before did not say of all columns that they are never null.
    return Part(parts[0].plan, pa.concat_tables(tables, promote_options="default"), wholes)


def system_columns(
    times_us: pa.Array, request: pa.Array, whole: pa.Array, version: str
) -> dict[str, pa.Array]:
    """The columns that do not depend on the features."""
    times = times_us.cast(TIMESTAMP)
    versions = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int8()), len(times)),
                                              pa.array([version]))  # fmt: skip
    return {
        WHOLE: whole.cast(pa.int32()), CATALOG: versions, LOG_TIME: times,
        LOG_DATE: times.cast(pa.date32()), REQUEST_ID: request,
    }  # fmt: skip


def titled(read: LoggedRead) -> Mapping[str, str]:
    """Feature -> its column in the log."""
    return {feature: f"{read.alias}__{feature}" for feature in read.features}


def provenance_column(read: LoggedRead) -> str:
    return f"__provenance__{read.alias}"


def replaced_column(read: LoggedRead) -> str:
    """Whether a budget put something in place of what was held (`headwater.quality.budgets`)."""
    return f"__replaced__{read.alias}"


def reference(read: LoggedRead, view: ViewPlan) -> FeatureRefPlan:
    """The read as a training set asks for it."""
    renamed = {k.name: c for k, c in zip(view.join_keys, read.columns, strict=True) if k.name != c}
    return FeatureRefPlan(read.view, read.features, read.alias, renamed)


def feature_type(view: ViewPlan, feature: str) -> pa.DataType:
    return arrow_type(next(f.type for f in view.features if f.name == feature))
