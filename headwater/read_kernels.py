"""Compiled loops that turn what Redis holds into columns: packed rows, and windows up to now.

`headwater.online.columns` and `headwater.windows` are the doors to this module; the layouts are
those of `headwater.codec` and `headwater.windows`. Bytes that do not fit their layout are read as
absent, never misread.
"""

# Numba compiles a subset of Python: explicit loops and int indices are the idiom here.
from __future__ import annotations

import numpy as np
from numba import njit

from headwater.kernels import (
    COUNT,
    HEADER,
    I64_MAX,
    I64_MIN,
    LOW_BITS,
    MAX_F,
    MAX_I,
    MIN_F,
    MIN_I,
    SUM_F,
    SUM_I,
    SUM_WIDE,
    add_event,
    identity,
    merge,
)

#: How a feature comes from its window's partial.
EVENTS, PLAIN, MEAN, VAR, STD, ENDS, WIDE, WIDE_MEAN = range(8)
#: What a feature is declared as.
FLOAT, WHOLE, TRUTH = range(3)
NULL_VALUE, NOT_FOUND, OUTSIDE_MAX_AGE = 1, 2, 3
TWO_63 = float(2**63)
_NAN = int(np.array([np.nan]).view(np.int64)[0])


@njit(cache=True, nogil=True, error_model="numpy")
def _word(data, at, size):
    """A little-endian integer of up to eight bytes; four bytes keep their sign."""
    value = np.int64(0)
    for i in range(size):
        value |= np.int64(data[at + i]) << (8 * i)
    if size == 4 and value >= 2147483648:
        value -= 4294967296
    return value


