"""Compiled loops of joins at label times: newest rows, window bounds, range queries.

Everywhere: events and labels are grouped by key; key k has the events `events_at[k]:events_at[k+1]`
in order of (time, sequence) and the labels `labels_at[k]:labels_at[k+1]` in order of time `t`.
Nothing is ever subtracted from a floating sum: ranges are answered by a tree of partials.
"""

# Numba compiles a subset of Python: explicit loops and int indices are the idiom here.
from __future__ import annotations

import numpy as np
from numba import njit

I64_MAX = np.iinfo(np.int64).max
I64_MIN = np.iinfo(np.int64).min
#: Children of a node in a tree of partials.
FAN = 16
SUM, MIN, MAX = range(3)
_1, _2, _3, _4 = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)


@njit(cache=True, nogil=True)
def lookup(table, low, keys, out):
    """`out[i] = table[keys[i] - low]`; -1 outside of the table."""
    size = table.shape[0]
    for i in range(keys.shape[0]):
        # As unsigned, a key below `low` lies far above the table.
        at = np.uint64(keys[i]) - np.uint64(low)
        out[i] = table[at] if at < np.uint64(size) else -1


@njit(cache=True, nogil=True)
def group(code, n):
    """Stable order of rows by code, and where each code starts; negative codes are left out."""
    starts = np.zeros(n + 1, np.int64)
    for i in range(code.shape[0]):
        if code[i] >= 0:
            starts[code[i] + 1] += 1
    for k in range(n):
        starts[k + 1] += starts[k]
    at = starts[:-1].copy()
    order = np.empty(starts[n], np.int64)
    for i in range(code.shape[0]):
        if code[i] >= 0:
            order[at[code[i]]] = i
            at[code[i]] += 1
    return order, starts


@njit(cache=True, nogil=True)
def number(keys, low, table, codes):
    """Number keys 0, 1, ... as they first come; `table` (of -1) has `low` first. Returns how many.

    `codes[i]` is the number of key i.
    """
    count = 0
    for i in range(keys.shape[0]):
        at = keys[i] - low
        if table[at] < 0:
            table[at] = count
            count += 1
        codes[i] = table[at]
    return count


@njit(cache=True, nogil=True)
def admit(code, ts, low, high, part, parts, out):
    """Which rows have a key of this part (every parts-th, from `part` on) and a time in bounds.

    `out[i]`: the key's number within its part, -1 for rows left out. Returns how many are not.
    """
    count = 0
    for i in range(code.shape[0]):
        k = code[i]
        if k >= 0 and parts > 1:
            k = k // parts if k % parts == part else -1
        if ts[i] < low or ts[i] > high:
            k = -1
        out[i] = k
        count += k >= 0
    return count


@njit(cache=True, nogil=True)
def count_codes(code, starts):
    """Add the rows of each code k to `starts[k]`; negative codes are left out."""
    for i in range(code.shape[0]):
        if code[i] >= 0:
            starts[code[i]] += 1


@njit(cache=True, nogil=True)
def place_codes(code, cursor, places):
    """Each row's place among all, code by code; `cursor` [codes] moves on. -1 is left out."""
    for i in range(code.shape[0]):
        k = code[i]
        if k < 0:
            places[i] = -1
        else:
            places[i] = cursor[k]
            cursor[k] += 1


@njit(cache=True, nogil=True)
def put(column, to, out):
    """`out[to[i]] = column[i]`; negative places are left out."""
    for i in range(column.shape[0]):
        if to[i] >= 0:
            out[to[i]] = column[i]


@njit(cache=True, nogil=True)
def put_nulls(column, null, to, out, out_null):
    """As `put`, with which of them are null."""
    for i in range(column.shape[0]):
        if to[i] >= 0:
            out[to[i]] = column[i]
            out_null[to[i]] = null[i]


@njit(cache=True, nogil=True)
def comes_before(i, j, ts, seq):
    """By (ts, seq); `seq` may be empty, then rows are in order of it already."""
    return ts[i] < ts[j] or (ts[i] == ts[j] and (seq.shape[0] == 0 or seq[i] <= seq[j]))


@njit(cache=True, nogil=True)
def in_order(starts, ts, seq):
    """Whether each group is in order of (ts, seq) already."""
    for k in range(starts.shape[0] - 1):
        times, wrong = ts[starts[k] : starts[k + 1]], 0
        for i in range(1, times.shape[0]):  # without a way out, it is many at a time
            wrong += times[i] < times[i - 1]
        if wrong:
            return False
        if seq.shape[0]:
            for i in range(starts[k] + 1, starts[k + 1]):
                if ts[i] == ts[i - 1] and seq[i] < seq[i - 1]:
                    return False
    return True


