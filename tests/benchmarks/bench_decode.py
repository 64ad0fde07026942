"""Decoding: CPU ns an event from bytes to Arrow columns, beside other ways to read JSON."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from io import BytesIO
from itertools import chain
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import msgspec
import orjson
import pyarrow as pa
import pyarrow.json

from headwater.settings import Settings
from ingest.decoders import make_decoder
from tests.decoding import avro, avro_source, proto_messages, proto_source, record, records, source

FIELDS = "user_id INT64, at UNIX_TIMESTAMP, amount DOUBLE, country STRING, ok BOOL, n INT64"
AVRO = record(
    ("user_id", "long"), ("at", {"type": "long", "logicalType": "timestamp-millis"}),
    ("amount", ["null", "double"]), ("country", "string"), ("ok", "boolean"), ("n", "long"),
)  # fmt: skip
PROTO = """
syntax = "proto3";
message Bench {
  int64 user_id = 1; int64 at = 2; optional double amount = 3; string country = 4; bool ok = 5;
  int64 n = 6;
}
"""
SIZES = (200, 5_000, 20_000)
REPEATS = 3 if "--quick" in sys.argv else 9
Values = list[bytes]


def events(iso: bool) -> list[dict[str, Any]]:
    chance = random.Random(1)
    return [
        {
            "user_id": chance.randrange(100_000),
            "at": f"2026-01-01T10:00:{i % 60:02}.{i:06}Z" if iso else 1_760_000_000_000 + i,
            "amount": round(chance.random() * 1000, 2),
            "country": chance.choice(["de", "fr", "us", "at"]),
            "ok": chance.random() < 0.5, "n": chance.randrange(100), "else": "x" * 20,
        }
        for i in range(SIZES[-1])
    ]  # fmt: skip


def show(name: str, make: Callable[[Values], Callable[[], object]], values: Values) -> None:
    """The best of some runs for each batch size; `make` prepares what is not measured."""
    taken = []
    for size in SIZES:
        run = make(values[:size])
        times = max(1, 20_000 // size)
        best = float("inf")
        for _ in range(REPEATS):
            start = time.process_time()
            for _ in range(times):
                run()
            best = min(best, (time.process_time() - start) / times / size)
        taken.append(f"{best * 1e9:9,.0f}")
    print(f"{name:44}" + "".join(taken))


def ours(plan: Any) -> Callable[[Values], Callable[[], object]]:
    decoder = make_decoder(plan, Settings())

    def make(values: Values) -> Callable[[], object]:
        packed = records(values)
        return lambda: decoder.decode(packed)

    return make


def spoiled(every: int) -> Callable[[Values], Callable[[], object]]:
    """Ours with one bad message in so many."""
    inner = ours(source(FIELDS))
    return lambda values: inner([b'{"at":' if i % every == 0 else v for i, v in enumerate(values)])


# -- other ways: none of them checks as much, and times stay numbers --------------------------

_NAMES = [field.split()[0] for field in FIELDS.split(", ")]
_STRUCT = msgspec.defstruct(
    "Event",
    [(n, t | None, None) for n, t in zip(_NAMES, (int, int, float, str, bool, int), strict=True)],
    gc=False,
)
_SCHEMA = pa.schema(
    [("user_id", pa.int64()), ("at", pa.int64()), ("amount", pa.float64()),
     ("country", pa.string()), ("ok", pa.bool_()), ("n", pa.int64())]
)  # fmt: skip


def structs(columns: Callable[[list[Any]], list[Any]]) -> Callable[[Values], Callable[[], object]]:
    """msgspec structs of an array of all messages, and a way from structs to columns."""
    decoder = msgspec.json.Decoder(list[_STRUCT])  # type: ignore[valid-type]

    def make(values: Values) -> Callable[[], object]:
        data = b"[" + b",".join(values) + b"]"
        return lambda: [
            pa.array(column, kind)
            for column, kind in zip(columns(decoder.decode(data)), _SCHEMA.types, strict=True)
        ]

    return make


def flat(found: list[Any]) -> list[Any]:
    cells = list(chain.from_iterable(map(msgspec.structs.astuple, found)))
    return [cells[i :: len(_NAMES)] for i in range(len(_NAMES))]


def lines(read: Callable[[bytes], object]) -> Callable[[Values], Callable[[], object]]:
    def make(values: Values) -> Callable[[], object]:
        data = b"\n".join(values)
        return lambda: read(data)

    return make


def by_duckdb(values: Values) -> Callable[[], object]:
    connection = duckdb.connect()
    connection.register("messages", pa.table({"value": pa.array(values, pa.binary()).cast("utf8")}))
    kinds = dict(zip(_NAMES, ("BIGINT", "BIGINT", "DOUBLE", "VARCHAR", "BOOLEAN", "BIGINT"),
                     strict=True))  # fmt: skip
    query = f"SELECT unnest(from_json(value, '{json.dumps(kinds)}')) FROM messages"  # noqa: S608
    return lambda: connection.sql(query).to_arrow_table()


def by_polars(values: Values) -> Callable[[], object]:
    import polars as pl

    schema = dict(zip(_NAMES, (pl.Int64, pl.Int64, pl.Float64, pl.String, pl.Boolean, pl.Int64),
                      strict=True))  # fmt: skip
    return lines(lambda data: pl.read_ndjson(BytesIO(data), schema=schema).to_arrow())(values)


def by_pyarrow(data: bytes) -> object:
    options = pa.json.ParseOptions(_SCHEMA, unexpected_field_behavior="ignore")
    return pa.json.read_json(BytesIO(data), parse_options=options)


def main() -> None:
    numbers, texts = events(iso=False), events(iso=True)
    values = [json.dumps(event).encode() for event in numbers]
    print(f"{sum(map(len, values)) // len(values)} bytes of JSON; CPU ns an event at batches of")
    print(" " * 44 + "".join(f"{size:9,}" for size in SIZES))
    show("JSON, epoch times", ours(source(FIELDS)), values)
    show("JSON, ISO 8601 times", ours(source(FIELDS)), [json.dumps(e).encode() for e in texts])
    show("JSON, one bad message in 5,000", spoiled(5_000), values)
    show("JSON, one bad message in 100", spoiled(100), values)
    show("  msgspec structs, tuples, one flat list", structs(flat), values)
    show("  msgspec structs, attrgetter for each field",
         structs(lambda es: [list(map(attrgetter(n), es)) for n in _NAMES]), values)  # fmt: skip
    together = attrgetter(*_NAMES)
    show("  msgspec structs, zip of attrgetter tuples",
         structs(lambda es: list(zip(*map(together, es), strict=True))), values)  # fmt: skip
    show("  orjson, from_pylist",
         lines(lambda data: pa.Table.from_pylist(
             [orjson.loads(line) for line in data.split(b"\n")], _SCHEMA)), values)  # fmt: skip
    show("  pyarrow.json", lines(by_pyarrow), values)
    try:
        show("  polars read_ndjson", by_polars, values)
    except ImportError:
        print("  polars is not installed")
    show("  duckdb from_json", by_duckdb, values)
    shorter = [{name: event[name] for name in _NAMES} for event in numbers]
    written = [avro({**AVRO, "fields": [{**f, "type": "long"} if f["name"] == "at" else f
                                        for f in AVRO["fields"]]}, e) for e in shorter]  # fmt: skip
    show("Avro, plain", ours(avro_source(AVRO)), written)
    with TemporaryDirectory() as folder:
        file = Path(folder, "bench.proto")
        file.write_text(PROTO)
        made = proto_messages(file, Path(folder)).Bench
    show("Protobuf", ours(proto_source(made)), [made(**e).SerializeToString() for e in shorter])


if __name__ == "__main__":
    main()