@njit(cache=True, nogil=True, error_model="numpy")
def read_rows(data, sizes, views, cells, now, words, status, event_us):
    """Cells of packed rows of one or several views; `words`, `status` are [features, n], of 0.

    Rows are n of the first view, then n of the next one; row r has the next `sizes[r]` bytes of
    `data` (0: missing). `views[v]` = (fingerprint, bytes of null bits, time to live or 0, its first
    feature). `cells[f]` = (offset among the cells, size, is a float, null bit, size of all cells,
    row of `status`). Floats are written by their bits, wide, and as NaN for null. `event_us` is
    [views, n]. Returns how many are null, and how many floats of these.
    """
    float_word = np.empty(1, np.float64)
    as_word = float_word.view(np.int64)
    half = np.empty(1, np.int32)
    as_half = half.view(np.float32)
    start = nulls_found = float_nulls = 0
    n = words.shape[1]
    for v in range(views.shape[0]):
        fingerprint, n_bits, ttl, first = views[v]
        oldest = now - ttl if ttl else I64_MIN
        last = views[v + 1, 3] if v + 1 < views.shape[0] else cells.shape[0]
        for r in range(n):
            at, size = start, sizes[v * n + r]
            start += size
            gone = NOT_FOUND
            body = 12
            nulls = 0
            if size >= 12 and _word(data, at + 1, 3) == fingerprint:
                flags = data[at]
                if flags & 2:
                    body += 8
                if flags & 4:
                    body += 12
                if flags & 1:
                    nulls = body
                    body += n_bits
                if size >= body + (cells[first, 4] if last > first else 0):
                    event_us[v, r] = _word(data, at + 4, 8)
                    gone = OUTSIDE_MAX_AGE if event_us[v, r] < oldest else 0
            for f in range(first, last):
                bit = cells[f, 3]
                null = gone
                if not gone and nulls and (data[at + nulls + bit // 8] >> (bit % 8)) & 1:
                    null = NULL_VALUE
                if null:
                    status[cells[f, 5], r] = null
                    words[f, r] = _NAN if cells[f, 2] else 0
                    nulls_found += 1
                    float_nulls += cells[f, 2]
                    continue
                value = _word(data, at + body + cells[f, 0], cells[f, 1])
                if cells[f, 2] and cells[f, 1] == 4:
                    half[0] = np.int32(value)
                    float_word[0] = as_half[0]
                    value = as_word[0]
                words[f, r] = value
    return nulls_found, float_nulls


@njit(cache=True, nogil=True, error_model="numpy")
def _frames_fit(words, at, end, width, row):
    """Whether the frames between two words fit the layout of sections."""
    while at < end:
        size = (words[at] & 0xFFFFFFFF) >> 3
        if size < HEADER or at + 1 + size > end:
            return False
        n, heads = words[at + 4], words[at + 5]
        if n < 0 or heads < 0 or HEADER + n * (1 + width) + heads * row > size:
            return False
        at += 1 + size
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _merge_tiles(ops, width, words, words_f, slots, cuts, order, partials, partials_f):
    """Merge the tiles of one section into the partial of each window, each tile once.

    The k-th window of `order` has the tiles `cuts[k + 1]` up to `cuts[0]`. One operator at a time,
    so that what is merged stays in registers; the operators are those of `kernels.merge`.
    """
    carry = np.empty(width, np.int64)
    carry_f = carry.view(np.float64)
    single = np.empty((1, ops.shape[1]), np.int64)
    for k in range(ops.shape[0]):
        op, j = ops[k, 0], ops[k, 2]
        if op == SUM_WIDE:
            low = high = np.int64(0)
            for w in range(order.shape[0]):
                for i in range(cuts[w] - 1, cuts[w + 1] - 1, -1):
                    low += words[slots + i * width + j]
                    high += words[slots + i * width + j + 1]
                partials[order[w] * width + j] += low
                partials[order[w] * width + j + 1] += high
        elif op in (COUNT, SUM_I, MIN_I, MAX_I):
            whole = I64_MAX if op == MIN_I else I64_MIN if op == MAX_I else np.int64(0)
            for w in range(order.shape[0]):
                for i in range(cuts[w] - 1, cuts[w + 1] - 1, -1):
                    x = words[slots + i * width + j]
                    if op == MIN_I:
                        whole = min(whole, x)
                    elif op == MAX_I:
                        whole = max(whole, x)
                    else:
                        whole += x
                into = order[w] * width + j
                if op == MIN_I:
                    partials[into] = min(partials[into], whole)
                elif op == MAX_I:
                    partials[into] = max(partials[into], whole)
                else:
                    partials[into] += whole
        elif op in (SUM_F, MIN_F, MAX_F):
            real = np.inf if op == MIN_F else -np.inf if op == MAX_F else 0.0
            for w in range(order.shape[0]):
                for i in range(cuts[w] - 1, cuts[w + 1] - 1, -1):
                    y = words_f[slots + i * width + j]
                    if op == MIN_F:
                        real = min(real, y)
                    elif op == MAX_F:
                        real = max(real, y)
                    else:
                        real += y
                into = order[w] * width + j
                if op == MIN_F:
                    partials_f[into] = min(partials_f[into], real)
                elif op == MAX_F:
                    partials_f[into] = max(partials_f[into], real)
                else:
                    partials_f[into] += real
        else:
            single[0] = ops[k]
            identity(single, carry, carry_f, 0)
            for w in range(order.shape[0]):
                for i in range(cuts[w] - 1, cuts[w + 1] - 1, -1):
                    merge(single, carry, carry_f, 0, words, words_f, slots + i * width)
                merge(single, partials, partials_f, order[w] * width, carry, carry_f, 0)


@njit(cache=True, nogil=True, error_model="numpy")
def read_windows(
    ops, width, n_columns, windows, words, sizes, header, t, identities, features, out, status,
    newest,
):  # fmt: skip
    """Features of windowed values: `out` (words) and `status` are [features, entities].

    Entity i has the next `sizes[i]` words, as Redis holds them. `windows[w]` = (length or -1,
    hop); `identities` is the neutral partial. `features[f]` = (window, how, value's slot, count's
    slot, value is an integer, FLOAT or WHOLE or TRUTH, row of `status`, the least and the greatest
    that a WHOLE one holds; what it cannot hold is null). `status` is filled with 0. Returns how
    many values are null, and how many of these are floats.
    """
    nulls = float_nulls = 0
    n_windows = windows.shape[0]
    row = 3 + n_columns
    words_f = words.view(np.float64)
    lows = np.empty(n_windows, np.int64)
    for w in range(n_windows):
        length, hop = windows[w, 0], windows[w, 1]
        lows[w] = I64_MIN if length < 0 else (t - length) // hop * hop
    order = np.arange(n_windows)  # the window that begins last comes first
    for i in range(1, n_windows):
        for j in range(i, 0, -1):
            if lows[order[j]] > lows[order[j - 1]]:
                order[j], order[j - 1] = order[j - 1], order[j]
    partials = np.empty(n_windows * width, np.int64)
    partials_f = partials.view(np.float64)
    cuts = np.empty(n_windows + 1, np.int64)
    seen = np.empty(n_columns, np.bool_)
    result = np.empty(1, np.float64)
    as_word = result.view(np.int64)
    end = 0
    for entity in range(sizes.shape[0]):
        at = end
        end += sizes[entity]
        for w in range(n_windows):
            partials[w * width : (w + 1) * width] = identities
        latest = np.int64(0)
        if at < end and words[at] == header and _frames_fit(words, at + 1, end, width, row):
            at += 1
            while at < end:
                size = (words[at] & 0xFFFFFFFF) >> 3
                section = at + 1
                at += 1 + size
                latest = max(latest, words[section + 2])
                n, heads = words[section + 3], words[section + 4]
                starts = section + HEADER
                slots = starts + n
                rows = slots + n * width
                last = n
                while last > 0 and words[starts + last - 1] > t:
                    last -= 1
                cuts[0] = last
                for w in range(n_windows):
                    while last > 0 and words[starts + last - 1] >= lows[order[w]]:
                        last -= 1
                    cuts[w + 1] = last
                _merge_tiles(ops, width, words, words_f, slots, cuts, order, partials, partials_f)
                for h in range(heads):
                    head = rows + h * row
                    if words[head] > t:
                        continue
                    for c in range(n_columns):
                        seen[c] = (words[head + 2] >> c) & 1
                    for w in range(n_windows):
                        if words[head] >= lows[w]:
                            add_event(
                                ops, partials, partials_f, w * width, words[head], words[head + 1],
                                words[head + 3 : head + row], words_f[head + 3 : head + row], seen,
                            )  # fmt: skip
        newest[entity] = latest
        for f in range(features.shape[0]):
            base = features[f, 0] * width
            how, is_int, kind = features[f, 1], features[f, 4] == 1, features[f, 5]
            slot, count = base + features[f, 2], partials[base + features[f, 3]]
            # The value is `whole` where `exact`, else `value`.
            whole, value, exact = np.int64(0), 0.0, False
            null = how != EVENTS and count <= (1 if how in (VAR, STD) else 0)
            if null:
                pass
            elif how == EVENTS:
                whole, exact = count, True
            elif how in (VAR, STD):
                value = partials_f[slot + 2] / (count - 1)
                value = np.sqrt(value) if how == STD else value
            elif how == MEAN:
                value = (float(partials[slot]) if is_int else partials_f[slot]) / count
            elif how in (WIDE, WIDE_MEAN):
                high = partials[slot + 1] + (partials[slot] >> 32)
                low = partials[slot] & LOW_BITS
                exact = how == WIDE and -2147483648 <= high <= 2147483647
                if exact:
                    whole = high << 32 | low
                else:
                    value = float(high) * 4294967296.0 + float(low)
                    value = value / count if how == WIDE_MEAN else value
            else:
                at_value = slot + (2 if how == ENDS else 0)
                if is_int:
                    whole, exact = partials[at_value], True
                else:
                    value = partials_f[at_value]
            if kind != FLOAT and not null:
                if kind == TRUTH:
                    whole = np.int64(whole != 0 or value != 0.0)
                elif not exact:
                    null = how == WIDE or not -TWO_63 <= value < TWO_63
                    whole = np.int64(0) if null else np.int64(value)
                null = null or not features[f, 7] <= whole <= features[f, 8]
            if null:
                status[features[f, 6], entity] = NULL_VALUE
                nulls += 1
                float_nulls += kind == FLOAT
                result[0] = np.nan
                out[f, entity] = as_word[0] if kind == FLOAT else 0
            elif kind != FLOAT:
                out[f, entity] = whole
            else:
                result[0] = float(whole) if exact else value
                out[f, entity] = as_word[0]
    return nulls, float_nulls


@njit(cache=True, nogil=True, error_model="numpy")
def count_statuses(status, counts, at):
    """Count the codes of `status` [features, n]: those of feature f at `counts[at[f] + code]`."""
    for f in range(status.shape[0]):
        # A pass for each code: comparing many at once is quicker than counting one by one.
        code, rest = 0, status.shape[1]
        while rest and code < 256:
            found = 0
            for i in range(status.shape[1]):
                found += status[f, i] == code
            counts[at[f] + code] += found
            rest -= found
            code += 1


@njit(cache=True, nogil=True, error_model="numpy")
def section_origins(words, sizes, header, out):
    """`out`: how many sections each value has [n], then the source and last offset of each section.

    A value that is none has no sections. Returns how many words of `out` are used.
    """
    at, start = sizes.shape[0], 0
    for i in range(sizes.shape[0]):
        place, end, first = start + 1, start + sizes[i], at
        if sizes[i] > 0 and words[start] == header:
            while place < end:
                size = (words[place] & 0xFFFFFFFF) >> 3
                if size < HEADER or place + 1 + size > end:
                    at = first
                    break
                out[at], out[at + 1] = words[place + 2], words[place + 1]
                at += 2
                place += 1 + size
        out[i] = (at - first) >> 1
        start = end
    return at


@njit(cache=True, nogil=True, error_model="numpy")
def row_heads(data, sizes, parts, counts, heads, used):
    """The heads of packed rows: all that `row_origins` reads of them.

    The rows lie part by part, each with `parts[p]` rows of every view, view by view; `sizes` has
    the bytes of each row. `heads` [views, bytes]: of each view's rows, one behind the other, of
    which `used` [views] (0 before) are used; `counts` [views, n] the bytes of each.
    """
    row = start = first = 0
    for p in range(parts.shape[0]):
        for view in range(counts.shape[0]):
            end = used[view]
            for i in range(parts[p]):
                head = sizes[row]
                if head >= 12:
                    flags = data[start]
                    head = min(head, 12 + (8 if flags & 2 else 0) + (12 if flags & 4 else 0))
                for j in range(head):
                    heads[view, end + j] = data[start + j]
                counts[view, first + i] = head
                end += head
                start += sizes[row]
                row += 1
            used[view] = end
        first += parts[p]


@njit(cache=True, nogil=True, error_model="numpy")
def row_origins(data, sizes, fingerprints, numbers, state):
    """`numbers` [4, n]: event time, created, partition, offset of packed rows (`headwater.codec`).

    fingerprints [n]: of the schema of each row's view. `state`: 1 the row is of that schema, 2 it
    has a created time, 4 it has an offset.
    """
    start = 0
    for i in range(sizes.shape[0]):
        at = start
        start += sizes[i]
        if sizes[i] < 12:
            continue
        flags = data[at]
        state[i] = (flags & 6) | (1 if _word(data, at + 1, 3) == fingerprints[i] else 0)
        numbers[0, i] = _word(data, at + 4, 8)
        at += 12
        if flags & 2:
            numbers[1, i] = _word(data, at, 8)
            at += 8
        if flags & 4:
            numbers[2, i] = _word(data, at, 4)
            numbers[3, i] = _word(data, at + 4, 8)
