"""Compiled reading of plain JSON objects into columns, without an object for any value.

Plain is what most messages are: an object of fields that the source knows and of others with plain
values, without escapes; numbers that fit their column without rounding twice.
Whatever else a message holds, right or wrong, is left to a JSON parser: here it is only not plain.

The helpers take addresses, not arrays, for numba counts references to each array that is passed:
that would be half of the time. None reads at or behind the `end` that it is given.
"""

# Numba compiles a subset of Python: explicit loops and int indices are the idiom here.
from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from headwater.copying import copy

#: What a field's column holds. A value of another kind (a list, bytes) is never plain, but null is.
INT32, INT64, FLOAT, DOUBLE, BOOL, STRING, TIME, OTHER = range(8)
#: Sizes of cells that are no text: null or absent, and a number.
NULL, NUMBER = -1, -2

#: In place of where to go on.
_DONE, _ODD = 0, -1
_QUOTE, _BACKSLASH, _COLON, _COMMA, _OPEN, _CLOSE = (ord(sign) for sign in '"\\:,{}')
_MINUS, _POINT, _ZERO, _NINE = (ord(sign) for sign in "-.09")
#: The words as the int32 that their first four bytes are; "false" without its f.
_TRUE, _ALSE, _NULL = (int.from_bytes(word, "little") for word in (b"true", b"alse", b"null"))
_F = ord("f")
#: Digits that fit into int64 whatever they are.
_DIGITS = 18
#: Whole numbers to here, and powers of ten to 22, are floats exactly: one division rounds once.
_EXACT = 1 << 53
_POWERS = np.array([float(10**k) for k in range(23)])
_FLOAT_MAX = float(np.finfo(np.float32).max)


def _load(bits):
    """An intrinsic that reads a little-endian whole number at an address."""

    def typed(_, address):
        def build(context, builder, signature, arguments):
            kind = ir.IntType(bits)
            value = builder.load(builder.inttoptr(arguments[0], kind.as_pointer()), align=1)
            return builder.zext(value, ir.IntType(64)) if bits < 64 else value

        return types.int64(types.int64), build

    return intrinsic(typed)


_byte, _four, _word = _load(8), _load(32), _load(64)


@intrinsic
def _bits(_, number):
    def build(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), build


_inlined = njit(cache=True, nogil=True, error_model="numpy", forceinline=True)


@njit(cache=True, nogil=True, error_model="numpy")
def read(data, value_at, value_size, kinds, names, names_at, most, cells, sizes, odd):
    """Read the values at `value_at` [n] in `data` (uint8) as objects of the fields `names`.

    kinds: [fields]; names, names_at: their names as `Texts`. Fills cells (int64 [fields, n]: a
    whole number, the bits of a float64, or where a text begins), sizes (int32 [fields, n]: NULL,
    NUMBER, or the bytes of a text) and odd (bool [n]: not plain; its cells mean nothing). Returns
    how many are odd, and stops as soon as these are more than `most`.
    """
    base, names_base, places = data.ctypes.data, names.ctypes.data, names_at.ctypes.data
    fields = kinds.size
    count = 0
    for i in range(value_at.size):
        for f in range(fields):
            sizes[f, i] = NULL
        at = base + value_at[i]
        end = at + value_size[i]
        at = _first(at, end)
        guess = 0
        while at > 0:
            begin = at + 1
            close, at = _name(at, end)
            if at < 0:
                break
            f = _field(begin, close, names_base, places, fields, guess)
            if f < 0:
                at = _skipped(at, end)
            else:  # of a name that comes twice, the last value counts
                guess = f + 1
                at, cell, size = _cell(at, end, kinds[f])
                cells[f, i] = cell - base if size >= 0 else cell
                sizes[f, i] = size
            if at > 0:
                at = _next(at, end)
        odd[i] = at != _DONE
        if odd[i]:
            count += 1
            if count > most:
                break
    return count


@_inlined
def _space(at, end):
    """Behind the white space at `at`."""
    while at < end:
        byte = _byte(at)
        if byte > 32 or byte not in (32, 10, 13, 9):
            break
        at += 1
    return at


@_inlined
def _first(at, end):
    """The first member of the object at `at`; _DONE for one without."""
    if end - at < 2 or _byte(at) != _OPEN:
        return _ODD
    at = _space(at + 1, end)
    if at < end and _byte(at) == _CLOSE:
        return _DONE if _space(at + 1, end) == end else _ODD
    return at


@_inlined
def _next(at, end):
    """The member behind the value that ends at `at`; _DONE where it was the last."""
    at = _space(at, end)
    if at < end:
        if _byte(at) == _COMMA:
            return _space(at + 1, end)
        if _byte(at) == _CLOSE and _space(at + 1, end) == end:
            return _DONE
    return _ODD


@_inlined
def _name(at, end):
    """Where the name of the member at `at` ends, and where its value begins, or _ODD."""
    if at >= end or _byte(at) != _QUOTE:
        return at, _ODD
    close = _text(at + 1, end)
    if close < 0:
        return at, _ODD
    at = _space(close + 1, end)
    if at >= end or _byte(at) != _COLON:
        return close, _ODD
    at = _space(at + 1, end)
    return close, at if at < end else _ODD


