"""What the tests of the decoders share: sources, records, and what a decoder said as plain data."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import numpy as np

from headwater import avro_fields, proto_fields
from headwater.catalog import FieldPlan, StreamSourcePlan
from headwater.message_fields import choose
from headwater.settings import Settings
from ingest.decoders import Decoder, make_decoder
from ingest.records import PackedRecords, TopicPartition


def source(fields: str, **changes: Any) -> StreamSourcePlan:
    """A JSON source with "name TYPE, ..." fields whose event time is `at`."""
    planned = tuple(FieldPlan(*field.split()) for field in fields.split(","))
    plan = StreamSourcePlan("clicks", ("clicks",), "", "json", planned, "at")
    return msgspec.structs.replace(plan, **changes)


def decoder(fields: str, **changes: Any) -> Decoder:
    return make_decoder(source(fields, **changes), Settings())


def records(values: Sequence[bytes | None]) -> PackedRecords:
    places = np.arange(len(values), dtype=np.int64)
    return PackedRecords.of(TopicPartition("clicks", 0), values, places, places)


def said(found: Decoder, values: Sequence[bytes | None]) -> list[Any]:
    """For each message its event as a dict, or the reason why it is none."""
    decoded = found.decode(records(values))
    out: list[Any] = [None] * len(values)
    assert decoded.kept.tolist() == sorted(decoded.kept.tolist())
    assert decoded.rejected == sorted(decoded.rejected)
    events = decoded.columns.to_pylist()
    pairs = [*zip(decoded.kept.tolist(), events, strict=True), *decoded.rejected]
    assert sorted(at for at, _ in pairs) == list(range(len(values)))
    for at, what in pairs:
        out[at] = what
    return out


def avro_source(schema: Any, **changes: Any) -> StreamSourcePlan:
    """An Avro source whose event time is `at`, planned as the catalogue plans it."""
    text = json.dumps(schema)
    fields = choose("clicks", avro_fields.leaves("clicks", text), ["at"])
    planned = tuple(
        msgspec.structs.replace(f, type="UNIX_TIMESTAMP") if f.name == "at" else f for f in fields
    )
    plan = StreamSourcePlan("clicks", ("clicks",), "", "avro", planned, "at", avro_schema=text)
    return msgspec.structs.replace(plan, **changes)


def record(*fields: Any, name: str = "Click") -> dict[str, Any]:
    """An Avro record schema of (name, type[, default]) fields."""
    made = [dict(zip(("name", "type", "default"), field, strict=False)) for field in fields]
    return {"type": "record", "name": name, "fields": made}


def avro(schema: Any, value: Any) -> bytes:
    data = BytesIO()
    fastavro.schemaless_writer(data, schema, value)
    return data.getvalue()


def framed(schema_id: int, value: bytes) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big") + value


def generate(proto: Path, into: Path) -> Path:
    """The Python module that protoc makes of a .proto file."""
    import grpc_tools
    from grpc_tools import protoc

    own = Path(grpc_tools.__file__).parent / "_proto"
    folders = [f"-I{proto.parent}", f"-I{own}", f"--python_out={into}"]
    assert not protoc.main(["", *folders, str(proto)])
    return into / f"{proto.stem}_pb2.py"


def proto_messages(proto: Path, into: Path) -> Any:
    """The module of a .proto file, loaded under a name that nobody imports."""
    path = generate(proto, into)
    spec = importlib.util.spec_from_file_location(f"_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def proto_source(message: Any, time: str = "at", **changes: Any) -> StreamSourcePlan:
    """A Protobuf source of a generated class, planned as the catalogue plans it."""
    descriptor = message.DESCRIPTOR
    fields = choose("clicks", proto_fields.leaves(descriptor), [time])
    planned = tuple(
        msgspec.structs.replace(f, type="UNIX_TIMESTAMP") if f.name == time else f for f in fields
    )
    plan = StreamSourcePlan(
        "clicks", ("clicks",), "", "proto", planned, time, proto_class=descriptor.full_name,
        proto_descriptors=proto_fields.pack(descriptor),
    )  # fmt: skip
    return msgspec.structs.replace(plan, **changes)
