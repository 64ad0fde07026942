"""Redis commands for many keys as one buffer, written by compiled loops. Pure.

Building each key and value as a Python object costs more than everything else about a write.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from typing import Any, NamedTuple

import hiredis
import numpy as np
from numba import njit
from numpy.typing import NDArray
from redis.crc import key_slot

from headwater.copying import copy
from headwater.interning import Bytes, Int64, Texts, digits, put_number, texts

#: Keys in one script call: a call blocks the server, and other clients wait meanwhile.
CHUNK = 250


class Commands(NamedTuple):
    """Requests in Redis's protocol, one behind the other; each brings one reply.

    Request i is `data[at[i]:at[i + 1]]`. slots: for a cluster, the slot of each one's keys.
    """

    data: Bytes
    at: Int64
    slots: Int64 | None = None

    @property
    def replies(self) -> int:
        return len(self.at) - 1


def each(requests: Sequence[tuple[Any, ...]], keys: Sequence[bytes]) -> Commands:
    """Requests of one key each, for a cluster."""
    packed = texts([hiredis.pack_command(request) for request in requests])
    return Commands(packed.data, packed.at, np.array([key_slot(key) for key in keys], np.int64))


def evalsha(sha: str, prefix: bytes, keys: Texts, values: Texts, chunk: int = CHUNK) -> Commands:
    """Script calls over the keys `<prefix>{<text>}`, `chunk` keys each; ARGV is their values."""
    middle = np.frombuffer(b"\r\n$7\r\nEVALSHA\r\n$40\r\n" + sha.encode() + b"\r\n", np.uint8)
    parts = (
        middle, np.frombuffer(prefix, np.uint8), keys.data, keys.at, values.data, values.at,
    )  # fmt: skip
    at: Int64 = np.zeros(-(-len(keys) // chunk) + 1, np.int64)
    size = _write(np.empty(0, np.uint8), at, False, chunk, *parts)
    data: Bytes = np.empty(size, np.uint8)
    _write(data, at, True, chunk, *parts)
    return Commands(data, at)


def mget(prefix: bytes, keys: Texts, chunk: int = CHUNK) -> Commands:
    """MGET of the keys `<prefix>{<text>}`, `chunk` keys a call."""
    start = (np.frombuffer(b"\r\n$4\r\nMGET\r\n", np.uint8), np.frombuffer(prefix, np.uint8))
    at: Int64 = np.zeros(-(-len(keys) // chunk) + 1, np.int64)
    size = _write_mget(np.empty(0, np.uint8), at, False, chunk, *start, keys.data, keys.at)
    data: Bytes = np.empty(size, np.uint8)
    _write_mget(data, at, True, chunk, *start, keys.data, keys.at)
    return Commands(data, at)


def msetnx(prefix: bytes, keys: Texts, values: Texts, chunk: int = CHUNK) -> Commands:
    """MSETNX of the keys `<prefix>{<text>}`, `chunk` keys a call: all of them, or none."""
    parts = (
        np.frombuffer(b"\r\n$6\r\nMSETNX\r\n", np.uint8), np.frombuffer(prefix, np.uint8),
        keys.data, keys.at, values.data, values.at,
    )  # fmt: skip
    at: Int64 = np.zeros(-(-len(keys) // chunk) + 1, np.int64)
    size = _write_pairs(np.empty(0, np.uint8), at, False, chunk, *parts)
    data: Bytes = np.empty(size, np.uint8)
    _write_pairs(data, at, True, chunk, *parts)
    return Commands(data, at)


def slots(prefix: bytes, keys: Texts) -> Int64:
    """The cluster's slot of each of the keys `<prefix>{<text>}`; the prefix has no brace. [n]."""
    found: Int64 = _slots(_CRC16, np.frombuffer(prefix, np.uint8), keys.data, keys.at)
    return found


def pick(commands: Commands, which: Int64) -> Bytes:
    """The bytes of some of the requests."""
    sizes = commands.at[which + 1] - commands.at[which]
    data: Bytes = np.empty(int(sizes.sum()), np.uint8)
    _pick(data, commands.data, commands.at, which)
    return data


def _crc16_table() -> NDArray[np.uint16]:
    """CRC-16/XMODEM, byte by byte."""
    return np.array([crc_hqx(bytes([i]), 0) for i in range(256)], np.uint16)


_CRC16 = _crc16_table()


@njit(cache=True, nogil=True)
def _crc16(table, crc, data, begin, end):
    for i in range(begin, end):
        crc = ((crc << 8) & 0xFFFF) ^ np.int64(table[(crc >> 8) ^ np.int64(data[i])])
    return crc


