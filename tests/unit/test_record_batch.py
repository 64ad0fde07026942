"""Record batches read by column are what kafka-python's builder wrote; broken ones are told."""

from __future__ import annotations

import itertools

import cramjam
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import IsolationLevel
from kafka.record import MemoryRecords, MemoryRecordsBuilder
from kafka.record.default_records import DefaultRecordBatchBuilder

from ingest.clients.codecs import decompress
from ingest.clients.fetching import PartitionBatches
from ingest.records import Records

TP = ("events", 3)
settings.register_profile("batches", deadline=None)  # the first example compiles the kernels
settings.load_profile("batches")
Message = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]

_bytes = st.one_of(st.none(), st.binary(max_size=300))
_headers = st.lists(
    st.tuples(st.text(max_size=8), st.one_of(st.none(), st.binary(max_size=8))), max_size=4
)
_message = st.tuples(
    st.integers(1, 400), st.integers(0, 2**41), _bytes, _bytes, _headers
)  # offset step, timestamp, key, value, headers


def batch(messages: list[Message], **producer: int) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=0, is_transactional=bool(producer), batch_size=1 << 30,
        **{"producer_id": -1, "producer_epoch": -1, "base_sequence": -1, **producer},
    )  # fmt: skip
    first = messages[0][0]
    for offset, ms, key, value, headers in messages:
        builder.append(offset - first, ms, key, value, headers)
    made = bytearray(builder.build())
    made[0:8] = first.to_bytes(8, "big")  # the broker sets the base offset; no checksum covers it
    return bytes(made)


def read(
    raw: bytes, fetch_offset: int = 0, max_records: int = 1 << 30, **options: object
) -> list[Records]:
    fetched = PartitionBatches(
        fetch_offset, TP, MemoryRecords(raw), check_crcs=True,
        isolation_level=IsolationLevel.READ_COMMITTED,
        aborted_transactions=options.get("aborted"), on_drain=lambda _: None,
    )  # fmt: skip
    found = []
    while fetched:
        found += fetched.take(max_records)
    return found


def messages_of(found: list[Records]) -> list[Message]:
    return [
        (int(r.offset[i]), int(r.timestamp_ms[i]), o.key, o.value, list(o.headers))
        for r in found
        for i in range(len(r))
        for o in [r.original(i)]
    ]


@st.composite
def logs(draw: st.DrawFn) -> list[list[Message]]:
    """Batches of messages with ascending offsets that may have gaps, as compaction leaves them."""
    at, found = 0, []
    for steps in draw(
        st.lists(st.lists(_message, min_size=1, max_size=12), min_size=1, max_size=6)
    ):
        found.append([(at := at + step, *rest) for step, *rest in steps])  # noqa: PERF401
    return found


@given(logs(), st.data())
def test_what_the_builder_wrote_is_read_from_any_offset_in_any_split(
    log: list[list[Message]], data: st.DataObject
) -> None:
    written = [message for part in log for message in part]
    start = data.draw(st.integers(0, written[-1][0]))
    size = data.draw(st.integers(1, 20))
    raw = b"".join(batch(part) for part in log)
    cut = raw + raw[: data.draw(st.integers(0, 60))]  # a broker cuts the last batch anywhere
    found = read(cut, start, size)
    assert messages_of(found) == [m for m in written if m[0] >= start]
    assert all(len(r) <= size for r in found)
    assert found[-1].next_offset == written[-1][0] + 1
    for before, after in itertools.pairwise(found):
        assert before.next_offset <= after.offset[0]


@given(st.lists(_bytes, min_size=1, max_size=30))
def test_the_values_stand_side_by_side_as_a_json_array(values: list[bytes | None]) -> None:
    (found,) = read(batch([(i, 0, None, value, []) for i, value in enumerate(values)]))
    assert found.data == b"[" + b",".join(b"null" if v is None else v for v in values) + b"]"
    assert [found.value(i) for i in range(len(found))] == values


@given(st.binary(min_size=1, max_size=4000))
def test_every_compression_is_undone(payload: bytes) -> None:
    raw = cramjam.snappy.compress_raw
    half = len(payload) // 2
    blocks = [bytes(raw(part)) for part in (payload[:half], payload[half:])]
    xerial = b"\x82SNAPPY\x00" + bytes(8)
    xerial += b"".join(len(block).to_bytes(4, "big") + block for block in blocks)
    for codec, made in [
        (1, cramjam.gzip.compress(payload)), (2, raw(payload)), (2, xerial),
        (3, cramjam.lz4.compress(payload)), (4, cramjam.zstd.compress(payload)),
    ]:  # fmt: skip
        assert decompress(codec, memoryview(bytes(made))) == payload


