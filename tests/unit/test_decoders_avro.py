"""Avro records: types, logical types, resolution to the source's schema, the registry's frame."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from headwater import avro_fields
from headwater.errors import DefinitionError, StoreUnavailableError
from headwater.message_fields import choose
from headwater.settings import Settings
from ingest.decoders import Decoder, make_decoder
from ingest.decoders.registry import SchemaRegistry, UnknownSchemaError
from tests.decoding import avro, avro_source, framed, record, records, said

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
PLAIN = record(("user", "long"), ("amount", ["null", "double"], None), ("at", MILLIS))


def decoder(schema: Any, **changes: Any) -> Decoder:
    return make_decoder(avro_source(schema, **changes), Settings())


def one(schema: Any, value: Any) -> Any:
    return said(decoder(schema), [avro(schema, value)])[0]


def test_every_type_has_its_column() -> None:
    inner = record(("id", "int"), ("word", "string"), name="Inner")
    schema = record(
        ("b", "boolean"), ("i", "int"), ("l", "long"), ("f", "float"), ("d", "double"),
        ("raw", "bytes"), ("s", "string"), ("fix", {"type": "fixed", "name": "F", "size": 2}),
        ("e", {"type": "enum", "name": "E", "symbols": ["RED", "BLUE"]}),
        ("u", {"type": "string", "logicalType": "uuid"}),
        ("price", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}),
        ("day", {"type": "int", "logicalType": "date"}), ("micros", MICROS),
        ("local", {"type": "long", "logicalType": "local-timestamp-millis"}),
        ("tags", {"type": "array", "items": "string"}),
        ("times", {"type": "array", "items": MILLIS}), ("inner", ["null", inner]),
        ("other", {"type": "map", "values": "int"}), ("at", MILLIS),
    )  # fmt: skip
    who = uuid.UUID(int=7)
    assert one(schema, {
        "b": True, "i": -5, "l": 2**63 - 1, "f": 0.5, "d": 2.5, "raw": b"\xff", "s": "ü",
        "fix": b"ab", "e": "BLUE", "u": who, "price": Decimal("-12.34"), "day": date(2024, 5, 1),
        "micros": NOON, "local": NOON.replace(tzinfo=None), "tags": ["a", "b"], "times": [NOON],
        "inner": {"id": 3, "word": "x"}, "other": {"a": 1}, "at": NOON,
    }) == {
        "b": True, "i": -5, "l": 2**63 - 1, "f": 0.5, "d": 2.5, "raw": b"\xff", "s": "ü",
        "fix": b"ab", "e": "BLUE", "u": str(who), "price": -12.34,
        "day": datetime(2024, 5, 1, tzinfo=UTC), "micros": NOON, "local": NOON, "tags": ["a", "b"],
        "times": [NOON], "inner.id": 3, "inner.word": "x", "at": NOON,
    }  # fmt: skip


def test_null_is_null_in_unions_and_in_what_is_inside_them() -> None:
    inner = record(("id", "int"), name="Inner")
    schema = record(("inner", ["null", inner]), ("n", ["long", "null"]), ("at", MILLIS))
    assert one(schema, {"inner": None, "n": None, "at": NOON}) == {
        "inner.id": None, "n": None, "at": NOON,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "value"),
    [("long", 1714564800000), ("double", 1714564800.0), ("string", "2024-05-01T12:00Z")],
)
def test_an_event_time_without_a_logical_type_is_read_by_its_spelling(
    kind: str, value: Any
) -> None:
    assert one(record(("at", kind)), {"at": value}) == {"at": NOON}


def test_what_is_no_record_is_rejected_with_the_reason() -> None:
    good = avro(PLAIN, {"user": 1, "amount": None, "at": NOON})
    values = [good, b"", good[:-1], good + b"x", None, b"\xff" * 40, good]
    decoded = decoder(PLAIN).decode(records(values))
    assert decoded.kept.tolist() == [0, 6]
    assert [at for at, _ in decoded.rejected] == [1, 2, 3, 4, 5]
    reasons = [why for _, why in decoded.rejected]
    assert reasons[0] == "no record of the Avro schema: the bytes end before it does"
    assert reasons[2] == "1 bytes are left over after the Avro record"
    assert reasons[3] == "tombstone: the message has no value"


@pytest.mark.parametrize("moment", [2**62, -(2**62), 253_402_300_800_000, -62_135_596_800_001])
def test_an_absurd_time_is_rejected(moment: int) -> None:
    schema = record(("at", "long"))
    value = avro(schema, {"at": moment})
    timed = record(("at", MILLIS))
    assert str(said(decoder(timed), [value])[0]).startswith(f"at={moment}: want an ISO 8601")


def test_null_event_time_is_missing() -> None:
    schema = record(("at", ["null", MILLIS]))
    assert str(one(schema, {"at": None})).startswith("event time 'at' is missing")


def test_an_int_out_of_its_range_is_rejected() -> None:
    wide, narrow = record(("i", "long"), ("at", MILLIS)), record(("i", "int"), ("at", MILLIS))
    value = avro(wide, {"i": 2**40, "at": NOON})
    assert str(said(decoder(narrow), [value])[0]).startswith("i=1099511627776: want a whole number")


# -- what the catalogue makes of a schema --------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ({"type": "map", "values": "int"}, "it is a map"),
        (["null", "int", "string"], "it is a union of more than null and one type"),
        ({"type": "array", "items": ["null", "int"]}, "it is a union of more than null"),
        ({"type": "array", "items": record(("x", "int"), name="I")}, "it is a record in a list"),
        (["null", "Click"], "it is a record in a list, or one that contains itself"),
        ("null", "it is always null"),
    ],
)
def test_what_can_be_no_column_is_left_out_unless_a_view_uses_it(kind: Any, reason: str) -> None:
    schema = record(("odd", kind), ("at", MILLIS))
    offered = avro_fields.leaves("clicks", json.dumps(schema))
    assert [f.name for f in choose("clicks", offered, ["at"])] == ["at"]
    with pytest.raises(DefinitionError, match=f"'odd' can be no feature: {reason}"):
        choose("clicks", offered, ["at", "odd"])


@pytest.mark.parametrize("schema", ["", "[]", '"long"', '{"type": "record"}', '{"type": "what"}'])
def test_a_schema_that_is_no_record_is_refused(schema: str) -> None:
    with pytest.raises(DefinitionError, match="AvroFormat wants the JSON of a record's schema"):
        avro_fields.leaves("clicks", schema)


# -- the registry --------------------------------------------------------------------------------


class Registry:
    """The registry's two routes over schemas in memory, and faults on demand."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[tuple[str, str | None]] = []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append((self.path, self.headers["Authorization"]))
                missing = (404, {"error_code": 40403, "message": "Schema not found"})
                status, body = registry.answers.get(self.path, missing)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def add(self, schema_id: int, schema: Any, **more: Any) -> None:
        self.answers[f"/schemas/ids/{schema_id}"] = 200, {"schema": json.dumps(schema), **more}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def registry() -> Iterator[Registry]:
    server = Registry()
    yield server
    server.close()


