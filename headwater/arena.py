"""Compiled loops over the windowed state of many keys: tiles in one arena, folded in place.

Key s has `tiles[s]` tiles in a block of `words`: `words[at[s]:]` = start, partials, start, ...
ascending by start. A block holds `CAPACITY[block[s]]` tiles; freed blocks are chained by capacity.
Events ahead of the clock wait in `heads`. `headwater.states` is the door to this module; the wire
layout of a section stands in `headwater.windows`, what a partial is in `headwater.kernels`.
"""

# Numba compiles a subset of Python: explicit loops and int indices are the idiom here.
from __future__ import annotations

import numpy as np
from numba import njit

from headwater.copying import copy
from headwater.kernels import HEADER, I64_MAX, I64_MIN, add_event, identity, merge

#: Tiles that a block of each class holds; each class is about a third larger than the one before.
CAPACITY = np.array(
    [0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 27, 36, 48, 64, 85, 113, 151, 201, 268, 357, 476, 635, 847,
     1129, 1505, 2007, 2676, 3568, 4757, 6343, 8457, 11276, 15035, 20047, 26729, 35639, 47519,
     63359, 84479, 112639, 150185, 200247, 266996, 355995, 474660, 632880, 843840, 1125120],
    np.int64,
)  # fmt: skip
#: What a slot knows of itself, one column each.
APPLIED, MARK, TILES, BLOCK, AT, HEADS, DIRTY, USED = range(8)
SLOT_FIELDS = 8


@njit(cache=True, nogil=True, error_model="numpy")
def new_slots(slots, size, more):
    for s in range(size, size + more):
        slots[s, APPLIED] = -1
        slots[s, MARK] = I64_MIN
        for f in (TILES, BLOCK, AT, HEADS, DIRTY, USED):
            slots[s, f] = 0


@njit(cache=True, nogil=True, error_model="numpy")
def _reserve(words, free, top, kind, stride):
    """Place of a block of one class, or -1 where the arena is full. top: int64 [1]."""
    if free[kind] >= 0:
        place = free[kind]
        free[kind] = words[place]
        return place
    place = top[0]
    if place + CAPACITY[kind] * stride > words.size:
        return np.int64(-1)
    top[0] = place + CAPACITY[kind] * stride
    return place


@njit(cache=True, nogil=True, error_model="numpy")
def _release(words, free, kind, place):
    if kind > 0:
        words[place] = free[kind]
        free[kind] = place


@njit(cache=True, nogil=True, error_model="numpy")
def _levels_at(levels, watermark, cuts):
    """Where each level begins to count at a watermark: events before `cuts[i, 0]` are its own.

    A cut holds for watermarks in [cuts[i, 1], cuts[i, 2]), so that few events cost a division.
    """
    for i in range(1, levels.shape[0]):
        if cuts[i, 1] <= watermark < cuts[i, 2]:
            continue
        cut, size = watermark - levels[i, 0], levels[i, 1]
        if size > 0:
            cut = cut // size * size
            cuts[i, 1] = cut + levels[i, 0]
            cuts[i, 2] = cuts[i, 1] + size
        cuts[i, 0] = cut


@njit(cache=True, nogil=True, error_model="numpy")
def _start(ts, levels, cuts):
    """`kernels.tile_start` by cuts that are at hand."""
    for i in range(levels.shape[0] - 1, 0, -1):
        if ts < cuts[i, 0]:
            size = levels[i, 1]
            if size == -1:
                return I64_MAX
            return I64_MIN if size == 0 else ts // size * size
    size = levels[0, 1]
    return I64_MIN if size == 0 else ts // size * size


@njit(cache=True, nogil=True, error_model="numpy")
def compact(ops, levels, cuts, width, words, words_f, place, n, watermark):
    """Coarsen and expire a key's tiles by the watermark, in place; returns how many are left."""
    stride = 1 + width
    _levels_at(levels, watermark, cuts)
    finest = cuts[1, 0] if levels.shape[0] > 1 else I64_MIN
    kept = 0
    for i in range(n):
        here = place + i * stride
        start = words[here]
        if start >= finest:
            if kept == i:
                return n
        elif start != I64_MIN:
            start = _start(start, levels, cuts)
            if start == I64_MAX:
                continue
        into = place + (kept - 1) * stride
        if kept > 0 and words[into] == start:
            merge(ops, words, words_f, into + 1, words, words_f, here + 1)
            continue
        into += stride
        if into != here:
            copy(words, into + 1, words, here + 1, here + stride)
        words[into] = start
        kept += 1
    return kept


