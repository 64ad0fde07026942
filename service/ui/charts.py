"""What the pages' charts draw, from the history of this process. Pure; headwater.js draws it."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from headwater.quality.freshness import STAGES
from service.metrics import REASONS
from service.ui.history import Counts

#: Points of a chart of nulls: looks are put together.
_POINTS = 120
_ONLINE = STAGES.index("online")
#: What the reasons of a null are called, and what each means.
NULLS = {
    "null": ("null in the data", "the value itself is null, or its window is empty"),
    "absent": ("no row", "nothing is held of the entity"),
    "expired": ("too old", "the row is older than the TTL of the view"),
    "error": ("not readable", "what is held was written by another version of the view"),
    "stale": ("past its objective", "served as null, as the tags of the view ask"),
}
#: What each stage's clock says, the newest event that
_NAMES = {"online": "can be served", "offline": "is in the log", "source": "has arrived"}


def ages(
    times: NDArray[np.float64], clocks: Counts, now: float, latest: Counts, limit: float | None
) -> dict[str, Any] | None:
    """How old the newest event of each stage was over time, up to now; None where none came.

    times [n] in seconds; clocks [n, STAGES] and latest [STAGES] in microseconds, 0 for none. What
    can be served comes last, above the others: it is what the limit (seconds) is for.
    """
    x = np.append(times, now)
    found = np.vstack([clocks, latest])
    series = []
    for stage in STAGES:
        clock = found[:, STAGES.index(stage)]
        if clock.any():
            age = np.where(clock > 0, np.maximum(x - clock / 1e6, 0.0), np.nan)
            series.append({"label": f"newest event that {_NAMES[stage]}", "y": age.round(3)})
    if not found[:, _ONLINE].any():
        return None
    return {"x": x.round(3), "series": series, "unit": "s", "limit": limit}


def nulls(times: NDArray[np.float64], counts: Counts) -> dict[str, Any] | None:
    """Shares of values that were null over time, by reason; None where none was served.

    counts: [n, 1 + REASONS] as `Metrics.served`, of each look.
    """
    if not counts[:, 0].any():
        return None
    parts = np.array_split(np.arange(len(times)), min(_POINTS, len(times)))
    x = np.array([times[part[-1]] for part in parts])
    sums = np.array([counts[part].sum(axis=0) for part in parts])
    given = np.where(sums[:, 0] > 0, sums[:, 0], np.nan)
    series = [
        {"label": NULLS[reason][0], "y": (sums[:, i + 1] / given).round(6)}
        for i, reason in enumerate(REASONS.values())
        if sums[:, i + 1].any() or not i
    ]
    return {"x": x, "series": series, "unit": "%", "limit": None}


def encoded(chart: dict[str, Any] | None) -> str:
    """JSON for an attribute; not-a-number is null. "" for none."""
    return "" if chart is None else orjson.dumps(chart, option=orjson.OPT_SERIALIZE_NUMPY).decode()