@pytest.fixture
def framing(registry: Registry) -> Callable[..., Decoder]:
    """A decoder of a source with the registry configured."""
    settings = Settings(schema_registry_url=registry.url)
    return lambda schema, **changes: make_decoder(avro_source(schema, **changes), settings)


def test_a_writers_schema_is_fetched_once_and_resolved(
    registry: Registry, framing: Callable[..., Decoder]
) -> None:
    old = record(("user", "int"), ("gone", "string"), ("when", MILLIS))
    registry.add(7, old)
    reader = record(("user", "double"), ("at", MILLIS), ("word", "string", "none"))
    reader["fields"][1]["aliases"] = ["when"]
    value = framed(7, avro(old, {"user": 3, "gone": "x", "when": NOON}))
    found = framing(reader)
    for _ in range(3):
        assert said(found, [value, value]) == [{"user": 3.0, "at": NOON, "word": "none"}] * 2
    assert len(registry.asked) == 1


@pytest.mark.parametrize(
    ("theirs", "value"),
    [(MICROS, NOON), ({"type": "int", "logicalType": "date"}, date(2024, 5, 1))],
)
def test_a_writer_that_counts_time_in_another_unit_means_the_same_time(
    registry: Registry, framing: Callable[..., Decoder], theirs: Any, value: Any
) -> None:
    inner, outer = record(("t", theirs), name="I"), record(("t", ["null", MILLIS]), name="I")
    writer = record(("at", theirs), ("inner", ["null", inner]))
    registry.add(1, writer)
    reader = record(("at", MILLIS), ("inner", ["null", outer]))
    message = framed(1, avro(writer, {"at": value, "inner": {"t": value}}))
    want = NOON if theirs is MICROS else datetime(2024, 5, 1, tzinfo=UTC)
    assert said(framing(reader), [message]) == [{"at": want, "inner.t": want}]


