"""Redis commands for many keys as one buffer, written by compiled loops. Pure.

Building each key and value as a Python object costs more than everything else about a write.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from headwater.copying import copy
from headwater.interning import Bytes, Texts, digits, put_number

#: Keys in one script call: a call blocks the server, and other clients wait meanwhile.
CHUNK = 250


class Commands(NamedTuple):
    """Requests in Redis's protocol, one behind the other, and how many replies they bring."""

    data: Bytes
    replies: int


def evalsha(sha: str, prefix: bytes, keys: Texts, values: Texts) -> Commands:
    """Script calls over the keys `<prefix>{<text>}`, CHUNK keys each; ARGV is their values."""
    n = len(keys)
    middle = np.frombuffer(b"\r\n$7\r\nEVALSHA\r\n$40\r\n" + sha.encode() + b"\r\n", np.uint8)
    parts = (
        middle, np.frombuffer(prefix, np.uint8), keys.data, keys.at, values.data, values.at,
    )  # fmt: skip
    size = _write(np.empty(0, np.uint8), False, *parts)
    data: Bytes = np.empty(size, np.uint8)
    _write(data, True, *parts)
    return Commands(data, -(-n // CHUNK))


def mget(prefix: bytes, keys: Texts) -> Commands:
    """MGET of the keys `<prefix>{<text>}`, CHUNK keys a call."""
    n = len(keys)
    start = (np.frombuffer(b"\r\n$4\r\nMGET\r\n", np.uint8), np.frombuffer(prefix, np.uint8))
    size = _write_mget(np.empty(0, np.uint8), False, *start, keys.data, keys.at)
    data: Bytes = np.empty(size, np.uint8)
    _write_mget(data, True, *start, keys.data, keys.at)
    return Commands(data, -(-n // CHUNK))


def msetnx(prefix: bytes, keys: Texts, values: Texts) -> Commands:
    """MSETNX of the keys `<prefix>{<text>}`, CHUNK keys a call: all of them, or none."""
    n = len(keys)
    parts = (
        np.frombuffer(b"\r\n$6\r\nMSETNX\r\n", np.uint8), np.frombuffer(prefix, np.uint8),
        keys.data, keys.at, values.data, values.at,
    )  # fmt: skip
    size = _write_pairs(np.empty(0, np.uint8), False, *parts)
    data: Bytes = np.empty(size, np.uint8)
    _write_pairs(data, True, *parts)
    return Commands(data, -(-n // CHUNK))


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
def _write(data, real, middle, prefix, keys, keys_at, values, values_at):
    """Write the calls, or only measure them; returns their size in bytes."""
    n = keys_at.size - 1
    at = np.int64(0)
    for first in range(0, n, CHUNK):
        last = min(first + CHUNK, n)
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
    return at


@njit(cache=True, nogil=True)
def _write_mget(data, real, name, prefix, keys, keys_at):
    n = keys_at.size - 1
    at = np.int64(0)
    for first in range(0, n, CHUNK):
        last = min(first + CHUNK, n)
        if real:
            data[at] = 42
        at = _number(data, at + 1, 1 + last - first, real)
        at = _copy(data, at, name, 0, name.size, real)
        for k in range(first, last):
            at = _key(data, at, prefix, keys, keys_at[k], keys_at[k + 1], real)
    return at


@njit(cache=True, nogil=True)
def _write_pairs(data, real, name, prefix, keys, keys_at, values, values_at):
    n = keys_at.size - 1
    at = np.int64(0)
    for first in range(0, n, CHUNK):
        last = min(first + CHUNK, n)
        if real:
            data[at] = 42
        at = _number(data, at + 1, 1 + 2 * (last - first), real)
        at = _copy(data, at, name, 0, name.size, real)
        for k in range(first, last):
            at = _key(data, at, prefix, keys, keys_at[k], keys_at[k + 1], real)
            at = _bulk_start(data, at, values_at[k + 1] - values_at[k], real)
            at = _copy(data, at, values, values_at[k], values_at[k + 1], real)
            at = _line(data, at, real)
    return at
