"""Compiled loops over windowed state: merge operators and reading tiles.

All state is 8-byte words. A slot holds an int64 or the bits of a float64, as its operator says;
every operator is `identity`, `lift` (one event) and `merge` (two partials), and nothing is ever
subtracted. `headwater.windows` is the door to this module and describes the layout.
"""

# Numba compiles a subset of Python: explicit loops and int indices are the idiom here.
from __future__ import annotations

import numpy as np
from numba import njit

COUNT, SUM_I, SUM_F, MIN_I, MIN_F, MAX_I, MAX_F, MOMENTS, FIRST, LAST, SUM_WIDE = range(11)
#: Words that the partial of each operator takes.
WIDTHS = (1, 1, 1, 1, 1, 1, 1, 3, 3, 3, 2)
#: A wide sum is that of the lower 32 bits and that of the upper ones, each in a word of its own:
#: neither can overflow, in whatever order they are added, as the sum of whole int64 could.
LOW_BITS = 0xFFFFFFFF

#: Words before a section's tiles: last offset, source, watermark, tiles, head events.
HEADER = 5
I64_MAX = np.iinfo(np.int64).max
I64_MIN = np.iinfo(np.int64).min


@njit(cache=True, nogil=True, error_model="numpy")
def identity(ops, slots_i, slots_f, at):
    """Write the neutral partial of every operator from word `at` on."""
    for k in range(ops.shape[0]):
        op, j = ops[k, 0], at + ops[k, 2]
        if op == MIN_I:
            slots_i[j] = I64_MAX
        elif op == MAX_I:
            slots_i[j] = I64_MIN
        elif op == MIN_F:
            slots_f[j] = np.inf
        elif op == MAX_F:
            slots_f[j] = -np.inf
        elif op == FIRST:
            slots_i[j], slots_i[j + 1], slots_i[j + 2] = I64_MAX, I64_MAX, 0
        elif op == LAST:
            slots_i[j], slots_i[j + 1], slots_i[j + 2] = I64_MIN, I64_MIN, 0
        elif op == MOMENTS:
            slots_i[j], slots_f[j + 1], slots_f[j + 2] = 0, 0.0, 0.0
        elif op == SUM_WIDE:
            slots_i[j], slots_i[j + 1] = 0, 0
        else:
            slots_i[j] = 0


@njit(cache=True, nogil=True, error_model="numpy")
def add_event(ops, slots_i, slots_f, at, ts, seq, values_i, values_f, valid):
    """Merge one event (its C values, as int64 words and as float64) into the partials at `at`."""
    for k in range(ops.shape[0]):
        op, c, j = ops[k, 0], ops[k, 1], at + ops[k, 2]
        if c >= 0 and not valid[c]:
            continue
        if op == COUNT:
            slots_i[j] += 1
        elif op == SUM_I:
            slots_i[j] += values_i[c]
        elif op == SUM_WIDE:
            slots_i[j] += values_i[c] & LOW_BITS
            slots_i[j + 1] += values_i[c] >> 32
        elif op == SUM_F:
            slots_f[j] += values_f[c]
        elif op == MIN_I:
            slots_i[j] = min(slots_i[j], values_i[c])
        elif op == MAX_I:
            slots_i[j] = max(slots_i[j], values_i[c])
        elif op == MIN_F:
            slots_f[j] = min(slots_f[j], values_f[c])
        elif op == MAX_F:
            slots_f[j] = max(slots_f[j], values_f[c])
        elif op == MOMENTS:
            # Welford's update. ops[k, 3] says that the column holds integers.
            x = float(values_i[c]) if ops[k, 3] == 1 else values_f[c]
            slots_i[j] += 1
            delta = x - slots_f[j + 1]
            slots_f[j + 1] += delta / slots_i[j]
            slots_f[j + 2] += delta * (x - slots_f[j + 1])
        elif op == FIRST:
            if ts < slots_i[j] or (ts == slots_i[j] and seq < slots_i[j + 1]):
                slots_i[j], slots_i[j + 1], slots_i[j + 2] = ts, seq, values_i[c]
        elif op == LAST:  # noqa: SIM102 (the chain of operators reads as one table)
            if ts > slots_i[j] or (ts == slots_i[j] and seq > slots_i[j + 1]):
                slots_i[j], slots_i[j + 1], slots_i[j + 2] = ts, seq, values_i[c]