@njit(cache=True, nogil=True)
def sort_groups(order, starts, ts, seq):
    """Bring each group of `order` into order of (ts, seq); groups that are so already stay."""
    for k in range(starts.shape[0] - 1):
        a, b = starts[k], starts[k + 1]
        for i in range(a + 1, b):
            if not comes_before(order[i - 1], order[i], ts, seq):
                rows = order[a:b].copy()
                if seq.shape[0]:
                    rows = rows[np.argsort(seq[rows], kind="mergesort")]
                order[a:b] = rows[np.argsort(ts[rows], kind="mergesort")]
                break


@njit(cache=True, nogil=True)
def first_at(t, lo, hi, v):
    """First position in `t[lo:hi]` that is not before v; hi where all are."""
    while lo < hi:
        mid = (lo + hi) >> 1
        if t[mid] < v:
            lo = mid + 1
        else:
            hi = mid
    return lo


@njit(cache=True, nogil=True)
def newest(code, ts, visible, created, seq, base, labels_at, t, best, cursor):
    """Note each row at the first label of its key that can see it, if it is the newest there.

    A label sees rows whose `visible` time is at or before its own. best: [labels, 4] = (ts,
    created, sequence, row) so far; `seq` may be empty, then rows are in order. `cursor` [keys]
    is where the key's last row fell: rows come nearly in order of time.
    """
    own = seq.shape[0] > 0
    dated = created.shape[0] > 0
    for i in range(code.shape[0]):
        k = code[i]
        if k < 0:
            continue
        lo, hi, v = labels_at[k], labels_at[k + 1], visible[i]
        p = cursor[k]
        if not (p < hi and t[p] >= v and (p == lo or t[p - 1] < v)):
            # The next label is a likely one too; else any.
            if p + 1 < hi and t[p] < v and t[p + 1] >= v:
                p += 1
            else:
                p = first_at(t, lo, hi, v)
            if p == hi:
                continue
            cursor[k] = p
        made = created[i] if dated else 0
        number = seq[i] if own else base + i
        row = best[p]
        if row[3] >= 0:
            if ts[i] != row[0]:
                if ts[i] < row[0]:
                    continue
            elif made != row[1]:
                if made < row[1]:
                    continue
            elif number < row[2]:
                continue
        row[0], row[1], row[2], row[3] = ts[i], made, number, base + i


@njit(cache=True, nogil=True)
def newest_of_each(code, ts, created, seq, best):
    """The row of each key with the greatest (ts, created, seq); `best` [keys] starts at -1."""
    dated, own = created.shape[0] > 0, seq.shape[0] > 0
    for i in range(code.shape[0]):
        k = code[i]
        if k < 0:
            continue
        b = best[k]
        if b >= 0:
            if ts[i] != ts[b]:
                if ts[i] < ts[b]:
                    continue
            elif dated and created[i] != created[b]:
                if created[i] < created[b]:
                    continue
            elif own and seq[i] < seq[b]:
                continue
        best[k] = i


@njit(cache=True, nogil=True)
def settle(labels_at, t, ttl, best, rows):
    """`rows[label]`: the newest row noted at it or at an earlier label of its key.

    -1 where there is none, -2 where it is older than `ttl` (0: there is no limit).
    """
    for k in range(labels_at.shape[0] - 1):
        held = -1
        for p in range(labels_at[k], labels_at[k + 1]):
            if best[p, 3] >= 0:
                if held < 0:
                    held = p
                else:
                    a, b = best[held], best[p]
                    if b[0] > a[0] or (
                        b[0] == a[0] and (b[1] > a[1] or (b[1] == a[1] and b[2] > a[2]))
                    ):
                        held = p
            rows[p] = -1
            if held >= 0:
                fresh = ttl == 0 or t[p] - best[held, 0] <= ttl
                rows[p] = best[held, 3] if fresh else -2


@njit(cache=True, nogil=True)
def first_from(t, lo, hi, v):
    """As `first_at`, where the answer is likely to be near `lo`."""
    step = 8
    while lo + step < hi and t[lo + step] < v:
        lo += step + 1
        step *= 2
    if step > 8:
        return first_at(t, lo, min(lo + step, hi), v)
    while lo < hi and t[lo] < v:
        lo += 1
    return lo