@njit(cache=True, nogil=True, error_model="numpy")
def _put(
    ops, levels, cuts, width, words, words_f, free, top, slot, ts, seq, values, values_f, valid
):  # fmt: skip
    """Add one event to its key's tiles. False where the arena has no room: grow it, try again."""
    stride = 1 + width
    _levels_at(levels, slot[MARK], cuts)
    start = _start(ts, levels, cuts)
    if start == I64_MAX:
        return True
    for _ in range(2):
        n, place = slot[TILES], slot[AT]
        i = n
        while i > 0 and words[place + (i - 1) * stride] > start:
            i -= 1
        here = place + (i - 1) * stride
        if i > 0 and words[here] == start:
            add_event(ops, words, words_f, here + 1, ts, seq, values, values_f, valid)
            return True
        if n < CAPACITY[slot[BLOCK]]:
            break
        slot[TILES] = compact(ops, levels, cuts, width, words, words_f, place, n, slot[MARK])
        if slot[TILES] == n:
            kind = slot[BLOCK] + 1
            larger = _reserve(words, free, top, kind, stride)
            if larger < 0:
                return False
            copy(words, larger, words, place, place + n * stride)
            _release(words, free, slot[BLOCK], place)
            slot[BLOCK], slot[AT] = kind, larger
    n, place = slot[TILES], slot[AT]
    i = n
    while i > 0 and words[place + (i - 1) * stride] > start:
        i -= 1
    here = place + i * stride
    for w in range(place + n * stride - 1, here - 1, -1):
        words[w + stride] = words[w]
    words[here] = start
    identity(ops, words, words_f, here + 1)
    add_event(ops, words, words_f, here + 1, ts, seq, values, values_f, valid)
    slot[TILES] = n + 1
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def fold(
    ops, levels, cuts, width, words, free, top, slots, heads, n_heads, dirty, n_dirty, first,
    generation, key, ts, seq, offset, watermark, values, valid, now,
):  # fmt: skip
    """Fold events, in offset order, from event `first` on, into the state of their keys.

    Events at or below a key's offset were applied before and are skipped. dirty [slots], n_dirty
    [1]: the keys that changed. Returns the event at which the arena was full (grow it and go on
    from there), or their number.
    """
    words_f = words.view(np.float64)
    values_f = values.view(np.float64)
    for e in range(first, ts.size):
        slot = slots[key[e]]
        # A udf may make several rows of one event: those behind the first have its offset too.
        if offset[e] <= slot[APPLIED] and (offset[e] < slot[APPLIED] or slot[USED] != generation):
            continue
        if watermark[e] > slot[MARK]:
            slot[MARK] = watermark[e]
        if ts[e] > now:
            row = heads[n_heads[0]]
            row[0], row[1], row[2], row[3] = key[e], ts[e], seq[e], 0
            for c in range(values.shape[1]):
                row[4 + c] = values[e, c]
                if valid[e, c]:
                    row[3] |= np.int64(1) << c
            n_heads[0] += 1
            slot[HEADS] += 1
        elif not _put(
            ops, levels, cuts, width, words, words_f, free, top, slot, ts[e], seq[e],
            values[e], values_f[e], valid[e],
        ):  # fmt: skip
            return e
        slot[APPLIED] = offset[e]
        slot[USED] = generation
        if slot[DIRTY] == 0:
            slot[DIRTY] = 1
            dirty[n_dirty[0]] = key[e]
            n_dirty[0] += 1
    return ts.size


@njit(cache=True, nogil=True, error_model="numpy")
def settle(ops, levels, cuts, width, words, free, top, slots, heads, n_heads, now):
    """Fold the head events whose time has come. False where the arena is full: grow it, repeat."""
    words_f = words.view(np.float64)
    columns = heads.shape[1] - 4
    known = np.empty(columns, np.bool_)
    kept = 0
    whole = True
    for h in range(n_heads[0]):
        row = heads[h]
        slot = slots[row[0]]
        if whole and row[1] <= now:
            for c in range(columns):
                known[c] = (row[3] >> c) & 1
            cells = row[4:]
            whole = _put(
                ops, levels, cuts, width, words, words_f, free, top, slot, row[1], row[2],
                cells, cells.view(np.float64), known,
            )  # fmt: skip
            if whole:
                slot[HEADS] -= 1
                continue
        heads[kept] = row
        kept += 1
    n_heads[0] = kept
    return whole


