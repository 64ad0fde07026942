"""What models predicted and what came of it: a Delta table beside the logs, and quality from it.

A row is a prediction or an outcome; they meet by model and prediction id, in whatever order they
come. Of several outcomes of a prediction the last to arrive counts, of several predictions with one
id the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.arrow import TIMESTAMP
from headwater.catalog import Catalog
from headwater.errors import BadRequestError
from headwater.offline.files import storage_options
from headwater.quality import model_quality
from headwater.quality.model_quality import Task
from headwater.times import micros

DAY_US = 86_400_000_000
SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string()),  # prediction or outcome
        pa.field("model", pa.string()),
        pa.field("version", pa.string()),
        pa.field("prediction_id", pa.string()),
        pa.field("entity", pa.string()),  # JSON
        pa.field("number", pa.float64()),
        pa.field("label", pa.string()),
        pa.field("flag", pa.bool_()),
        pa.field("at", TIMESTAMP),
        pa.field("arrived", TIMESTAMP),
    ]
)


class Record(NamedTuple):
    """A prediction or an outcome; one of number, label and flag is set. Times in microseconds."""

    kind: str
    model: str
    version: str
    prediction_id: str
    entity: str
    number: float | None
    label: str | None
    flag: bool | None
    at: int
    arrived: int


def path_of(catalog: Catalog) -> str:
    return f"{catalog.log_root.rstrip('/')}/_predictions"


def write(path: str, records: Sequence[Record]) -> None:
    """Append records, all or none. Raises StoreUnavailableError where the table fails."""
    from deltalake import write_deltalake

    from headwater.offline.log import PROPERTIES, log_errors

    columns = zip(*records, strict=True)
    arrays = [
        pa.array(column, f.type if f.type != TIMESTAMP else pa.int64()).cast(f.type)
        for column, f in zip(columns, SCHEMA, strict=True)
    ]
    with log_errors(path):
        write_deltalake(
            path, pa.table(arrays, SCHEMA), mode="append", configuration=PROPERTIES,
            storage_options=storage_options(path),
        )  # fmt: skip


# -- from a request ----------------------------------------------------------------------------

_PREDICTION = {"model", "version", "prediction_id", "entity", "prediction", "timestamp"}
_OUTCOME = {"model", "prediction_id", "outcome", "timestamp"}


def records_of(body: Any, now_us: int, new_id: Callable[[], str]) -> list[Record]:
    """The records of a request. Raises BadRequestError for what makes no sense.

    body: {"predictions": [{model, version, prediction, entity?, prediction_id?, timestamp?}],
    "outcomes": [{model, prediction_id, outcome, timestamp?}]}; a value is a number (of a binary
    model the probability), text (a class), or for outcomes true or false.
    """
    known = {"predictions", "outcomes"}
    if not isinstance(body, dict) or not body or body.keys() - known:
        raise BadRequestError('the body is {"predictions": [...], "outcomes": [...]}, or one')
    found = []
    for name, kind in (("predictions", "prediction"), ("outcomes", "outcome")):
        rows = body.get(name, [])
        if not isinstance(rows, list):
            raise BadRequestError(f'"{name}" must be a list')
        for at, row in enumerate(rows):
            try:
                found.append(_record(kind, row, now_us, new_id))
            except (TypeError, ValueError) as error:
                raise BadRequestError(f"{name}[{at}]: {error}") from error
    return found


def _record(kind: str, row: Any, now_us: int, new_id: Callable[[], str]) -> Record:
    wanted = _PREDICTION if kind == "prediction" else _OUTCOME
    if not isinstance(row, dict):
        raise TypeError("it must be an object")
    unknown = sorted(row.keys() - wanted)
    if unknown:
        raise ValueError(f"{unknown} are unknown; there are {sorted(wanted)}")
    number, label, flag = _value(kind, row.get(kind))
    made = _text(row, "prediction_id") if "prediction_id" in row else ""
    if not made and kind == "outcome":
        raise ValueError('it lacks "prediction_id"')
    version = _text(row, "version") if kind == "prediction" else ""
    entity = row.get("entity", {})
    if not isinstance(entity, dict):
        raise TypeError('"entity" must be an object of join keys')
    return Record(
        kind, _text(row, "model"), version, made or new_id(), json.dumps(entity, sort_keys=True),
        number, label, flag, _time(row.get("timestamp"), now_us), now_us,
    )  # fmt: skip


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value):
        raise ValueError(f'"{name}" must be text, not {value!r}')
    if len(str(value)) > 200:
        raise ValueError(f'"{name}" is longer than 200 characters')
    return str(value)


def _value(kind: str, value: Any) -> tuple[float | None, str | None, bool | None]:
    if isinstance(value, bool):
        if kind == "outcome":
            return None, None, value
    elif isinstance(value, int | float) and np.isfinite(value):
        return float(value), None, None
    elif isinstance(value, str):
        return None, value, None
    allowed = "a number or text" if kind == "prediction" else "a number, text, true or false"
    raise ValueError(f'"{kind}" must be {allowed}, not {value!r}')


def _time(value: Any, now_us: int) -> int:
    if value is None:
        return now_us
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return micros(value)
    raise ValueError('"timestamp" must be ISO 8601, or a number of seconds')


# -- quality -----------------------------------------------------------------------------------


def quality(path: str, from_us: int, until_us: int, model: str = "") -> list[dict[str, Any]]:
    """By model, version and day of the prediction (UTC): {model, version, day, predictions,
    outcomes, task, and its measures}; the predictions made in [from_us, until_us)."""
    table = read(path, model)
    if table is None:
        return []
    made = _first(table.filter(pc.equal(table["kind"], "prediction")))
    outcomes = _last(table.filter(pc.equal(table["kind"], "outcome")))
    times = made["at"].cast(pa.int64()).to_numpy()
    made = made.filter(pa.array((times >= from_us) & (times < until_us)))
    at = pc.index_in(_ids(made), _ids(outcomes))
    days = (made["at"].cast(pa.int64()).to_numpy() // DAY_US).astype(np.int64)
    groups = pa.table({"model": made["model"], "version": made["version"], "day": pa.array(days)})
    keys = groups.group_by(["model", "version", "day"]).aggregate([]).sort_by(
        [("model", "ascending"), ("version", "ascending"), ("day", "ascending")]
    )  # fmt: skip
    numbered = pc.index_in(_joined(groups), _joined(keys)).to_numpy(zero_copy_only=False)
    found = []
    for number, key in enumerate(keys.to_pylist()):
        rows = pa.array(np.flatnonzero(numbered == number))
        one, where = made.take(rows), at.take(rows)
        known = where.is_valid()
        scored = _scored(one.filter(known), outcomes.take(where.filter(known)))
        day = datetime.fromtimestamp(key["day"] * 86_400, UTC).date().isoformat()
        counts = {"predictions": len(rows), "outcomes": int(pc.sum(known).as_py() or 0)}
        found.append({"model": key["model"], "version": key["version"], "day": day, **counts,
                      **scored})  # fmt: skip
    return found


def read(path: str, model: str = "", after_us: int | None = None) -> pa.Table | None:
    """Records by their arrival, of one model or all, those that arrived after a time; None where
    nothing was ever logged."""
    import pyarrow.dataset as ds
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    from headwater.offline.data_files import dataset_of
    from headwater.offline.log import log_errors

    with log_errors(path):
        try:
            table = DeltaTable(path, storage_options=storage_options(path))
        except TableNotFoundError:
            return None
        wanted = ds.field("model") == model if model else ds.scalar(True)
        if after_us is not None:
            wanted &= ds.field("arrived") > pa.scalar(after_us, TIMESTAMP)
        return dataset_of(table).to_table(filter=wanted).sort_by("arrived")


def _ids(table: pa.Table) -> pa.Array:
    """Model and id as one text, since an id is one only within its model."""
    joined = pc.binary_join_element_wise(
        table["model"].cast(pa.string()), table["prediction_id"].cast(pa.string()), "\0"
    )
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def _joined(table: pa.Table) -> pa.Array:
    joined = pc.binary_join_element_wise(
        *(table[name].cast(pa.string()) for name in ("model", "version", "day")), "\0"
    )
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def _first(table: pa.Table) -> pa.Table:
    _, at = np.unique(_ids(table).to_numpy(zero_copy_only=False).astype(str), return_index=True)
    return table.take(pa.array(np.sort(at)))


def _last(table: pa.Table) -> pa.Table:
    turned = table.take(pa.array(np.arange(table.num_rows)[::-1].copy()))
    return _first(turned)


def _scored(predicted: pa.Table, outcome: pa.Table) -> dict[str, Any]:
    """The measures of the task that most pairs are of; None where there is no pair."""
    tasks: list[tuple[Task, str, str]] = [
        ("regression", "number", "number"), ("binary", "number", "flag"),
        ("multiclass", "label", "label"),
    ]  # fmt: skip
    best: tuple[int, Task, Any, Any] | None = None
    for task, a, b in tasks:
        both = pc.and_(predicted[a].is_valid(), outcome[b].is_valid())
        pairs = int(pc.sum(both).as_py() or 0)
        if pairs and (best is None or pairs > best[0]):
            columns = predicted[a].filter(both), outcome[b].filter(both)
            best = (pairs, task, *(c.to_numpy() for c in columns))
    if best is None:
        return {"task": None}
    pairs, task, p, o = best
    if task == "regression":
        measured: dict[str, Any] = model_quality.regression(p, o)
    elif task == "binary":
        inside = (p >= 0) & (p <= 1)
        o = o.astype(bool)
        measured = model_quality.binary(p[inside], o[inside]) if inside.any() else {}
        measured["outside_0_to_1"] = int((~inside).sum())
    else:
        measured = model_quality.multiclass(p.astype(str), o.astype(str))
    return {"task": task, "pairs": pairs, **measured}