@njit(cache=True, nogil=True, error_model="numpy")
def merge(ops, into_i, into_f, at, from_i, from_f, start):
    """Merge the partials at word `start` of one array into those at word `at` of another."""
    for k in range(ops.shape[0]):
        op, j, s = ops[k, 0], at + ops[k, 2], start + ops[k, 2]
        if op in (COUNT, SUM_I):
            into_i[j] += from_i[s]
        elif op == SUM_WIDE:
            into_i[j] += from_i[s]
            into_i[j + 1] += from_i[s + 1]
        elif op == SUM_F:
            into_f[j] += from_f[s]
        elif op == MIN_I:
            into_i[j] = min(into_i[j], from_i[s])
        elif op == MAX_I:
            into_i[j] = max(into_i[j], from_i[s])
        elif op == MIN_F:
            into_f[j] = min(into_f[j], from_f[s])
        elif op == MAX_F:
            into_f[j] = max(into_f[j], from_f[s])
        elif op == MOMENTS:
            # Chan, Golub and LeVeque (1979), eq. 2.1: pairwise update of mean and deviations.
            n, m = into_i[j], from_i[s]
            if m > 0:
                delta = from_f[s + 1] - into_f[j + 1]
                into_i[j] = n + m
                into_f[j + 1] += delta * m / (n + m)
                into_f[j + 2] += from_f[s + 2] + delta * delta * n * m / (n + m)
        elif op == FIRST:
            if from_i[s] < into_i[j] or (from_i[s] == into_i[j] and from_i[s + 1] < into_i[j + 1]):
                for w in range(3):
                    into_i[j + w] = from_i[s + w]
        elif op == LAST:  # noqa: SIM102 (the chain of operators reads as one table)
            if from_i[s] > into_i[j] or (from_i[s] == into_i[j] and from_i[s + 1] > into_i[j + 1]):
                for w in range(3):
                    into_i[j + w] = from_i[s + w]


@njit(cache=True, nogil=True, error_model="numpy")
def tile_start(ts, watermark, levels):
    """Start of the tile that an event belongs to; I64_MAX when no window can use it any more.

    `levels[i]` = (age past which the level's tiles serve, their length), ages ascending from 0.
    A length of -1 drops the event, 0 is the one tile of the whole history.
    """
    for i in range(levels.shape[0] - 1, 0, -1):
        size = levels[i, 1]
        cut = watermark - levels[i, 0]
        if size > 0:
            cut = cut // size * size
        if ts < cut:
            if size == -1:
                return I64_MAX
            return I64_MIN if size == 0 else ts // size * size
    size = levels[0, 1]
    if size == 0:
        return I64_MIN
    return ts // size * size


@njit(cache=True, nogil=True, error_model="numpy")
def read(ops, width, n_columns, words, section_at, owner, windows, t, partials):
    """Merge sections into one partial for each (entity, window) at time `t`.

    Section s is `words[section_at[s]:]` and belongs to entity `owner[s]`; `windows[w]` = (length
    or -1 for the whole history, hop); `partials` is int64 [entities, windows * width], already
    filled with identities. A window covers [floor_hop(t - length), t].
    """
    partials_f = partials.view(np.float64)
    row = 3 + n_columns
    words_f = words.view(np.float64)
    lows = np.empty(windows.shape[0], np.int64)
    for w in range(windows.shape[0]):
        length, hop = windows[w, 0], windows[w, 1]
        lows[w] = I64_MIN if length < 0 else (t - length) // hop * hop
    known = np.empty(n_columns, np.bool_)
    for s in range(section_at.shape[0]):
        at = section_at[s]
        n, heads = words[at + 3], words[at + 4]
        starts = at + HEADER
        slots = starts + n
        rows = slots + n * width
        into_i, into_f = partials[owner[s]], partials_f[owner[s]]
        for w in range(windows.shape[0]):
            for i in range(n - 1, -1, -1):
                if words[starts + i] < lows[w]:
                    break
                if words[starts + i] <= t:
                    merge(ops, into_i, into_f, w * width, words, words_f, slots + i * width)
        for h in range(heads):
            start = rows + h * row
            if words[start] > t:
                continue
            for c in range(n_columns):
                known[c] = (words[start + 2] >> c) & 1
            cells, cells_f = words[start + 3 : start + row], words_f[start + 3 : start + row]
            for w in range(windows.shape[0]):
                if words[start] >= lows[w]:
                    add_event(
                        ops, into_i, into_f, w * width, words[start], words[start + 1],
                        cells, cells_f, known,
                    )  # fmt: skip