@_inlined
def _text(at, end):
    """Where the text that begins at `at` has its closing quote; _ODD where it is not plain."""
    while at < end:
        byte = _byte(at)
        if byte == _QUOTE:
            return at
        if byte < 32 or byte == _BACKSLASH:
            return _ODD
        at += 1
        if byte >= 0x80:
            at = _sign(byte, at, end)
            if at < 0:
                return _ODD
    return _ODD


@njit(cache=True, nogil=True, error_model="numpy")
def _sign(byte, at, end):
    """Behind a sign of UTF-8 whose first byte stands before `at`; _ODD where it is none.

    Its second byte has a narrower range where the first would allow a longer spelling than it
    needs, a surrogate, or what is past the last code point.
    """
    if byte < 0xC2 or byte > 0xF4:
        return _ODD
    more = 1 if byte < 0xE0 else (2 if byte < 0xF0 else 3)
    low, high = 0x80, 0xBF
    if byte == 0xE0:
        low = 0xA0
    elif byte == 0xED:
        high = 0x9F
    elif byte == 0xF0:
        low = 0x90
    elif byte == 0xF4:
        high = 0x8F
    if at + more > end or not low <= _byte(at) <= high:
        return _ODD
    for k in range(1, more):
        if _byte(at + k) & 0xC0 != 0x80:
            return _ODD
    return at + more


@_inlined
def _field(begin, end, names, places, fields, guess):
    """Which field has this name, or -1; messages mostly have them in the same order."""
    for k in range(fields):
        f = guess + k
        if f >= fields:
            f -= fields
        start = _word(places + 8 * f)
        if _word(places + 8 * f + 8) - start != end - begin:
            continue
        j = np.int64(0)
        while j < end - begin and _byte(names + start + j) == _byte(begin + j):
            j += 1
        if j == end - begin:
            return f
    return -1


@_inlined
def _digits(value, at, end):
    """(the number that its digits and those from here on make, where they end)."""
    while at < end:
        digit = _byte(at) - _ZERO
        if digit < 0 or digit > 9:
            break
        value = value * 10 + digit
        at += 1
    return value, at


@_inlined
def _number(at, end):
    """(digits as a whole number, how many of them are behind the point or -1, where it ends).

    The end is _ODD where there is no number without exponent and of few enough digits. The sign
    is not part of it.
    """
    start, point = at, np.int64(-1)
    value, at = _digits(np.int64(0), at, min(end, at + _DIGITS + 1))
    digits = at - start
    if digits == 0 or digits > _DIGITS or (digits > 1 and _byte(start) == _ZERO):
        return value, point, _ODD
    if at < end and _byte(at) == _POINT:
        at += 1
        start = at
        value, at = _digits(value, at, min(end, at + _DIGITS - digits + 1))
        point = at - start
        if point == 0 or digits + point > _DIGITS:
            return value, point, _ODD
    return value, point, at


@_inlined
def _null(at, end):
    return end - at >= 4 and _four(at) == _NULL


@_inlined
def _truth(at, end):
    """1 or 0 for a word that is true or false, else -1."""
    if end - at >= 4 and _four(at) == _TRUE:
        return 1
    return 0 if end - at >= 5 and _byte(at) == _F and _four(at + 1) == _ALSE else -1


@_inlined
def _cell(at, end, kind):
    """(the place behind a field's value or _ODD, the cell, its size); a text's cell is its address.

    See `read`.
    """
    first = _byte(at)
    if first == _QUOTE:
        close = _text(at + 1, end)
        if close < 0 or kind not in (STRING, TIME):
            return _ODD, 0, NULL
        return close + 1, at + 1, close - at - 1
    if _null(at, end):
        return at + 4, 0, NULL
    if kind == BOOL:
        truth = _truth(at, end)
        return at + 5 - truth if truth >= 0 else _ODD, truth, NUMBER
    if kind in (STRING, OTHER):
        return _ODD, 0, NULL
    minus = first == _MINUS
    value, point, after = _number(at + 1 if minus else at, end)
    if after < 0 or (minus and value == 0):
        return _ODD, 0, NULL
    if minus:
        value = -value
    if kind in (FLOAT, DOUBLE):
        number = value / _POWERS[max(point, 0)]
        if abs(value) > _EXACT or (kind == FLOAT and abs(number) > _FLOAT_MAX):
            return _ODD, 0, NULL
        return after, _bits(number), NUMBER
    if point >= 0 or (kind == INT32 and (value < -(1 << 31) or value >= 1 << 31)):
        return _ODD, 0, NULL
    return after, value, NUMBER


@_inlined
def _skipped(at, end):
    """Behind a plain value that no field wants, or _ODD."""
    first = _byte(at)
    if first == _QUOTE:
        close = _text(at + 1, end)
        return close + 1 if close >= 0 else _ODD
    if _null(at, end):
        return at + 4
    truth = _truth(at, end)
    if truth >= 0:
        return at + 5 - truth
    return _number(at + 1 if first == _MINUS else at, end)[2]


@njit(cache=True, nogil=True, error_model="numpy")
def texts(data, at, size):
    """Texts side by side, as Arrow has them: (int32 [n + 1], bytes). A negative size is none."""
    ends = np.empty(at.size + 1, np.int32)
    total = np.int32(0)
    ends[0] = 0
    for i in range(at.size):
        total += np.int32(max(size[i], 0))
        ends[i + 1] = total
    out = np.empty(total, np.uint8)
    for i in range(at.size):
        if size[i] > 0:
            copy(out, np.int64(ends[i]), data, at[i], at[i] + np.int64(size[i]))
    return ends, out
