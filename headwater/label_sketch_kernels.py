"""Compiled loops of sketches at label times: counts that slide along with each key's labels.

Events and labels are grouped by key and in order of time, as in `headwater.label_kernels`.
"""

# Numba compiles a subset of Python: explicit loops and int indices are the idiom here.
from __future__ import annotations

import math

import numpy as np
from numba import njit

I64_MIN = np.iinfo(np.int64).min


@njit(cache=True, nogil=True)
def move(tree, at, by):
    """Add to one count of a Fenwick tree (`tree[0]` is unused)."""
    at += 1
    while at < tree.shape[0]:
        tree[at] += by
        at += at & -at


@njit(cache=True, nogil=True)
def find(tree, rank):
    """First position whose counts up to it, itself included, are more than `rank`."""
    at, step = 0, 1
    while step * 2 < tree.shape[0]:
        step *= 2
    while step:
        if at + step < tree.shape[0] and tree[at + step] <= rank:
            at += step
            rank -= tree[at]
        step >>= 1
    return at


@njit(cache=True, nogil=True)
def quantiles(q, n_ranks, rank, events_at, ts, visible, by_visible, labels_at, t, length, hop, out):
    """Each label's quantile as a position among the ordered values; -1 for an empty window.

    `rank` [events]: the position of the event's value, -1 for null. `by_visible`: each key's
    events in the order in which labels see them.
    """
    tree = np.zeros(n_ranks + 1, np.int64)
    for k in range(labels_at.shape[0] - 1):
        begin, end = events_at[k], events_at[k + 1]
        if labels_at[k] == labels_at[k + 1]:
            continue
        held = np.zeros(end - begin, np.bool_)
        low, seen, count = begin, begin, 0
        for p in range(labels_at[k], labels_at[k + 1]):
            bound = I64_MIN if length < 0 else (t[p] - length) // hop * hop
            while seen < end and visible[by_visible[seen]] <= t[p]:
                e = by_visible[seen]
                seen += 1
                if ts[e] >= bound and rank[e] >= 0:
                    held[e - begin] = True
                    move(tree, rank[e], 1)
                    count += 1
            while low < end and ts[low] < bound:
                if held[low - begin]:
                    held[low - begin] = False
                    move(tree, rank[low], -1)
                    count -= 1
                low += 1
            out[p] = find(tree, q * (count - 1)) if count else -1
        for e in range(begin, end):
            if held[e - begin]:
                move(tree, rank[e], -1)


@njit(cache=True, nogil=True)
def distinct(
    value, n_values, hash_rank, kept, events_at, ts, visible, by_visible, labels_at, t,
    length, hop, out, kth,
):  # fmt: skip
    """Distinct values of each label's events; and where there are `kept` or more, `kth`.

    `value` [events]: a number for each value, -1 for null; `kth`: the position among the ordered
    hashes of the kept-th smallest hash. Keys with fewer than `kept` events skip that tree.
    """
    counts = np.zeros(n_values, np.int64)
    tree = np.zeros((n_values if hash_rank.shape[0] else 0) + 1, np.int64)
    for k in range(labels_at.shape[0] - 1):
        begin, end = events_at[k], events_at[k + 1]
        if labels_at[k] == labels_at[k + 1]:
            continue
        large = end - begin >= kept
        held = np.zeros(end - begin, np.bool_)
        low, seen, number = begin, begin, 0
        for p in range(labels_at[k], labels_at[k + 1]):
            bound = I64_MIN if length < 0 else (t[p] - length) // hop * hop
            while seen < end and visible[by_visible[seen]] <= t[p]:
                e = by_visible[seen]
                seen += 1
                if ts[e] >= bound and value[e] >= 0:
                    held[e - begin] = True
                    counts[value[e]] += 1
                    if counts[value[e]] == 1:
                        number += 1
                        if large:
                            move(tree, hash_rank[value[e]], 1)
            while low < end and ts[low] < bound:
                if held[low - begin]:
                    held[low - begin] = False
                    counts[value[low]] -= 1
                    if counts[value[low]] == 0:
                        number -= 1
                        if large:
                            move(tree, hash_rank[value[low]], -1)
                low += 1
            out[p] = number
            kth[p] = find(tree, kept - 1) if number >= kept else -1
        for e in range(begin, end):
            if held[e - begin]:
                counts[value[e]] -= 1
                if counts[value[e]] == 0 and large:
                    move(tree, hash_rank[value[e]], -1)


@njit(cache=True, nogil=True)
def log_buckets(x, log_gamma, zero, out):
    """`sketches._bucket` of every value."""
    for i in range(x.shape[0]):
        if x[i] == 0.0:
            out[i] = zero
        else:
            out[i] = 2 * math.ceil(math.log(abs(x[i])) / log_gamma) + (1 if x[i] < 0 else 0)
