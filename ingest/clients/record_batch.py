"""Kafka's record batches (message format 2) read column by column, with no object per record.

A fetch response is some batches, each a header of 61 bytes and its records, compressed as a whole.
`scan` reads the headers, `parse` the records' places, and `pack` copies the values side by side.
"""

# Numba compiles a subset of Python: explicit loops and int indices are the idiom here.
from __future__ import annotations

import numpy as np
from numba import njit

from headwater.copying import copy

HEADER_BYTES = 61
#: Where the checksum's range begins within a batch.
CHECKED_FROM = 21

#: Columns of `scan`: places in the response, then fields of the header.
START, END, MAGIC, ATTRIBUTES, BASE, LAST, FIRST_MS, MAX_MS, PRODUCER, COUNT, CRC, EPOCH = range(12)
#: Bits of a batch's attributes.
CODEC, LOG_APPEND_TIME, TRANSACTIONAL, CONTROL = 0x07, 0x08, 0x10, 0x20

#: Rows of `parse`: a size of -1 is a null; headers begin at HEADERS_AT with their count.
OFFSET, TIMESTAMP, KEY_AT, KEY_SIZE, VALUE_AT, VALUE_SIZE, HEADERS_AT = range(7)


@njit(cache=True, nogil=True)
def _fixed(raw, at, size):
    """A signed big-endian integer of `size` bytes."""
    value = np.int64(0)
    for i in range(size):
        value = (value << 8) | np.int64(raw[at + i])
    shift = 64 - 8 * size
    return (value << shift) >> shift


@njit(cache=True, nogil=True)
def _varint(raw, at, end):
    """(value, where to go on); the place is -1 where the number does not end before `end`."""
    value = np.uint64(0)
    shift = np.uint64(0)
    while at < end and shift < 64:
        byte = np.uint64(raw[at])
        at += 1
        value |= (byte & np.uint64(0x7F)) << shift
        if byte < 0x80:
            return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), at
        shift += np.uint64(7)
    return np.int64(0), -1


@njit(cache=True, nogil=True)
def scan(raw):
    """The batches of a fetch response as rows (int64, batches x 12); a cut last one is left out.

    `raw` is uint8. Of a batch of an older format only START, END and MAGIC are set.
    """
    size = raw.shape[0]
    n, at = 0, 0
    while at + 17 <= size:
        end = at + 12 + _fixed(raw, at + 8, 4)
        if end > size or end <= at:
            break
        n, at = n + 1, end
    rows = np.zeros((n, 12), np.int64)
    at = 0
    for i in range(n):
        row = rows[i]
        end = at + 12 + _fixed(raw, at + 8, 4)
        row[START], row[END], row[MAGIC] = at, end, _fixed(raw, at + 16, 1)
        if row[MAGIC] >= 2 and end - at >= HEADER_BYTES:
            row[BASE] = _fixed(raw, at, 8)
            row[EPOCH] = _fixed(raw, at + 12, 4)
            row[CRC] = _fixed(raw, at + 17, 4) & 0xFFFFFFFF
            row[ATTRIBUTES] = _fixed(raw, at + 21, 2)
            row[LAST] = row[BASE] + _fixed(raw, at + 23, 4)
            row[FIRST_MS] = _fixed(raw, at + 27, 8)
            row[MAX_MS] = _fixed(raw, at + 35, 8)
            row[PRODUCER] = _fixed(raw, at + 43, 8)
            row[COUNT] = _fixed(raw, at + 57, 4)
        at = end
    return rows


@njit(cache=True, nogil=True)
def _header_end(raw, at, end):
    """Where a record's headers end; -1 where they do not fit."""
    count, at = _varint(raw, at, end)
    if count < 0:
        return np.int64(-1)
    for _ in range(2 * count):
        if at < 0:
            return np.int64(-1)
        size, at = _varint(raw, at, end)
        if at >= 0 and size > 0:
            at = at + size if size <= end - at else np.int64(-1)
    return at


@njit(cache=True, nogil=True)
def parse(raw, starts, ends, batches):
    """Read the records of `batches` (rows of `scan`) lying at starts..ends of `raw` (uint8).

    Returns (columns, bad): columns is int64, 7 x records; bad is the first batch that is no sound
    one, or -1.
    """
    total = 0
    for b in range(batches.shape[0]):
        total += max(batches[b, COUNT], 0)
    columns = np.empty((7, total), np.int64)
    n = 0
    for b in range(batches.shape[0]):
        at, end = starts[b], ends[b]
        appended = (batches[b, ATTRIBUTES] & LOG_APPEND_TIME) != 0
        for _ in range(batches[b, COUNT]):
            length, at = _varint(raw, at, end)
            if at < 0 or length < 1 or length > end - at:
                return columns, b
            stop = at + length
            delta_ms, at = _varint(raw, at + 1, stop)  # past the attributes, which mean nothing
            if at < 0:
                return columns, b
            delta, at = _varint(raw, at, stop)
            columns[OFFSET, n] = batches[b, BASE] + delta
            stamp = batches[b, MAX_MS] if appended else batches[b, FIRST_MS] + delta_ms
            columns[TIMESTAMP, n] = stamp
            for field in (KEY_AT, VALUE_AT):
                if at < 0:
                    return columns, b
                size, at = _varint(raw, at, stop)
                if at < 0 or size > stop - at:
                    return columns, b
                columns[field, n] = at
                columns[field + 1, n] = max(size, -1)
                at += max(size, 0)
            columns[HEADERS_AT, n] = at
            if _header_end(raw, at, stop) != stop:
                return columns, b
            at = stop
            n += 1
        if at != end:
            return columns, b
    return columns, -1


@njit(cache=True, nogil=True)
def pack(raw, value_at, value_size):
    """(text, places): the values as `[value,value,...]` (uint8), `null` for a tombstone."""
    n = value_at.shape[0]
    size = n + 1 if n else 2
    for i in range(n):
        size += value_size[i] if value_size[i] >= 0 else 4
    text = np.empty(size, np.uint8)
    places = np.empty(n, np.int64)
    text[0] = 91
    to = 1
    for i in range(n):
        if i:
            text[to] = 44
            to += 1
        places[i] = to
        if value_size[i] < 0:
            text[to], text[to + 1], text[to + 2], text[to + 3] = 110, 117, 108, 108
            to += 4
        else:
            to = copy(text, to, raw, value_at[i], value_at[i] + value_size[i])
    text[to] = 93
    return text, places


def headers(raw: bytes, at: int) -> list[tuple[str, bytes | None]]:
    """The headers that begin at `at`, in their order; keys may repeat, values may be null."""
    view = np.frombuffer(raw, np.uint8)
    count, at = _varint(view, at, len(raw))
    found: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        size, at = _varint(view, at, len(raw))
        key = raw[at : at + size].decode("utf-8", "replace")
        at += size
        size, at = _varint(view, at, len(raw))
        found.append((key, None if size < 0 else raw[at : at + size]))
        at += max(size, 0)
    return found