def test_a_time_under_an_alias_of_a_nested_field_keeps_its_unit(
    registry: Registry, framing: Callable[..., Decoder]
) -> None:
    writer = record(("at", MILLIS), ("inner", record(("old", MILLIS), name="I")))
    registry.add(1, writer)
    reader = record(("at", MILLIS), ("inner", record(("when", MICROS), name="I")))
    reader["fields"][1]["type"]["fields"][0]["aliases"] = ["old"]
    message = framed(1, avro(writer, {"at": NOON, "inner": {"old": NOON}}))
    assert said(framing(reader), [message]) == [{"at": NOON, "inner.when": NOON}]


def test_defaults_of_fields_that_the_writer_lacks_are_read_as_their_types_are(
    registry: Registry, framing: Callable[..., Decoder]
) -> None:
    """A byte stands in JSON as the character of its number, wherever in a default it is."""
    pair = {"type": "fixed", "name": "Pair", "size": 2}
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
    who = {"type": "fixed", "name": "Who", "size": 16, "logicalType": "uuid"}
    inner = record(("raw", "bytes"), ("pair", "Pair", "\u00fe\u0000"), name="Inner")
    registry.add(1, record(("at", MILLIS)))
    reader = record(
        ("at", MILLIS), ("raw", "bytes", "\u00ff\u0001"), ("pair", pair, "\u00ff\u00fe"),
        ("price", decimal, "\u0001\u0000"), ("who", who, "\u0000" * 15 + "\u0007"),
        ("some", [decimal, "null"], "\u00ff"), ("none", ["null", "bytes"], None),
        ("many", {"type": "array", "items": "bytes"}, ["\u00ff"]),
        ("inner", inner, {"raw": "\u00ff"}),
    )  # fmt: skip
    message = framed(1, avro(record(("at", MILLIS)), {"at": NOON}))
    assert said(framing(reader), [message]) == [{
        "at": NOON, "raw": b"\xff\x01", "pair": b"\xff\xfe", "price": 2.56,
        "who": str(uuid.UUID(int=7)), "some": -0.01, "none": None, "many": [b"\xff"],
        "inner.raw": b"\xff", "inner.pair": b"\xfe\x00",
    }]  # fmt: skip


def test_a_schema_that_refers_to_others(
    registry: Registry, framing: Callable[..., Decoder]
) -> None:
    money = record(("cents", "long"), name="shop.Money")
    writer = record(("price", "shop.Money"), ("at", MILLIS))
    registry.add(2, writer, references=[{"name": "shop.Money", "subject": "a/b", "version": 4}])
    registry.answers["/subjects/a%2Fb/versions/4"] = 200, {"schema": json.dumps(money)}
    reader = record(("price", money), ("at", MILLIS))
    message = framed(2, avro(reader, {"price": {"cents": 99}, "at": NOON}))
    assert said(framing(reader), [message]) == [{"price.cents": 99, "at": NOON}]


