"""Compiled loops that write columns of numbers and times as Feast's protobuf messages.

`service.rpc.wire` is the door to this module. A `Value` in a list of them is
`0a length tag payload`, a null one `0a 00`; a `Timestamp` is `1a length 08 seconds 10 nanos`,
either part left out where it is 0.
"""

# Numba compiles a subset of Python: explicit loops and int indices are the idiom here.
from __future__ import annotations

import numpy as np
from numba import njit

#: Payloads: eight bytes, the same as four, a whole number, one in seconds of microseconds.
DOUBLE, FLOAT, WHOLE, SECONDS = range(4)
#: At most so many bytes a value, a time.
VALUE_BYTES, TIME_BYTES = 13, 20


@njit(cache=True, nogil=True, error_model="numpy")
def _varint(value, out, at):
    """A 64-bit number in groups of seven bits; returns the place behind it."""
    left = np.uint64(value)
    while left >= np.uint64(128):
        out[at] = np.uint8(left & np.uint64(127)) | np.uint8(128)
        left >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(left)
    return at + 1


@njit(cache=True, nogil=True, error_model="numpy")
def write_values(words, tags, payloads, rows, status, out, ends):
    """Columns of words [columns, n] (a float by its bits) one behind the other into `out`.

    `tags` are the fields' tags, `payloads` how they are written, `rows` where each column is in
    `status` (whose other codes than 0 are null; no rows at all: nothing is). `ends` gets the end
    of each column.
    """
    at = 0
    floats = words.view(np.float64)
    single = np.empty(1, np.float32)
    as_bytes = single.view(np.uint8)
    for c in range(words.shape[0]):
        for i in range(words.shape[1]):
            out[at] = 0x0A
            if status.shape[0] and status[rows[c], i]:
                out[at + 1] = 0
                at += 2
                continue
            word = words[c, i]
            out[at + 2] = tags[c]
            start = at + 3
            if payloads[c] == DOUBLE:
                for b in range(8):
                    out[start + b] = np.uint8((word >> (8 * b)) & 255)
                end = start + 8
            elif payloads[c] == FLOAT:
                single[0] = floats[c, i]
                out[start : start + 4] = as_bytes
                end = start + 4
            else:
                end = _varint(word // 1000000 if payloads[c] == SECONDS else word, out, start)
            out[at + 1] = end - at - 2
            at = end
        ends[c] = at
    return at


@njit(cache=True, nogil=True, error_model="numpy")
def write_times(event_us, out):
    """Event times [n] as `event_timestamps`; returns their bytes."""
    at = 0
    for i in range(event_us.shape[0]):
        seconds, micros = event_us[i] // 1000000, event_us[i] % 1000000
        out[at] = 0x1A
        end = at + 2
        if seconds:
            out[end] = 0x08
            end = _varint(seconds, out, end + 1)
        if micros:
            out[end] = 0x10
            end = _varint(micros * 1000, out, end + 1)
        out[at + 1] = end - at - 2
        at = end
    return at
