"""Values of some entities replaced in columns: by null, or by a default for each feature. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.online.columns import (
    NOT_FOUND,
    OUTSIDE_MAX_AGE,
    PRESENT,
    Block,
    UInt8,
    ViewColumns,
)

Bool = NDArray[np.bool_]


def values_of(columns: ViewColumns, rows: Bool) -> Bool:
    """Where [features, n] the entities `rows` [n] have a value, null or expired ones too."""
    if columns.status is None:
        features = sum(len(block.at) for block in columns.blocks) + len(columns.lists)
        return np.repeat(rows[None, :], features, 0)
    held: Bool = rows & (columns.status != NOT_FOUND)
    return held


def with_nulls(columns: ViewColumns, which: Bool) -> ViewColumns:
    """The values `which` [features, n] as null, OUTSIDE_MAX_AGE."""
    status = np.where(which, np.uint8(OUTSIDE_MAX_AGE), _status(columns, which.shape))
    blocks, lists = [], {}
    for at, column in columns.lists.items():
        gone = which[at].tolist()
        lists[at] = [None if one else v for v, one in zip(column, gone, strict=True)]
    for at_all, numbers in columns.blocks:
        if numbers.dtype == np.float64:
            blocks.append(Block(at_all, np.where(which[list(at_all)], np.nan, numbers)))
            continue
        # Integers hold no null.
        whole = [row for row, at in enumerate(at_all) if not which[at].any()]
        if whole:
            blocks.append(Block(tuple(at_all[row] for row in whole), numbers[whole]))
        for row in set(range(len(at_all))) - set(whole):
            gone = which[at_all[row]].tolist()
            plain = numbers[row].tolist()
            lists[at_all[row]] = [None if one else v for v, one in zip(plain, gone, strict=True)]
    return ViewColumns(blocks, lists, status, columns.event_us, _nulls(blocks, status))


def with_defaults(columns: ViewColumns, which: Bool, defaults: Sequence[Any]) -> ViewColumns:
    """The values `which` [features, n] as each feature's default [features], PRESENT."""
    status = np.where(which, np.uint8(PRESENT), _status(columns, which.shape))
    lists = {
        at: [defaults[at] if one else v for v, one in zip(column, which[at].tolist(), strict=True)]
        for at, column in columns.lists.items()
    }
    blocks = []
    for at, numbers in columns.blocks:
        own = np.array([defaults[i] for i in at], numbers.dtype)[:, None]
        blocks.append(Block(at, np.where(which[list(at)], own, numbers)))
    some = status if status.any() else None
    return ViewColumns(blocks, lists, some, columns.event_us, _nulls(blocks, status))


def _status(columns: ViewColumns, shape: tuple[int, ...]) -> UInt8:
    return np.zeros(shape, np.uint8) if columns.status is None else columns.status


def _nulls(blocks: Sequence[Block], status: UInt8) -> int:
    """How many numbers in blocks are NaN because they are null."""
    floats = [at for block in blocks if block.numbers.dtype == np.float64 for at in block.at]
    return int(np.count_nonzero(status[floats])) if floats else 0
