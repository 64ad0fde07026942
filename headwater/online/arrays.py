"""Features of served columns as Arrow arrays. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from headwater.arrow import array_of, arrow_type
from headwater.online.columns import ViewColumns


def feature_array(
    found: ViewColumns, at: int, kind: str,
    of_values: Callable[[list[Any], str], pa.Array] = array_of,
) -> tuple[pa.Array, Any]:  # fmt: skip
    """One feature of n entities, null where it is not PRESENT, and the codes of its statuses.

    The codes are None where all are PRESENT. of_values: makes an array of plain values of a value
    type.
    """
    codes = None if found.status is None else found.status[at].astype(np.int8)
    if codes is not None and not codes.any():
        codes = None
    if at in found.lists:
        return of_values(found.lists[at], kind), codes
    block = next(block for block in found.blocks if at in block.at)
    numbers = block.numbers[block.at.index(at)]
    mask = None if codes is None else codes != 0
    array = pa.array(numbers, mask=mask, from_pandas=False)
    target = arrow_type(kind)
    return array if array.type == target else array.cast(target, safe=False), codes
