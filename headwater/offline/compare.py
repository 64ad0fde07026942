"""Which served values equal which recomputed ones. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headwater.windows import Bool, Int64

#: How floats may differ; see `equal`.
About = Literal["", "sum", "root"]
#: Floating sums agree to this, relative to themselves or to what they are sums of.
TOLERANCE = 1e-9
#: The same where the feature's type holds 24 bits.
TOLERANCE_32 = 2e-7


def equal(
    served: pa.Array, made: pa.Array, about: About, magnitude: Callable[[], Int64 | None]
) -> Bool:
    """Whether values [n] are the same, null and not-a-number being values like any other.

    about: "sum" lets floats differ by the tolerance, "root" their squares. magnitude: what they
    (or their squares) are sums of [n], asked for only where some differ by more than that relative
    to themselves: terms may cancel out.
    """
    if made.type != served.type:
        made = made.cast(served.type, safe=False)
    if pa.types.is_floating(served.type):
        return _floats(served, made, about, magnitude)
    if pa.types.is_nested(served.type):
        return _nested(served, made)
    both = pc.and_(served.is_null(), made.is_null())
    return np.asarray(pc.or_(both, pc.equal(served, made).fill_null(False)))


def _floats(
    served: pa.Array, made: pa.Array, about: About, magnitude: Callable[[], Int64 | None]
) -> Bool:
    tolerance = TOLERANCE_32 if pa.types.is_float32(served.type) else TOLERANCE
    null = np.asarray(served.is_null()), np.asarray(made.is_null())
    a, b = (x.cast(pa.float64()).fill_null(0).to_numpy() for x in (served, made))
    same: Bool = (a == b) | (np.isnan(a) & np.isnan(b))
    if about and not same.all():
        with np.errstate(invalid="ignore", over="ignore"):
            if about == "root":
                a, b = a * a, b * b
            apart = np.abs(a - b)
            same |= apart <= tolerance * np.maximum(np.abs(a), np.abs(b))
            sizes = None if same.all() else magnitude()
            if sizes is not None:
                same |= apart <= tolerance * sizes
    return same & ~null[0] & ~null[1] | null[0] & null[1]


def _nested(served: pa.Array, made: pa.Array) -> Bool:
    pairs = zip(served.to_pylist(), made.to_pylist(), strict=True)
    return np.array([a == b or repr(a) == repr(b) for a, b in pairs], np.bool_)
