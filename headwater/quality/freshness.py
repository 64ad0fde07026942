"""Freshness of a view against the objective in its tags. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.catalog import ViewPlan

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_duration(text: str) -> float:
    """Seconds of "90s", "10m", "2h", "1d"; 0 where there is no such thing."""
    text = text.strip()
    if text and text[-1] in _UNITS and text[:-1].replace(".", "", 1).isdigit():
        return float(text[:-1]) * _UNITS[text[-1]]
    return 0.0


def freshness(view: ViewPlan, clocks: Mapping[tuple[str, str], int], now: float) -> dict[str, Any]:
    """One view's state: newest event times in microseconds, age and objective in seconds.

    `fresh` is None without an objective, and False where nothing was ever loaded.
    """
    online = clocks.get(("online", view.name))
    slo = parse_duration(view.tags.get("freshness_slo", "")) or None
    age = now - online / 1e6 if online else None
    return {
        "feature_view": view.name,
        "online_us": online,
        "offline_us": clocks.get(("offline", view.name)),
        "age_seconds": age,
        "slo_seconds": slo,
        "fresh": None if slo is None else age is not None and age <= slo,
    }