def test_framed_and_plain_messages_in_one_topic(
    registry: Registry, framing: Callable[..., Decoder]
) -> None:
    registry.add(1, PLAIN)
    event = {"user": 1, "amount": None, "at": NOON}
    plain = avro(PLAIN, event)
    assert said(framing(PLAIN), [plain, framed(1, plain)]) == [event, event]


def test_a_zero_byte_is_data_where_the_source_is_not_framed(
    framing: Callable[..., Decoder],
) -> None:
    event = {"user": 0, "amount": None, "at": NOON}
    value = avro(PLAIN, event)
    assert value[0] == 0
    assert said(framing(PLAIN, framing="none"), [value]) == [event]
    assert said(decoder(PLAIN), [value]) == [event]
    assert "not in the registry" in said(framing(PLAIN), [value])[0]


def test_a_frame_that_leads_nowhere_is_rejected(
    registry: Registry, framing: Callable[..., Decoder]
) -> None:
    registry.add(2, {}, schemaType="PROTOBUF")
    registry.add(3, "no type")
    registry.add(4, record(("user", "long"), name="Click"))
    registry.add(5, record(("at", "string")))
    values = [framed(n, b"\x02\x02") for n in (1, 2, 3, 4, 5)] + [b"\0\0\0"]
    reasons = said(framing(PLAIN), values)
    assert reasons[0] == "schema id 1 is not in the registry"
    assert reasons[1] == "schema id 2 is PROTOBUF, want AVRO"
    assert reasons[2].startswith("schema id 3 is no Avro schema")
    assert reasons[3].startswith("no record of the Avro schema: SchemaResolutionError No default")
    assert reasons[4].startswith("no record of the Avro schema: SchemaResolutionError")
    assert reasons[5] == "the message is cut short: 3 bytes of a schema id's frame"


def test_an_unknown_id_is_not_asked_for_again_at_once(registry: Registry) -> None:
    clock = [100.0]
    client = SchemaRegistry(registry.url, lambda: clock[0])
    for _ in range(3):
        with pytest.raises(UnknownSchemaError):
            client.schema(9)
    assert len(registry.asked) == 1
    registry.add(9, PLAIN)
    clock[0] += 60
    assert client.schema(9).kind == "AVRO"


@pytest.mark.parametrize("answer", [(500, {}), (429, {}), (401, {}), (404, b"nginx"), (200, b"?")])
def test_a_registry_that_does_not_answer_loses_nothing(
    registry: Registry, framing: Callable[..., Decoder], answer: tuple[int, Any]
) -> None:
    registry.answers["/schemas/ids/1"] = answer
    event = {"user": 1, "amount": None, "at": NOON}
    value = framed(1, avro(PLAIN, event))
    found = framing(PLAIN)
    with pytest.raises(StoreUnavailableError, match="the schema registry at http"):
        found.decode(records([value]))
    registry.add(1, PLAIN)
    assert said(found, [value]) == [event]


def test_credentials_are_sent_and_never_shown(registry: Registry) -> None:
    client = SchemaRegistry(f"http://us%40er:s3cret@{registry.host}")
    registry.answers["/schemas/ids/1"] = 401, {}
    with pytest.raises(StoreUnavailableError) as failure:
        client.schema(1)
    assert registry.asked == [("/schemas/ids/1", "Basic dXNAZXI6czNjcmV0")]
    assert "s3cret" not in str(failure.value)
    assert registry.host in str(failure.value)


def test_a_registry_that_is_down_says_so() -> None:
    with pytest.raises(StoreUnavailableError, match="check HEADWATER_SCHEMA_REGISTRY_URL"):
        SchemaRegistry("http://u:s3cret@127.0.0.1:1").schema(1)
