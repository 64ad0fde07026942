"""JSON messages: what is kept, with which values, and what is rejected, for which reason."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from headwater.errors import DefinitionError
from tests.decoding import decoder, records, said

FIELDS = (
    "user INT64, small INT32, amount DOUBLE, ratio FLOAT, ok BOOL, word STRING, raw BYTES, "
    "tags STRING_LIST, sizes DOUBLE_LIST, moments UNIX_TIMESTAMP_LIST, at UNIX_TIMESTAMP"
)
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
EMPTY = dict.fromkeys(
    ["user", "small", "amount", "ratio", "ok", "word", "raw", "tags", "sizes", "moments"]
)


def one(text: str) -> object:
    return said(decoder(FIELDS), [text.encode()])[0]


def test_all_types_in_any_order_with_unknown_fields() -> None:
    assert one(
        '{"at": "2024-05-01T12:00:00Z", "other": {"deep": [1, {}]}, "moments": [1714564800, '
        '"2024-05-01 12:00"], "sizes": [1, 2.5], "tags": ["a", ""], "raw": "AP8=", "word": "ü", '
        '"ok": true, "ratio": 0.5, "amount": 3, "small": -5, "user": 9223372036854775807}'
    ) == {
        "user": 2**63 - 1, "small": -5, "amount": 3.0, "ratio": 0.5, "ok": True, "word": "ü",
        "raw": b"\x00\xff", "tags": ["a", ""], "sizes": [1.0, 2.5], "moments": [NOON, NOON],
        "at": NOON,
    }  # fmt: skip


def test_null_and_absent_are_the_same() -> None:
    assert one('{"at": 1714564800}') == {**EMPTY, "at": NOON}
    nulls = ", ".join(f'"{name}": null' for name in EMPTY)
    assert one(f'{{{nulls}, "at": 1714564800}}') == {**EMPTY, "at": NOON}


@pytest.mark.parametrize(
    "text",
    [
        "1714564800", "1714564800.0", "1714564800000", "1714564800000000", "1714564800000000000",
        '"1714564800"', '"1714564800000"', '"2024-05-01T12:00:00Z"', '"2024-05-01 12:00:00"',
        '"2024-05-01T14:00:00+02:00"', '"2024-05-01T14:00:00.000+0200"', '"20240501T120000"',
        '"2024-05-01T12:00:00.000000000Z"', '"2024-05-01T12"', '" 2024-05-01T12:00Z "',
    ],
)  # fmt: skip
def test_spellings_of_a_time(text: str) -> None:
    assert one(f'{{"at": {text}}}') == {**EMPTY, "at": NOON}


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ('"user": "7"', "user='7': want a whole number from -9223372036854775808 to"),
        ('"user": 7.0', "user=7.0: want a whole number"),
        ('"user": true', "user=True: want a whole number"),
        ('"user": 9223372036854775808', "user=9223372036854775808: want a whole number"),
        ('"small": 2147483648', "small=2147483648: want a whole number from -2147483648 to 2147"),
        ('"amount": "3"', "amount='3': want a number, or 'NaN'"),
        ('"ratio": 1e39', "ratio=1e+39: want a number of at most 3.4e+38"),
        ('"ok": "yes"', "ok='yes': want true or false"),
        ('"word": 3', "word=3: want text"),
        ('"raw": "#"', "raw='#': want bytes (base64 in JSON)"),
        ('"tags": "a"', "tags='a': want a list, each text"),
        ('"tags": [null]', "tags=[None]: want a list, each text"),
        ('"moments": [1, "x"]', "moments=[1, 'x']: want a list, each an ISO 8601 time"),
        ('"word": ["' + "x" * 200 + '"]', f"word=['{'x' * 78}...: want text"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(member: str, reason: str) -> None:
    assert str(one(f'{{{member}, "at": 1714564800}}')).startswith(reason)


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        ("null", "event time 'at' is missing; want an ISO 8601 time or an epoch number in s,"),
        ('"soon"', "at='soon': want an ISO 8601 time"),
        ('"9999-12-31T23:59:59-01:00"', "at='9999-12-31T23:59:59-01:00': want an ISO"),
        ('"0001-01-01T00:00:00+01:00"', "at='0001-01-01T00:00:00+01:00': want an ISO"),
        ('"0000-01-01T00:00:00Z"', "at='0000-01-01T00:00:00Z': want an ISO"),
        ("1" + 20 * "0", "at=100000000000000000000: want"),
        ("1e300", "at=1e+300: want"),
        ("true", "at=True: want"),
        ("{}", "at={}: want"),
    ],
)
def test_an_event_time_that_is_none(at: str, reason: str) -> None:
    assert str(one(f'{{"at": {at}}}')).startswith(reason)


def test_what_is_no_json_object_is_rejected_with_its_place_in_the_batch() -> None:
    good = b'{"at": 1714564800}'
    values = [good, b"", b"[]", None, b"null", b'{"at": 1', good, good + b"," + good, b"\xff", good]
    decoded = decoder(FIELDS).decode(records(values))
    assert decoded.kept.tolist() == [0, 6, 9]
    assert [(at, why.split(":")[0]) for at, why in decoded.rejected] == [
        (1, "no JSON"), (2, "the message is [], want a JSON object"), (3, "tombstone"),
        (4, "the message is None, want a JSON object"), (5, "no JSON"), (7, "no JSON"),
        (8, "no JSON"),
    ]  # fmt: skip


def test_messages_that_only_together_are_an_array_of_the_right_length() -> None:
    two = b'{"at":1},{"at":2}'
    halves = [b'{"at":3,"x":[{}', b"{}]}"]
    decoded = decoder(FIELDS).decode(records([two, *halves]))
    assert decoded.columns.num_rows == 0
    assert [at for at, _ in decoded.rejected] == [0, 1, 2]


def test_floats_that_no_json_number_is() -> None:
    event = one('{"amount": "-Infinity", "ratio": "NaN", "sizes": ["Infinity", 1], "at": 1}')
    assert isinstance(event, dict)
    assert event["amount"] == float("-inf")
    assert event["ratio"] != event["ratio"]
    assert event["sizes"] == [float("inf"), 1.0]
    assert str(one('{"amount": NaN, "at": 1}')).startswith("no JSON: ")


def test_numbers_serve_as_booleans() -> None:
    assert one('{"ok": 0, "at": 1714564800}') == {**EMPTY, "ok": False, "at": NOON}


def test_no_messages_give_no_rows_of_the_right_types() -> None:
    decoded = decoder(FIELDS).decode(records([]))
    assert decoded.columns.num_rows == 0
    assert decoded.columns.schema.names[-1] == "at"


def test_fields_have_their_names_in_the_views() -> None:
    found = decoder("who INT64, at UNIX_TIMESTAMP", field_mapping={"who": "user", "at": "time"})
    assert found.event_time_column == "time"
    assert said(found, [b'{"who": 3, "at": 1714564800}']) == [{"user": 3, "time": NOON}]


def test_a_source_without_its_event_time_is_refused() -> None:
    with pytest.raises(DefinitionError, match="timestamp_field 'when' is no time"):
        decoder("who INT64, at UNIX_TIMESTAMP", timestamp_field="when")
