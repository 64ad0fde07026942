"""Compiled loops that write numbers, times and whole feature vectors as JSON.

Floats are the shortest text that reads back as the same number (Schubfach: R. Giulietti, "The
Schubfach way to render doubles", 2020), in the form that orjson gives them.
`service.single` is the door to `write_vectors`.
"""

# Numba compiles a subset of Python: explicit loops and int indices are the idiom here.
from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from headwater.copying import copy
from headwater.times import FIRST_US, LAST_US

#: How a word is written: a float by its bits, a whole number, a boolean, microseconds in seconds.
REAL, WHOLE, TRUTH, SECONDS = range(4)
#: At most so many bytes a number, a time in quotes.
NUMBER_BYTES, TIME_BYTES = 26, 29

_LEAST, _MOST = -292, 324


def _powers():
    """10**k for k from _LEAST to _MOST: 128 bits from its first that is set, rounded up."""
    rows = []
    for k in range(_LEAST, _MOST + 1):
        if k >= 0:
            shift = 128 - (10**k).bit_length()
            value = 10**k << shift if shift >= 0 else -(-(10**k) // (1 << -shift))
        else:
            # 2**shift / 10**-k has 128 bits.
            shift = 127 + (10**-k).bit_length()
            value = -(-(1 << shift) // 10**-k)
        rows.append((value >> 64, value & (2**64 - 1)))
    return np.array(rows, np.uint64)


_POWERS = _powers()
_TENS = np.array([10**k for k in range(18)], np.uint64)
_DIGITS = np.frombuffer(b"".join(b"%02d" % i for i in range(100)), np.uint8)
_NULL, _TRUE, _FALSE, _NOT_A_NUMBER, _INFINITY, _LESS, _BEFORE, _END = (
    np.frombuffer(text, np.uint8)
    for text in (
        b"null", b"true", b"false", b'"NaN"', b'"Infinity"', b'"-Infinity"', b'{"values":[', b"]},",
    )
)  # fmt: skip


@intrinsic
def _high(context, a, b):
    """The upper 64 bits of a product."""

    def build(context, builder, signature, given):
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(given[0], wide), builder.zext(given[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), build


@njit(cache=True, nogil=True, error_model="numpy")
def _scaled(high, low, c):
    """The upper bits of `c` times a power of ten; its lowest bit tells whether there are more."""
    first = _high(low, c)
    middle = high * c
    top = _high(high, c)
    total = middle + first
    if total < middle:
        top += np.uint64(1)
    return top | np.uint64(total > np.uint64(1))


@njit(cache=True, nogil=True, error_model="numpy")
def _shortest(bits):
    """(digits, exponent) of a finite float that is not 0, by its bits without the sign."""
    fraction = bits & np.uint64(0xFFFFFFFFFFFFF)
    raised = np.int64(bits >> np.uint64(52))
    if raised:
        c, q = fraction | np.uint64(1 << 52), raised - 1075
        if -53 < q <= 0 and c & ((np.uint64(1) << np.uint64(-q)) - np.uint64(1)) == 0:
            return c >> np.uint64(-q), 0
    else:
        c, q = fraction, -1074
    # The float's neighbours are as far away on both sides, but below a power of two.
    near = fraction == 0 and raised > 1
    k = (q * 1262611 - (524031 if near else 0)) >> 22
    shift = np.uint64(q + ((-k * 1741647) >> 19) + 1)
    high, low = _POWERS[-k - _LEAST, 0], _POWERS[-k - _LEAST, 1]
    four = np.uint64(4) * c
    under = _scaled(high, low, (four - np.uint64(1 if near else 2)) << shift)
    value = _scaled(high, low, four << shift)
    over = _scaled(high, low, (four + np.uint64(2)) << shift)
    odd = c & np.uint64(1)
    under, over = under + odd, over - odd
    s = value >> np.uint64(2)
    if s >= np.uint64(10):
        short = s // np.uint64(10)
        forty = np.uint64(40) * short
        fits, next_fits = under <= forty, forty + np.uint64(40) <= over
        if fits != next_fits:
            return short + np.uint64(next_fits), k + 1
    down = s << np.uint64(2)
    fits, next_fits = under <= down, down + np.uint64(4) <= over
    if fits != next_fits:
        return s + np.uint64(next_fits), k
    half = down + np.uint64(2)
    up = value > half or (value == half and s & np.uint64(1))
    return s + np.uint64(up), k


@njit(cache=True, nogil=True, error_model="numpy")
def _put_digits(out, at, value, count):
    """Write the last `count` digits of a number; returns the place behind them."""
    end = at + count
    place = end
    while place - at >= 2:
        rest = np.int64(value % np.uint64(100))
        value //= np.uint64(100)
        place -= 2
        out[place], out[place + 1] = _DIGITS[2 * rest], _DIGITS[2 * rest + 1]
    if place > at:
        out[at] = np.uint8(48) + np.uint8(value % np.uint64(10))
    return end


@njit(cache=True, nogil=True, error_model="numpy")
def _length(value):
    count = 1
    while value >= np.uint64(10000):
        value //= np.uint64(10000)
        count += 4
    while value >= np.uint64(10):
        value //= np.uint64(10)
        count += 1
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def put_whole(out, at, word):
    """Write an int64; returns the place behind it."""
    value = np.uint64(word)
    if word < 0:
        out[at] = 45
        at += 1
        value = ~value + np.uint64(1)
    return _put_digits(out, at, value, _length(value))


@njit(cache=True, nogil=True, error_model="numpy")
def put_real(out, at, word):
    """Write a float by its bits, in quotes what JSON has no number for; the place behind it."""
    bits = np.uint64(word) & np.uint64(0x7FFFFFFFFFFFFFFF)
    if bits >= np.uint64(0x7FF0000000000000):
        if bits > np.uint64(0x7FF0000000000000):
            return copy(out, at, _NOT_A_NUMBER, 0, _NOT_A_NUMBER.size)
        if word < 0:
            return copy(out, at, _LESS, 0, _LESS.size)
        return copy(out, at, _INFINITY, 0, _INFINITY.size)
    if word < 0:
        out[at] = 45
        at += 1
    if bits == 0:
        out[at], out[at + 1], out[at + 2] = 48, 46, 48
        return at + 3
    digits, exponent = _shortest(bits)
    while digits % np.uint64(10000) == 0:
        digits //= np.uint64(10000)
        exponent += 4
    while digits % np.uint64(10) == 0:
        digits //= np.uint64(10)
        exponent += 1
    count = 17  # most have that many
    while digits < _TENS[count - 1]:
        count -= 1
    point = count + exponent  # the point is behind so many digits
    if 0 < point <= 16:
        if exponent >= 0:
            at = _put_digits(out, at, digits, count)
            for _ in range(exponent):
                out[at] = 48
                at += 1
            out[at], out[at + 1] = 46, 48
            return at + 2
        end = _put_digits(out, at + 1, digits, count)
        for i in range(point):
            out[at + i] = out[at + i + 1]
        out[at + point] = 46
        return end
    if -5 < point <= 0:
        out[at], out[at + 1] = 48, 46
        for i in range(-point):
            out[at + 2 + i] = 48
        return _put_digits(out, at + 2 - point, digits, count)
    if count > 1:
        end = _put_digits(out, at + 1, digits, count)
        out[at], out[at + 1] = out[at + 1], 46
        at = end
    else:
        at = _put_digits(out, at, digits, 1)
    out[at] = 101
    at += 1
    if point > 0:
        out[at] = 43
        at += 1
    return put_whole(out, at, point - 1)


@njit(cache=True, nogil=True, error_model="numpy")
def put_time(out, at, event_us):
    """Write a time as RFC 3339 in quotes, with 0, 3 or 6 fraction digits; the place behind it.

    Times that it cannot write are the first or last that it can.
    """
    event_us = min(max(event_us, FIRST_US), LAST_US)
    seconds, micros = event_us // 1_000_000, event_us % 1_000_000
    days, second = seconds // 86_400, np.uint64(seconds % 86_400)
    # A year that begins in March, counted from 0000-03-01 (H. Hinnant, "chrono-compatible
    # low-level date algorithms").
    days += 719_468
    era = days // 146_097
    of_era = days - era * 146_097
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    day = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5 - 1
    month += 3 if month < 10 else -9
    year += era * 400 + (month <= 2)
    out[at] = 34
    at = _put_digits(out, at + 1, np.uint64(year), 4)
    out[at] = 45
    at = _put_digits(out, at + 1, np.uint64(month), 2)
    out[at] = 45
    at = _put_digits(out, at + 1, np.uint64(day), 2)
    out[at] = 84
    at = _put_digits(out, at + 1, second // np.uint64(3600), 2)
    out[at] = 58
    at = _put_digits(out, at + 1, second // np.uint64(60) % np.uint64(60), 2)
    out[at] = 58
    at = _put_digits(out, at + 1, second % np.uint64(60), 2)
    if micros:
        out[at] = 46
        if micros % 1000:
            at = _put_digits(out, at + 1, np.uint64(micros), 6)
        else:
            at = _put_digits(out, at + 1, np.uint64(micros // 1000), 3)
    out[at], out[at + 1] = 90, 34
    return at + 2


@njit(cache=True, nogil=True, error_model="numpy")
def write_vectors(heads, sizes, words, status, event_us, outputs, between, between_at, out, ends):
    """Feature vectors of one entity each, one behind the other; returns how long they are.

    Vector i begins with the next `sizes[i]` bytes of `heads`. words, status: [features, n].
    event_us: [reads, n]. outputs[f] = (row of `words`, row of `status`, read, how it is written).
    `between` holds what stands between a value and its time, by status: `between_at` [codes + 1].
    `ends` [n] gets where each vector ends. Values whose status is not 0 are null.
    """
    # What stands between two values changes only with the view and the status.
    room = between.size + TIME_BYTES + _END.size + _BEFORE.size
    tail, tail_size, tail_read, tail_code = np.empty(room, np.uint8), 0, -1, 0
    at = start = 0
    for i in range(sizes.shape[0]):
        at = copy(out, at, heads, start, start + sizes[i])
        at = copy(out, at, _BEFORE, 0, _BEFORE.size)
        start += sizes[i]
        tail_read = -1
        for f in range(outputs.shape[0]):
            word, code, how = words[outputs[f, 0], i], status[outputs[f, 1], i], outputs[f, 3]
            if code:
                at = copy(out, at, _NULL, 0, _NULL.size)
            elif how == REAL:
                at = put_real(out, at, word)
            elif how == WHOLE:
                at = put_whole(out, at, word)
            elif how == SECONDS:
                at = put_whole(out, at, word // 1_000_000)
            elif word:
                at = copy(out, at, _TRUE, 0, _TRUE.size)
            else:
                at = copy(out, at, _FALSE, 0, _FALSE.size)
            if outputs[f, 2] != tail_read or code != tail_code:
                tail_read, tail_code = outputs[f, 2], code
                tail_size = copy(tail, 0, between, between_at[code], between_at[code + 1])
                tail_size = put_time(tail, tail_size, event_us[tail_read, i])
                tail_size = copy(tail, tail_size, _END, 0, _END.size)
                tail_size = copy(tail, tail_size, _BEFORE, 0, _BEFORE.size)
            at = copy(out, at, tail, 0, tail_size)
        at -= _BEFORE.size
        out[at - 1], out[at] = 93, 125  # in place of the last comma
        at += 1
        ends[i] = at
    return at
