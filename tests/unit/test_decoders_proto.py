"""Protobuf messages: types, presence, nested messages, and Confluent's frame."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from headwater import proto_fields
from headwater.errors import DefinitionError
from headwater.message_fields import choose
from headwater.settings import Settings
from ingest.decoders import Decoder, make_decoder
from tests.decoding import framed, proto_messages, proto_source, records, said

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
#: A message of which only the event time is set.
UNSET = {
    "user": 0, "amount": None, "at": NOON, "color": "NONE", "place.city": None, "place.lat": None,
    "tags": [], "times": [], "big": 0, "raw": b"", "maybe": None, "left": None, "right": None,
    "ratio": 0.0, "ok": False, "colors": [], "epoch": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return proto_messages(Path(__file__).with_name("clicks.proto"), tmp_path_factory.mktemp("pb"))


@pytest.fixture(scope="module")
def decoder(clicks: Any) -> Decoder:
    return make_decoder(proto_source(clicks.Click), Settings())


def message(clicks: Any, **fields: Any) -> Any:
    made = clicks.Click(**fields)
    made.at.FromDatetime(NOON)
    return made


def test_every_type_has_its_column(clicks: Any, decoder: Decoder) -> None:
    made = message(
        clicks, user=-3, amount=2.5, color=1, tags=["a", ""], big=5, raw=b"\xff", left="x",
        ratio=0.5, ok=True, colors=[0, 1], epoch=7, odd={"a": 1},
    )  # fmt: skip
    made.place.city, made.place.lat = "ü", 0.0
    made.times.add().FromDatetime(NOON)
    made.maybe.value = 0
    made.others.add().id = 1
    made.parent.user = 1
    assert said(decoder, [made.SerializeToString()]) == [{
        "user": -3, "amount": 2.5, "at": NOON, "color": "RED", "place.city": "ü", "place.lat": 0.0,
        "tags": ["a", ""], "times": [NOON], "big": 5, "raw": b"\xff", "maybe": 0, "left": "x",
        "right": None, "ratio": 0.5, "ok": True, "colors": ["NONE", "RED"], "epoch": 7,
    }]  # fmt: skip


def test_unset_is_null_where_the_message_can_tell(clicks: Any, decoder: Decoder) -> None:
    assert said(decoder, [message(clicks).SerializeToString()]) == [UNSET]


def test_an_enum_number_of_a_newer_writer_is_shown_as_it_is(clicks: Any, decoder: Decoder) -> None:
    made = message(clicks, color=9, colors=[9])
    found = said(decoder, [made.SerializeToString()])
    assert found == [{**UNSET, "color": "9", "colors": ["9"]}]


def test_what_is_no_message_is_rejected(clicks: Any, decoder: Decoder) -> None:
    good = message(clicks).SerializeToString()
    values = [good, b"", None, good[:-1], b"\xff", b'{"user": 1}', good]
    decoded = decoder.decode(records(values))
    assert decoded.kept.tolist() == [0, 6]
    reasons = dict(decoded.rejected)
    assert reasons[1].startswith("event time 'at' is missing; want an ISO 8601 time")
    assert reasons[2] == "tombstone: the message has no value"
    assert reasons[3].startswith("no shop.Click: ")
    assert reasons[4].startswith("no shop.Click: ")
    assert reasons[5].startswith("no shop.Click: ")


def test_a_number_that_no_column_holds_is_rejected(clicks: Any, decoder: Decoder) -> None:
    values = [message(clicks, big=2**63).SerializeToString(), clicks.Click()]
    values[1].at.seconds = 2**62
    reasons = said(decoder, [values[0], values[1].SerializeToString()])
    assert str(reasons[0]).startswith("big=9223372036854775808: want a whole number from -9")
    assert str(reasons[1]).startswith("at=4611686018427387904000000: want an ISO 8601 time")


def test_an_event_time_that_was_never_set_is_missing(clicks: Any) -> None:
    found = make_decoder(proto_source(clicks.Click, "epoch"), Settings())
    plain, timed = message(clicks), message(clicks, epoch=1714564800)
    reasons = said(found, [plain.SerializeToString(), timed.SerializeToString()])
    assert str(reasons[0]).startswith("event time 'epoch' is missing")
    assert reasons[1]["epoch"] == NOON


def test_confluents_frame(clicks: Any, decoder: Decoder) -> None:
    good = message(clicks).SerializeToString()
    # Click is the second message of its file: one index, 1, as zigzag varints.
    assert said(decoder, [framed(7, b"\x02\x02" + good), good]) == [UNSET, UNSET]
    first = make_decoder(proto_source(clicks.Other, "id"), Settings())
    other = clicks.Other(id=1714564800).SerializeToString()
    assert said(first, [framed(7, b"\x00" + other)]) == [{"id": NOON}]
    reasons = said(decoder, [
        framed(7, b"\x00" + good), framed(7, b"\x02"), b"\0\0", framed(7, b"\x80"),
        framed(7, b"\xfe\xff\xff\xff\x0f" + good),
    ])  # fmt: skip
    assert reasons[0] == "the frame says message [0] of its schema, want [1] (shop.Click)"
    assert set(reasons[1:]) == {"the message is cut short in its schema id's frame"}


def test_the_plan_alone_makes_the_class(clicks: Any) -> None:
    packed = proto_fields.pack(clicks.Click.DESCRIPTOR)
    names = [file.name for file in FileDescriptorSet.FromString(packed).file]
    assert names[-1] == "clicks.proto"
    assert "google/protobuf/timestamp.proto" in names
    made = proto_fields.message_class(packed, "shop.Click")
    assert made is not clicks.Click
    assert made.FromString(clicks.Click(user=4).SerializeToString()).user == 4


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("odd", "it is a map"),
        ("parent", "it is a message that contains itself"),
        ("others", "it is a list of messages"),
    ],
)
def test_what_can_be_no_column_is_refused_where_a_view_uses_it(
    clicks: Any, name: str, reason: str
) -> None:
    with pytest.raises(DefinitionError, match=f"'{name}' can be no feature: {reason}"):
        choose("clicks", proto_fields.leaves(clicks.Click.DESCRIPTOR), [name])


def test_modules_of_the_project_are_not_needed(clicks: Any) -> None:
    assert clicks.__name__ not in sys.modules