@pytest.mark.parametrize("codec", [1, 2, 3, 4, 7])
def test_broken_compressed_data_is_told(codec: int) -> None:
    with pytest.raises(ValueError, match="compress"):
        decompress(codec, memoryview(b"\x01this is no compressed data"))


def test_a_flipped_bit_is_found_by_its_checksum() -> None:
    raw = bytearray(batch([(0, 1, b"key", b"value", [])]))
    raw[-3] ^= 1
    with pytest.raises(CorruptRecordError, match="checksum"):
        read(bytes(raw))


@given(st.binary(max_size=200), st.integers(61, 90))
def test_no_bytes_are_read_past_a_batch_that_is_none(junk: bytes, at: int) -> None:
    """Records that contradict their lengths are told, where the checksum does not find them."""
    raw = bytearray(batch([(0, 1, b"key" * 9, b"value" * 9, [("a", b"b")])]))
    raw[at : at + len(junk)] = junk[: len(raw) - at]
    fetched = PartitionBatches(
        0, TP, MemoryRecords(bytes(raw)), check_crcs=False, isolation_level=0,
        aborted_transactions=None, on_drain=lambda _: None,
    )  # fmt: skip
    try:
        found = fetched.take(10)
    except CorruptRecordError:
        assert not fetched
    else:
        assert all(
            0 <= r.value_size[i] + r.value_at[i] <= len(r.data)
            for r in found
            for i in range(len(r))
        )


def marker(offset: int, producer: int) -> bytes:
    made = bytearray(
        batch(
            [(offset, 0, b"\0\0\0\0", b"\0\0\0\0\0\0", [])],
            producer_id=producer,
            producer_epoch=0,
            base_sequence=0,
        )
    )
    made[22] |= 0x20
    return resealed(made)


def resealed(made: bytearray) -> bytes:
    from crc32c import crc32c

    made[17:21] = crc32c(bytes(made[21:])).to_bytes(4, "big")
    return bytes(made)


class Aborted:
    def __init__(self, producer_id: int, first_offset: int) -> None:
        self.producer_id, self.first_offset = producer_id, first_offset


def test_aborted_transactions_and_markers_are_passed_over() -> None:
    def sent(offset: int, producer: int, value: bytes) -> bytes:
        message: Message = (offset, 0, None, value, [])
        return batch([message], producer_id=producer, producer_epoch=0, base_sequence=0)

    raw = b"".join(
        [sent(0, 7, b"no"), sent(1, 8, b"yes"), marker(2, 7), sent(3, 7, b"again"), marker(4, 8),
         sent(5, 8, b"no"), marker(6, 7), marker(7, 8)]
    )  # fmt: skip
    found = read(raw, aborted=[Aborted(8, 5), Aborted(7, 0)])
    assert [m[3] for m in messages_of(found)] == [b"yes", b"again"]
    assert found[-1].next_offset == 8
    only = read(sent(0, 7, b"no") + marker(1, 7), aborted=[Aborted(7, 0)])
    assert [(len(r), r.next_offset) for r in only] == [(0, 2)]


def test_the_brokers_time_stands_for_all_messages_of_its_batch() -> None:
    made = bytearray(batch([(0, 5, None, b"a", []), (1, 9, None, b"b", [])]))
    made[22] |= 0x08
    made[35:43] = (77).to_bytes(8, "big")
    (found,) = read(resealed(made))
    assert found.timestamp_ms.tolist() == [77, 77]


@pytest.mark.parametrize("magic", [0, 1])
def test_message_sets_of_old_brokers_are_read_too(magic: int) -> None:
    builder = MemoryRecordsBuilder(magic, 0, 1 << 20, offset=10)
    for i in range(5):
        builder.append(1000 + i, b"k%d" % i, None if i == 2 else b"v%d" % i)
    builder.close()
    found = read(bytes(builder.buffer()) + batch([(15, 3, None, b"new", [])]), 11)
    assert [m[0] for m in messages_of(found)] == [11, 12, 13, 14, 15]
    assert [m[3] for m in messages_of(found)] == [b"v1", None, b"v3", b"v4", b"new"]
    assert found[-1].next_offset == 16
    assert np.all(np.diff(np.concatenate([r.offset for r in found])) == 1)