@njit(cache=True, nogil=True)
def upper(events_at, ts, labels_at, t, high):
    """`high[label]`: where the events until t end."""
    for k in range(labels_at.shape[0] - 1):
        b, end = events_at[k], events_at[k + 1]
        for p in range(labels_at[k], labels_at[k + 1]):
            b = first_from(ts, b, end, t[p] + 1)
            high[p] = b


@njit(cache=True, nogil=True)
def lower(events_at, ts, labels_at, t, length, hop, high, low):
    """`low[label]`: where the events from floor_hop(t - length) on start; length -1 is all."""
    for k in range(labels_at.shape[0] - 1):
        a = events_at[k]
        for p in range(labels_at[k], labels_at[k + 1]):
            if length >= 0:
                begin = t[p] - length
                if hop > 1:  # a division takes longer than the rest
                    begin = begin // hop * hop
                a = first_from(ts, a, high[p], begin)
            low[p] = a


@njit(cache=True, nogil=True)
def settled(events_at, arrived, labels_at, t, high, until):
    """`until[label]`: before it, every event of the label's key had arrived by the label's time."""
    for k in range(labels_at.shape[0] - 1):
        begin, end = events_at[k], events_at[k + 1]
        newest_so_far = np.empty(end - begin, np.int64)
        top = I64_MIN
        for e in range(begin, end):
            top = max(top, arrived[e])
            newest_so_far[e - begin] = top
        for p in range(labels_at[k], labels_at[k + 1]):
            until[p] = min(begin + first_at(newest_so_far, 0, end - begin, t[p] + 1), high[p])


@njit(cache=True, nogil=True)
def combine(op, a, b):
    if op == SUM:
        return a + b
    if op == MIN:
        return b if b < a else a
    return b if b > a else a


@njit(cache=True, nogil=True)
def build_tree(op, none, x):
    """Partials of 16 neighbours each of `x`, then of 16 of those, and so on, in one array."""
    total, level = 0, x.shape[0]
    while level > 1:
        level = (level + FAN - 1) // FAN
        total += level
    tree = np.empty(total, x.dtype)
    below, size, begin = x, x.shape[0], 0
    while size > 1:
        above = (size + FAN - 1) // FAN
        for i in range(above):
            value = none
            for j in range(i * FAN, min((i + 1) * FAN, size)):
                value = combine(op, value, below[j])
            tree[begin + i] = value
        below, size, begin = tree[begin : begin + above], above, begin + above
    return tree


@njit(cache=True, nogil=True)
def span(op, none, x, a, b):
    """The operator over `x[a:b]`, in four strands: each waits for its own last result only."""
    v0, v1, v2, v3 = none, none, none, none
    i, end = np.uint64(a), np.uint64(b)  # unsigned indices cannot count from the end
    while i + _4 <= end:
        v0 = combine(op, v0, x[i])
        v1 = combine(op, v1, x[i + _1])
        v2 = combine(op, v2, x[i + _2])
        v3 = combine(op, v3, x[i + _3])
        i += _4
    while i < end:
        v0 = combine(op, v0, x[i])
        i += _1
    return combine(op, combine(op, v0, v1), combine(op, v2, v3))


@njit(cache=True, nogil=True)
def query(op, none, x, tree, a, b):
    """The operator over `x[a:b]`, by the tree of partials over x."""
    value = none
    nodes, size, begin = x, x.shape[0], 0
    while b - a >= 2 * FAN:
        inner_a, inner_b = (a + FAN - 1) // FAN, b // FAN
        value = combine(op, value, span(op, none, nodes, a, inner_a * FAN))
        value = combine(op, value, span(op, none, nodes, inner_b * FAN, b))
        a, b, size = inner_a, inner_b, (size + FAN - 1) // FAN
        nodes, begin = tree[begin : begin + size], begin + size
    return combine(op, value, span(op, none, nodes, a, b))