@njit(cache=True, nogil=True, error_model="numpy")
def relocate(width, words, slots, size, out):
    """Copy every block into another arena, without gaps; returns the words in use there."""
    top = np.int64(0)
    for s in range(size):
        slot = slots[s]
        room = CAPACITY[slot[BLOCK]] * (1 + width)
        copy(out, top, words, slot[AT], slot[AT] + slot[TILES] * (1 + width))
        slot[AT] = top
        top += room
    return top


@njit(cache=True, nogil=True, error_model="numpy")
def section_sizes(ops, levels, cuts, width, columns, words, slots, which, sizes):
    """Words that the section of each key takes, after coarsening its tiles; sizes int64 [which]."""
    words_f = words.view(np.float64)
    for k in range(which.size):
        slot = slots[which[k]]
        slot[TILES] = compact(
            ops, levels, cuts, width, words, words_f, slot[AT], slot[TILES], slot[MARK]
        )
        sizes[k] = HEADER + slot[TILES] * (1 + width) + slot[HEADS] * (3 + columns)


@njit(cache=True, nogil=True, error_model="numpy")
def put_section(width, words, slot, source, heads, order, first, out, at):
    """Write one key's section at `out[at:]`; its heads are `heads[order[first:]]`."""
    stride = 1 + width
    n = slot[TILES]
    out[at], out[at + 1], out[at + 2] = slot[APPLIED], source, slot[MARK]
    out[at + 3], out[at + 4] = n, slot[HEADS]
    at += HEADER
    place = slot[AT]
    for i in range(n):
        out[at + i] = words[place + i * stride]
        tile = place + i * stride
        copy(out, at + n + i * width, words, tile + 1, tile + stride)
    at += n * stride
    row = heads.shape[1] - 1
    for h in range(slot[HEADS]):
        for w in range(row):
            out[at + h * row + w] = heads[order[first + h], 1 + w]


@njit(cache=True, nogil=True, error_model="numpy")
def sections(width, words, slots, which, source, heads, order, heads_at, header, out, out_at):
    """The sections of some keys, one behind the other; key k's at `out[out_at[k]:]`.

    header: words before each, of which the last is the section's size in bytes; may be empty.
    """
    n = header.size
    for k in range(which.size):
        at = out_at[k]
        for w in range(n - 1):
            out[at + w] = header[w]
        if n:
            out[at + n - 1] = (out_at[k + 1] - at - n) * 8
        put_section(width, words, slots[which[k]], source, heads, order, heads_at[k], out, at + n)


@njit(cache=True, nogil=True, error_model="numpy")
def load(width, words, free, top, slots, heads, n_heads, which, data, data_at, first):
    """Take sections into the arena as the state of keys `which`, from `first` on.

    Section k is `data[data_at[k]:]`; an empty one leaves a new key. Returns the section at which
    the arena was full, or their number. `heads` has room for all of theirs.
    """
    stride = 1 + width
    for k in range(first, which.size):
        a = data_at[k]
        if data_at[k + 1] == a:
            continue
        slot = slots[which[k]]
        n = data[a + 3]
        kind = 0
        while CAPACITY[kind] < n:
            kind += 1
        place = _reserve(words, free, top, kind, stride) if kind else np.int64(0)
        if place < 0:
            return k
        slot[APPLIED], slot[MARK] = data[a], data[a + 2]
        slot[TILES], slot[BLOCK], slot[AT] = n, kind, place
        slot[HEADS] = data[a + 4]
        a += HEADER
        for i in range(n):
            tile = place + i * stride
            words[tile] = data[a + i]
            copy(words, tile + 1, data, a + n + i * width, a + n + (i + 1) * width)
        a += n * stride
        row = heads.shape[1] - 1
        for h in range(slot[HEADS]):
            into = heads[n_heads[0]]
            into[0] = which[k]
            for w in range(row):
                into[1 + w] = data[a + h * row + w]
            n_heads[0] += 1
    return which.size
