"""Freshness of a view: its three clocks against its objective, and where it is held up. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from headwater.catalog import ViewPlan
from headwater.quality.objectives import objectives

State = Literal["fresh", "stale", "never loaded", "no objective"]
#: Event time of the newest event that arrived, that the offline log holds, that is servable.
STAGES = ("source", "offline", "online")
#: How far two clocks may differ on a sound way, in seconds: one flush of the log, and slack.
SLACK_SECONDS = 30.0


def freshness(view: ViewPlan, clocks: Mapping[tuple[str, str], int], now: float) -> dict[str, Any]:
    """One view's clocks in microseconds, its age and objective in seconds, and its state.

    `fresh` is None without an objective, and False where nothing was ever loaded. `behind` names
    the stages at fault: those that lag what has arrived; of a stale view that nothing lags,
    "source": nothing newer has come in.
    """
    at = {stage: clocks.get((stage, view.name)) for stage in STAGES}
    online = at["online"]
    slo = objectives(view).freshness
    age = now - online / 1e6 if online else None
    fresh = None if slo is None else age is not None and age <= slo
    state: State = "fresh"
    if online is None:
        state = "never loaded"
    elif fresh is None:
        state = "no objective"
    elif not fresh:
        state = "stale"
    return {
        "feature_view": view.name,
        "owner": view.owner,
        **{f"{stage}_us": at[stage] for stage in STAGES},
        "age_seconds": age,
        "slo_seconds": slo,
        "fresh": fresh,
        "state": state,
        "behind": _behind(at, fresh is False),
    }


def _behind(at: Mapping[str, int | None], stale: bool) -> list[str]:
    source = at["source"]
    late = [
        stage
        for stage in STAGES[1:]
        if source is not None and (source - (at[stage] or 0)) / 1e6 > SLACK_SECONDS
    ]
    return late or (["source"] if stale else [])
