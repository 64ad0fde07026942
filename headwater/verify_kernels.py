"""Compiled loops that say which events a served vector was made of.

Vectors ("labels") are sorted by key and time; `bound[p, s]` is the last offset of source s that was
in the state of label p. A *group* is a stretch of one key's labels whose bounds never go back, so
that an event counts from one label of the group on: `headwater.offline.recompute` uses that label's
time as the event's time of arrival.
"""

# Numba compiles a subset of Python: explicit loops and int indices are the idiom here.
from __future__ import annotations

import numpy as np
from numba import njit

I64_MIN = np.iinfo(np.int64).min


@njit(cache=True, nogil=True)
def groups(code, t, bound, group):
    """Number the groups of labels; labels of one time share theirs only with equal bounds."""
    n, number = code.shape[0], -1
    for p in range(n):
        new = p == 0 or code[p] != code[p - 1]
        if not new:
            for s in range(bound.shape[1]):
                a, b = bound[p - 1, s], bound[p, s]
                if b < a or (b != a and t[p] == t[p - 1]):
                    new = True
                    break
        if new:
            number += 1
        group[p] = number
    return number + 1


@njit(cache=True, nogil=True)
def arrivals(
    code, source, offset, key_at, labels_at, t, bound, out_event, out_group, out_arrived, real
):  # fmt: skip
    """(event, group, time of its first label) of every event that a group sees; returns how many.

    Key k has the groups `key_at[k]:key_at[k + 1]`, group g the labels `labels_at[g]:`. source -1 is
    seen by all, -2 by none. Only counts where not `real`.
    """
    n = 0
    for e in range(code.shape[0]):
        k = code[e]
        if k < 0 or source[e] == -2:
            continue
        for g in range(key_at[k], key_at[k + 1]):
            lo, hi = labels_at[g], labels_at[g + 1]
            end = hi
            arrived = I64_MIN
            if source[e] >= 0:
                while lo < hi:
                    mid = (lo + hi) >> 1
                    if bound[mid, source[e]] < offset[e]:
                        lo = mid + 1
                    else:
                        hi = mid
                if lo == end:
                    continue
                arrived = t[lo]
            if real:
                out_event[n], out_group[n], out_arrived[n] = e, g, arrived
            n += 1
    return n
