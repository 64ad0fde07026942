"""Looks for leaks in a training set, and for joins that cannot be meant: with figures, before
hours are spent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from headwater.catalog import Catalog, FeatureRefPlan, ViewPlan
from headwater.offline.checks import titles
from headwater.quality.objectives import objectives
from headwater.windows import Int64

#: Shares of the labels from which on something is worth a warning.
_DROPPED, _AHEAD, _AGELESS = 0.5, 0.01, 0.01


def join_warnings(view: ViewPlan, best: Any, rows: Int64, t: Int64) -> Iterator[str]:
    """What the join of one row view says: best [labels, 4] and rows [labels] as the kernels left
    them, t [labels] the label times, all in the order of keys and times."""
    n = len(t)
    if not n:
        return
    ageless = int(((best[:, 3] >= 0) & (best[:, 0] == t) & (rows >= 0)).sum())
    yield from ageless_warning(view.name, "a row", ageless, n)
    expired = int((rows == -2).sum())
    if expired > _DROPPED * n:
        yield (
            f"view {view.name!r}: {_share(expired, n)} have only rows older than its ttl of "
            f"{view.ttl_us / 3.6e9:,.2f} h, so their features are null; check the ttl or the times"
        )


def ageless_warning(view: str, what: str, ageless: int, n: int) -> Iterator[str]:
    """`ageless` of n labels see something that happened at exactly their own time."""
    if ageless > _AGELESS * n:
        yield (
            f"view {view!r}: {_share(ageless, n)} get {what} of exactly their own time (an age "
            "of zero); where the label was made from that it leaks: leave out what it tells, or "
            "date the label earlier"
        )


def frame_warnings(labels: pa.Table, time: str, now_us: int) -> Iterator[str]:
    """What an entity frame says by itself: labels ahead of the clock, or of their own events."""
    n = labels.num_rows
    times = labels[time].cast(pa.int64())
    ahead = pc.sum(pc.greater(times, now_us)).as_py() or 0
    if ahead:
        yield (
            f"{_share(ahead, n)} have {time!r} after now ({_time(now_us)}); "
            "no features are known for them yet"
        )
    for field in labels.schema:
        if field.name != time and pa.types.is_timestamp(field.type):
            after = pc.sum(pc.greater(labels[time], labels[field.name])).as_py() or 0
            if after:
                yield (
                    f"{_share(after, n)} have {time!r} after their {field.name!r}; if that is when "
                    "what they describe happened, their features know what came after it"
                )


def newest_warning(view: str, newest_us: int | None, times: Int64) -> Iterator[str]:
    """Labels after the newest data of a view, by the files' own statistics."""
    ahead = 0 if newest_us is None else int((times > newest_us).sum())
    if newest_us is not None and ahead > _AHEAD * len(times):
        yield (
            f"view {view!r}: {_share(ahead, len(times))} lie after its newest data "
            f"({_time(newest_us)}); they see its last state, however old"
        )


def null_warnings(
    catalog: Catalog, features: Sequence[FeatureRefPlan], full_feature_names: bool,
    profiles: Mapping[str, Mapping[str, Any]],
) -> Iterator[str]:  # fmt: skip
    """Features that are null more often than their `max_null_ratio` allows, or always.

    profiles: of each column, as `ColumnProfile.result`.
    """
    limits: dict[str, Mapping[str, float]] = {
        reference.name_to_use: objectives(catalog.views[reference.view]).null_ratios
        for reference in features
        if reference.view in catalog.views
    }
    for title, alias, name in titles(catalog, features, full_feature_names):
        found, limit = profiles[title], limits.get(alias, {}).get(name, 1.0)
        ratio = found["null_ratio"]
        if found["count"] and (ratio > limit or ratio == 1.0):
            wanted = f"; its max_null_ratio is {limit:.0%}" if limit < 1.0 else ""
            yield f"{title!r} is null in {_share(found['nulls'], found['count'])}{wanted}"


def _share(part: int, n: int) -> str:
    return f"{part:,} of {n:,} labels ({part / n:.0%})"


def _time(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="seconds")
