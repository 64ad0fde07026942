"""What a project's Feast tags promise of its views and features. Pure.

On a view: `freshness_slo`, `max_served_age` (durations such as "10m"), `max_null_ratio`,
`max_drift`. On a field: `max_null_ratio` and `max_drift` (each wins over the view's), `min`,
`max`, `categories` (commas between).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import NamedTuple

from headwater.catalog import FieldPlan, ViewPlan

logger = logging.getLogger("headwater.quality")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")


class Objectives(NamedTuple):
    """One view's. Durations in seconds, ratios 0 to 1; None is no objective.

    null_ratios, ranges, categories, max_drift: by feature, those that have one; an open end of a
    range is infinite. `max_drift` is in standard deviations (`headwater.quality.drift`).
    """

    freshness: float | None
    served_age: float | None
    null_ratios: Mapping[str, float]
    ranges: Mapping[str, tuple[float, float]]
    categories: Mapping[str, frozenset[str]]
    max_drift: Mapping[str, float]


class Mistake(NamedTuple):
    """A tag that makes no sense; `field` is "" for one of the view itself."""

    field: str
    text: str


def objectives(view: ViewPlan) -> Objectives:
    """What the tags say; a tag that makes no sense is left out, with a warning in the log."""
    found, wrong = _read(view)
    for mistake in wrong:
        logger.warning("%s", mistake.text)
    return found


def mistakes(view: ViewPlan) -> list[Mistake]:
    """The view's tags that make no sense, each with what would."""
    return _read(view)[1]


def _read(view: ViewPlan) -> tuple[Objectives, list[Mistake]]:
    wrong: list[Mistake] = []

    def where(field: str) -> str:
        return f"feature {view.name}:{field}" if field else f"view {view.name!r}"

    def number(tags: Mapping[str, str], name: str, field: str) -> float | None:
        text = tags.get(name, "").strip()
        try:
            return float(text) if text else None
        except ValueError:
            told = f"tag {name} of {where(field)} is {text!r}; it is a number"
            wrong.append(Mistake(field, told))
            return None

    def ratio(tags: Mapping[str, str], field: str) -> float | None:
        value = number(tags, "max_null_ratio", field)
        if value is not None and not 0 <= value <= 1:
            told = f"tag max_null_ratio of {where(field)} is {value:g}; it lies between 0 and 1"
            wrong.append(Mistake(field, told))
            return None
        return value

    def duration(name: str) -> float | None:
        text = view.tags.get(name, "").strip()
        seconds = parse_duration(text)
        if text and not seconds:
            told = f"tag {name} of {where('')} is {text!r}; it is a duration such as 90s, "
            wrong.append(Mistake("", told + "10m, 2h, 1d or 1w"))
        return seconds or None

    def drift(tags: Mapping[str, str], field: str) -> float | None:
        value = number(tags, "max_drift", field)
        if value is not None and not 0 < value < float("inf"):
            told = f"tag max_drift of {where(field)} is {value:g}; it is greater than 0"
            wrong.append(Mistake(field, f"{told} (0.2 by default, in standard deviations)"))
            return None
        return value

    whole, moves = ratio(view.tags, ""), drift(view.tags, "")
    null_ratios, ranges, categories, drifts = {}, {}, {}, {}
    for field in view.features:
        own = ratio(field.tags, field.name)
        limit = own if own is not None else whole
        if limit is not None:
            null_ratios[field.name] = limit
        own = drift(field.tags, field.name)
        move = own if own is not None else moves
        if move is not None:
            drifts[field.name] = move
        low, high = number(field.tags, "min", field.name), number(field.tags, "max", field.name)
        if low is not None and high is not None and low > high:
            told = f"tags min and max of {where(field.name)} are {low:g} and {high:g}: "
            wrong.append(Mistake(field.name, told + "none is between"))
        elif low is not None or high is not None:
            ranges[field.name] = (
                float("-inf") if low is None else low,
                float("inf") if high is None else high,
            )
        known = _categories(field)
        if known:
            categories[field.name] = known
    found = Objectives(
        duration("freshness_slo"), duration("max_served_age"), null_ratios, ranges, categories,
        drifts,
    )  # fmt: skip
    return found, wrong


def _categories(field: FieldPlan) -> frozenset[str]:
    names = (name.strip() for name in field.tags.get("categories", "").split(","))
    return frozenset(name for name in names if name)


def parse_duration(text: str) -> float:
    """Seconds of "90s", "10m", "2h", "1d", "1w"; 0 where there is no such thing."""
    match = _DURATION.fullmatch(text.strip())
    return float(match[1]) * _UNITS[match[2]] if match else 0.0