@njit(cache=True, nogil=True)
def _slots(table, prefix, keys, at):
    whole = _crc16(table, np.int64(0), prefix, 0, prefix.size)
    braces = np.array([123, 125], np.uint8)
    out = np.empty(at.size - 1, np.int64)
    for i in range(out.size):
        # The tag ends at the first closing brace, which may be one of the text's own.
        end = at[i]
        while end < at[i + 1] and keys[end] != 125:
            end += 1
        if end > at[i]:
            out[i] = _crc16(table, np.int64(0), keys, at[i], end)
        else:  # an empty tag is none: the whole key counts
            crc = _crc16(table, whole, braces, 0, 1)
            crc = _crc16(table, crc, keys, at[i], at[i + 1])
            out[i] = _crc16(table, crc, braces, 1, 2)
        out[i] &= 16383
    return out


@njit(cache=True, nogil=True)
def _pick(data, source, at, which):
    p = np.int64(0)
    for i in which:
        p = copy(data, p, source, at[i], at[i + 1])


@njit(cache=True, nogil=True)
def _copy(data, at, part, begin, end, real):
    return copy(data, at, part, begin, end) if real else at + end - begin


@njit(cache=True, nogil=True)
def _number(data, at, value, real):
    return put_number(data, at, value) if real else at + digits(value)


@njit(cache=True, nogil=True)
def _line(data, at, real):
    if real:
        data[at], data[at + 1] = 13, 10
    return at + 2


@njit(cache=True, nogil=True)
def _bulk_start(data, at, size, real):
    if real:
        data[at] = 36
    return _line(data, _number(data, at + 1, size, real), real)


@njit(cache=True, nogil=True)
def _key(data, at, prefix, keys, begin, end, real):
    at = _bulk_start(data, at, prefix.size + 2 + end - begin, real)
    at = _copy(data, at, prefix, 0, prefix.size, real)
    if real:
        data[at] = 123
    at = _copy(data, at + 1, keys, begin, end, real)
    if real:
        data[at] = 125
    return _line(data, at + 1, real)


@njit(cache=True, nogil=True)
def _write(data, calls, real, chunk, middle, prefix, keys, keys_at, values, values_at):
    """Write the calls, or only measure them; returns their size, and in `calls` where each ends."""
    n = keys_at.size - 1
    at = np.int64(0)
    for first in range(0, n, chunk):
        last = min(first + chunk, n)
        count = last - first
        if real:
            data[at] = 42
        at = _number(data, at + 1, 3 + 2 * count, real)
        at = _copy(data, at, middle, 0, middle.size, real)
        at = _bulk_start(data, at, digits(count), real)
        at = _line(data, _number(data, at, count, real), real)
        for k in range(first, last):
            at = _key(data, at, prefix, keys, keys_at[k], keys_at[k + 1], real)
        for k in range(first, last):
            at = _bulk_start(data, at, values_at[k + 1] - values_at[k], real)
            at = _copy(data, at, values, values_at[k], values_at[k + 1], real)
            at = _line(data, at, real)
        calls[first // chunk + 1] = at
    return at


@njit(cache=True, nogil=True)
def _write_mget(data, calls, real, chunk, name, prefix, keys, keys_at):
    n = keys_at.size - 1
    at = np.int64(0)
    for first in range(0, n, chunk):
        last = min(first + chunk, n)
        if real:
            data[at] = 42
        at = _number(data, at + 1, 1 + last - first, real)
        at = _copy(data, at, name, 0, name.size, real)
        for k in range(first, last):
            at = _key(data, at, prefix, keys, keys_at[k], keys_at[k + 1], real)
        calls[first // chunk + 1] = at
    return at


@njit(cache=True, nogil=True)
def _write_pairs(data, calls, real, chunk, name, prefix, keys, keys_at, values, values_at):
    n = keys_at.size - 1
    at = np.int64(0)
    for first in range(0, n, chunk):
        last = min(first + chunk, n)
        if real:
            data[at] = 42
        at = _number(data, at + 1, 1 + 2 * (last - first), real)
        at = _copy(data, at, name, 0, name.size, real)
        for k in range(first, last):
            at = _key(data, at, prefix, keys, keys_at[k], keys_at[k + 1], real)
            at = _bulk_start(data, at, values_at[k + 1] - values_at[k], real)
            at = _copy(data, at, values, values_at[k], values_at[k + 1], real)
            at = _line(data, at, real)
        calls[first // chunk + 1] = at
    return at