@njit(cache=True, nogil=True)
def fold(op, none, x, tree, lows, until, high, arrived, t, out):
    """The operator over each label's events, for windows from the shortest to the longest.

    Window w of label p has the events `lows[w, p]:high[p]`: all before `until[p]`, and the arrived
    of the rest. A longer window holds a shorter one, so it goes on from there; one that does not,
    because of its hop, starts afresh. An empty tree is not used. out: [windows, labels].
    """
    short = 2 * FAN if tree.shape[0] else x.shape[0]
    for p in range(high.shape[0]):
        at, value = high[p], none
        for w in range(lows.shape[0]):
            low = lows[w, p]
            if low > at:
                at, value = high[p], none
            while at > low and at > until[p]:
                at -= 1
                if arrived[at] <= t[p]:
                    value = combine(op, value, x[at])
            if at - low > short:
                value = combine(op, value, query(op, none, x, tree, low, at))
                at = low
            elif at > low:
                value = combine(op, value, span(op, none, x, low, at))
                at = low
            out[w, p] = value


@njit(cache=True, nogil=True)
def merge_moments(n, mean, squares, m, other_mean, other_squares):
    """Chan, Golub and LeVeque (1979), eq. 2.1: pairwise update of mean and deviations."""
    if m == 0:
        return n, mean, squares
    delta = other_mean - mean
    total = n + m
    return (
        total, mean + delta * m / total, squares + other_squares + delta * delta * n * m / total,
    )  # fmt: skip


@njit(cache=True, nogil=True)
def moments(x, valid, low, until, high, arrived, t, out_n, out):
    """Count and sum of squared deviations of each label's valid events, by a tree as above.

    All of `low:until` and the arrived of `until:high`; `until` may lie before `low`.
    """
    size, total, level = x.shape[0], x.shape[0], x.shape[0]
    while level > 1:
        level = (level + FAN - 1) // FAN
        total += level
    ns, means, squares = np.empty(total, np.int64), np.empty(total), np.zeros(total)
    for i in range(size):
        ns[i] = 1 if valid[i] else 0
        means[i] = x[i] if valid[i] else 0.0
    begin, level = 0, size
    while level > 1:
        above = (level + FAN - 1) // FAN
        for i in range(above):
            n, mean, square = 0, 0.0, 0.0
            for j in range(begin + i * FAN, begin + min((i + 1) * FAN, level)):
                n, mean, square = merge_moments(n, mean, square, ns[j], means[j], squares[j])
            at = begin + level + i
            ns[at], means[at], squares[at] = n, mean, square
        begin, level = begin + level, above
    for p in range(low.shape[0]):
        a, b = low[p], max(until[p], low[p])
        loose = b
        n, mean, square = 0, 0.0, 0.0
        begin, level = 0, size
        while a < b:
            whole = b - a < 2 * FAN
            while a < b and (whole or a % FAN):
                j = begin + a
                n, mean, square = merge_moments(n, mean, square, ns[j], means[j], squares[j])
                a += 1
            while a < b and b % FAN:
                b -= 1
                j = begin + b
                n, mean, square = merge_moments(n, mean, square, ns[j], means[j], squares[j])
            begin, level = begin + level, (level + FAN - 1) // FAN
            a, b = a // FAN, b // FAN
        for e in range(loose, high[p]):
            if arrived[e] <= t[p]:
                n, mean, square = merge_moments(n, mean, square, ns[e], means[e], squares[e])
        out_n[p], out[p] = n, square


@njit(cache=True, nogil=True)
def ends(n, last, valid, low, until, high, arrived, t, offsets):
    """Positions of each label's first or last n valid events, in order of time, flat.

    Label p's are at `offsets[p]:offsets[p + 1]` of what is returned.
    """
    found = np.empty(max(1, low.shape[0]) * min(n, 4), np.int64)
    size = 0
    for p in range(low.shape[0]):
        begin = size
        e, step, stop = low[p], 1, high[p]
        if last:
            e, step, stop = high[p] - 1, -1, low[p] - 1
        while e != stop and size - begin < n:
            if valid[e] and (e < until[p] or arrived[e] <= t[p]):
                if size == found.shape[0]:
                    more = np.empty(2 * size, np.int64)
                    more[:size] = found
                    found = more
                found[size] = e
                size += 1
            e += step
        if last:
            found[begin:size] = found[begin:size][::-1].copy()
        offsets[p + 1] = size
    return found[:size]


@njit(cache=True, nogil=True)
def take(column, at):
    """`column[at]`, for places that are known to be there."""
    out = np.empty(at.shape[0], column.dtype)
    for i in range(at.shape[0]):
        out[i] = column[np.uint64(at[i])]
    return out


@njit(cache=True, nogil=True)
def scatter(column, at, to, out):
    """`out[to[i]] = column[at[i]]`."""
    for i in range(at.shape[0]):
        out[to[i]] = column[at[i]]
