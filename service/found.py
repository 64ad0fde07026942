"""What answers, metrics and the feature log are made of: the columns of one request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwater.online.columns import UInt8, ViewColumns


class Replaced(NamedTuple):
    """What budgets did to the columns of one read.

    rows: the entities [n] for which something else is served than what is held. status: the codes
    [features, n] that the metrics count, None where all are PRESENT.
    """

    rows: NDArray[np.bool_]
    status: UInt8 | None


class Found(NamedTuple):
    """What Redis's values and the on-demand views make: columns of each read and each view.

    replaced: by read, what is served in place of what Redis held.
    """

    columns: list[ViewColumns]
    computed: list[dict[str, list[Any]]]
    now_us: int
    replaced: Mapping[int, Replaced]
