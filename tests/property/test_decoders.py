"""What a decoder says of a message depends on that message alone, whatever stands beside it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headwater.settings import Settings
from headwater.times import micros
from ingest.decoders import make_decoder
from ingest.decoders.times import MAX_US, MIN_US, times
from tests.decoding import avro, avro_source, decoder, record, said

NAMES = ["user", "small", "amount", "ratio", "ok", "word", "raw", "tags", "at"]
FIELDS = (
    "user INT64, small INT32, amount DOUBLE, ratio FLOAT, ok BOOL, word STRING, raw BYTES, "
    "tags STRING_LIST, at UNIX_TIMESTAMP"
)
JSON = decoder(FIELDS)
TIMES = st.one_of(
    st.datetimes().map(lambda t: t.isoformat()),
    st.datetimes().map(lambda t: t.isoformat(" ") + "Z"),
    st.datetimes().map(lambda t: t.isoformat("T", "milliseconds") + "+05:30"),
    st.datetimes().map(lambda t: t.isoformat("T", "seconds") + ".123456789Z"),
    st.sampled_from(
        ["2024-01-01Z", "2024-01-01", "2024-W01-1", "24:00", "2024-01-01T24:00:00Z", "", "1e9",
         "0000-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "2024-01-01T10:00:00+24:00",
         "2024-01-01T10:00:60Z", "2024-02-30T00:00:00Z", "-1.5", "²", "2024-01-01T10:00:00.Z",
         "2024-01-01T10:00:00,5Z", "2024-01-01t10:00:00z", "\ud800", "1" * 30]
    ),
    st.integers(-(2**70), 2**70),
    st.integers(0, 2**61),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=25),
)  # fmt: skip
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | TIMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
CLEAN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
GOOD = st.fixed_dictionaries(
    {"at": st.integers(1_600_000_000, 1_700_000_000) | st.datetimes().map(str)},
    optional={
        "user": st.none() | st.integers(-(2**63), 2**63 - 1),
        "small": st.integers(-(2**31), 2**31 - 1),
        "amount": st.floats(allow_nan=False, allow_infinity=False) | st.just("NaN"),
        "ratio": st.floats(width=32, allow_nan=False, allow_infinity=False),
        "ok": st.booleans() | st.integers(0, 1),
        "word": st.text(),
        "raw": st.sampled_from(["", "AP8=", "AAAA"]),
        "tags": st.lists(st.text(), max_size=3),
        "else": CLEAN,
    },
)
NEARLY = st.tuples(GOOD, st.sampled_from(NAMES), ANY).map(lambda t: {**t[0], t[1]: t[2]})
TEXTS = st.sampled_from(
    [b"", b" ", b"null", b"[]", b"{}", b"{", b"}", b'"', b'"at":1}', b'{"at":1,"x":"}', b'{"}',
     b'{"at":1,"x":[{}', b"{}]}", b'{"at":1},{"at":2}', b'{"at":1}\n{"at":2}', b'{"at":1} ',
     b'\n{"at":1}', b'{"at":1,"at":2}', b'{"at":null,"at":2}', b'{"at":1,"word":"\xff"}',
     b'{"at":1,"x":"\xff"}', b'{"at":1,"word":"\\ud800"}', b'{"at":1,"word":"\\udc00\\ud800"}',
     b'{"at":1,"user":' + b"9" * 5000 + b"}", b'{"at":1,"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
     b'{"at":1,"x":{"at":2}}', b'{"at":1e999}', b'{"at":-0}', b"\x00", b'{"at":1,\n"user":\n2}',
     b'\xef\xbb\xbf{"at":1}', b'{"at":1}}', b'[{"at":1}]', b'{"at":1,"word":"a\nb"}']
)  # fmt: skip
JSON_VALUES = st.one_of(
    GOOD.map(lambda event: json.dumps(event).encode()),
    GOOD.map(lambda event: json.dumps(event).encode()),
    NEARLY.map(lambda event: json.dumps(event).encode("utf-8", "replace")),
    ANY.map(lambda value: json.dumps(value, ensure_ascii=True).encode()),
    TEXTS,
    st.binary(max_size=20),
    st.none(),
)


#: As compiled loops read a message where they can, and as msgspec does.
BY_MSGSPEC = decoder(FIELDS)
BY_MSGSPEC._plain.read = lambda records: None  # type: ignore[attr-defined,method-assign]
SPELLED = st.one_of(
    st.from_regex(r"-?[0-9]{1,20}(\.[0-9]{0,20})?([eE][-+]?[0-9]{1,3})?", fullmatch=True),
    st.from_regex(r"-?[0-9]{1,9}(\.[0-9]{1,6})?", fullmatch=True),
    st.floats().map(repr),
    st.text().map(lambda text: json.dumps(text, ensure_ascii=False)),
    TIMES.map(json.dumps),
    st.sampled_from(["null", "true", "false", "-0", "-0.0", "nul", "truE", "[]", '{"at":1}', ""]),
)
SPACES = st.sampled_from(["", "", "", " ", "\n", "\r\t ", "\v"])
MEMBER = st.tuples(
    SPACES, st.sampled_from([*NAMES, "at", "at", "else", "\u00fc"]), SPACES, SPACES, SPELLED, SPACES
).map(lambda t: f'{t[0]}"{t[1]}"{t[2]}:{t[3]}{t[4]}{t[5]}')
WRITTEN = st.lists(MEMBER, max_size=6).map(
    lambda members: f"{{{','.join(members)}}}".encode("utf-8", "surrogatepass")
)
#: One byte of it is another, or gone.
SPOILED = st.tuples(WRITTEN, st.integers(0, 2**16), st.binary(max_size=1)).map(
    lambda t: t[0][: t[1] % len(t[0])] + t[2] + t[0][t[1] % len(t[0]) + 1 :]
)


@settings(deadline=None, max_examples=300)
@given(st.lists(WRITTEN | SPOILED | JSON_VALUES, max_size=20))
@example([b'{"at":1700000000123,"amount":0.3,"ratio":16777217,"word":"\xc3\xa9"}'])
@example(
    [
        b'{"at":1,"word":"%s"}' % sign
        for sign in (b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80")
    ]
)
@example([b'{"at":1,"amount":9007199254740993}', b'{"at":1,"amount":123456789012345678.5}'])
@example([b'{"at":1}'] * 9 + [b'{"at":"2024-01-01T10:00:00Z"}'])
def test_compiled_loops_say_what_msgspec_says(values: list[bytes | None]) -> None:
    for batch in (values, *([value] for value in values)):
        assert plain_all(said(JSON, batch)) == plain_all(said(BY_MSGSPEC, batch))


def plain(what: Any) -> Any:
    """NaN is equal to itself here."""
    if isinstance(what, dict):
        return {key: plain(value) for key, value in what.items()}
    return "NaN" if isinstance(what, float) and math.isnan(what) else what


@settings(deadline=None)
@given(st.lists(JSON_VALUES, max_size=100))
@example([b'{"at":1},{"at":2}', b'{"at":3,"x":[{}', b"{}]}"])
def test_json_together_is_json_one_by_one(values: list[bytes | None]) -> None:
    assert plain_all(said(JSON, values)) == plain_all([said(JSON, [v])[0] for v in values])


def plain_all(what: list[Any]) -> list[Any]:
    return [plain(one) for one in what]


@settings(deadline=None)
@given(st.lists(GOOD, min_size=1, max_size=30))
def test_good_json_is_kept_with_its_values(events: list[dict[str, Any]]) -> None:
    found = said(JSON, [json.dumps(event).encode() for event in events])
    for event, kept in zip(events, found, strict=True):
        assert isinstance(kept, dict), kept
        for name in ("user", "small", "word", "tags"):
            assert kept[name] == event.get(name)


@settings(deadline=None)
@given(st.lists(st.none() | TIMES, max_size=40))
def test_columns_of_times_are_read_as_each_time_alone(cells: list[Any]) -> None:
    check_times(cells)


@settings(deadline=None)
@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=40))
@example([-(2**63), 10**11, 10**14 - 1, 10**17, -(10**17), 99_999_999_999_999_999])
def test_whole_epoch_numbers(cells: list[Any]) -> None:
    check_times(cells)


@settings(deadline=None)
@given(st.lists(st.none() | st.floats(), max_size=40))
def test_epoch_numbers_with_fractions(cells: list[Any]) -> None:
    check_times(cells)


@settings(deadline=None)
@given(st.lists(st.datetimes().map(lambda t: t.isoformat() + "Z"), max_size=40))
def test_texts_of_one_spelling(cells: list[Any]) -> None:
    check_times(cells)


def check_times(cells: list[Any]) -> None:
    found = times(cells)
    for row, cell in enumerate(cells):
        try:
            want = None if cell is None else micros(cell)
            bad = want is not None and not MIN_US <= want <= MAX_US
        except (ValueError, OverflowError):
            want, bad = None, True
        assert bool(found.bad[row]) == bad, cell
        assert bool(found.valid[row]) == (want is not None and not bad), cell
        if found.valid[row]:
            assert found.us[row] == np.int64(want), cell


MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
CLICK = record(
    ("user", "long"), ("amount", ["null", "double"]), ("word", "string"),
    ("price", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}),
    ("tags", {"type": "array", "items": "string"}), ("at", MILLIS),
)  # fmt: skip
AVRO = make_decoder(avro_source(CLICK), Settings())
#: The same bytes without logical types, so that times and decimals may be anything.
LOOSE = json.loads(json.dumps(CLICK).replace("logicalType", "was"))
AVRO_VALUES = st.fixed_dictionaries(
    {
        "user": st.integers(-(2**63), 2**63 - 1),
        "amount": st.none() | st.floats(),
        "word": st.text(),
        "price": st.binary(max_size=6) | st.just(b"\x7f" * 200),
        "tags": st.lists(st.text(), max_size=3),
        "at": st.integers(0, 2**41) | st.integers(-(2**63), 2**63 - 1),
    }
).map(lambda event: avro(LOOSE, event))
BROKEN = st.one_of(
    AVRO_VALUES,
    AVRO_VALUES,
    st.tuples(AVRO_VALUES, st.integers(0, 30)).map(lambda t: t[0][: t[1]]),
    st.tuples(AVRO_VALUES, st.binary(min_size=1, max_size=3)).map(lambda t: t[0] + t[1]),
    st.binary(max_size=30),
    st.none(),
)


@settings(deadline=None)
@given(st.lists(BROKEN, max_size=30))
def test_avro_together_is_avro_one_by_one(values: list[bytes | None]) -> None:
    assert plain_all(said(AVRO, values)) == plain_all([said(AVRO, [v])[0] for v in values])
