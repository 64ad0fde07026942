"""Whether a feature still is what it was: a span of time against a baseline, check by check. Pure.

One number says how much drift is still fine: `max_drift`, the shift of a normal distribution's
mean in its standard deviations (0.2 unless a tag says otherwise: Cohen's "small"). Every distance
has the threshold that such a shift would give it. An alarm needs a score over that, and over what
chance gives (`headwater.quality.distances`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, NamedTuple

from headwater.catalog import ViewPlan
from headwater.quality import distances
from headwater.quality.distances import Distance, Shares
from headwater.quality.feature_sketches import PERCENTILE_99, FeatureSketch
from headwater.quality.objectives import Objectives, objectives

MAX_DRIFT = 0.2
#: Values below which distributions are not compared.
LEAST = 100
#: Share of values that a baseline never had, from which on they matter.
UNSEEN = 0.001
#: A number is new only this share of the baseline's range beyond its end.
TOLERANCE = 0.05
#: Every check, with what it says.
CHECKS = {
    "type_changed": "the column's type is another",
    "source_dropped": "no rows in hours that had some",
    "partial_data": "fewer rows than the same hours of the past",
    "null_share": "the share of nulls changed (Cohen's h)",
    "out_of_range": "values outside of the tags min and max",
    "unknown_category": "values that the tag categories lacks",
    "new_category": "values that the baseline never had",
    "unseen_value": "numbers beyond the baseline's least and greatest",
    "mean": "the mean moved (in standard deviations)",
    "spread": "the standard deviation changed (ln of the ratio)",
    "ks": "the distribution changed (Kolmogorov-Smirnov)",
    "psi": "the distribution changed (population stability index)",
    "js": "the distribution changed (Jensen-Shannon distance)",
    "chi_squared": "the shares of the categories changed (Cohen's w)",
}


class Check(NamedTuple):
    """One check of one feature ("" for a view's rows): an alarm where the score is over both."""

    feature: str
    check: str
    score: float
    threshold: float
    noise: float = 0.0
    detail: str = ""

    @property
    def limit(self) -> float:
        """What the score may be: infinite where there is no evidence."""
        return max(self.threshold, self.noise)

    @property
    def alarm(self) -> bool:
        return self.score > self.limit

    def as_json(self) -> dict[str, Any]:
        """An infinite limit is null."""
        found = self._asdict() | {"limit": self.limit, "alarm": self.alarm}
        return {k: None if v == math.inf else v for k, v in found.items()}


@dataclass
class Span:
    """What a view held over some time: its features, and its rows by the hour (microseconds)."""

    features: dict[str, FeatureSketch] = field(default_factory=dict)
    hours: dict[int, int] = field(default_factory=dict)


def compare(view: ViewPlan, baseline: Span, current: Span) -> list[Check]:
    """Every check that makes sense of the features that both have."""
    promised = objectives(view)
    return [
        check
        for name in current.features
        if name in baseline.features
        for check in checks(
            name, baseline.features[name], current.features[name], promised,
            promised.max_drift.get(name, MAX_DRIFT),
        )
    ]  # fmt: skip


def checks(
    name: str, baseline: FeatureSketch, current: FeatureSketch, promised: Objectives,
    max_drift: float = MAX_DRIFT,
) -> Iterator[Check]:  # fmt: skip
    """The checks of one feature."""
    changed = (baseline.type, baseline.kind) != (current.type, current.kind)
    said = f"{baseline.type} became {current.type}" if changed else ""
    yield Check(name, "type_changed", float(changed), 0.0, 0.0, said)
    if baseline.rows and current.rows:
        yield _nulls(name, baseline, current, max_drift)
    if not current.known:
        return
    yield from _declared(name, current, promised)
    if baseline.kind != current.kind or not baseline.known:
        return
    if current.kind == "number":
        yield _unseen_numbers(name, baseline, current)
        if min(baseline.known, current.known) >= LEAST:
            yield from _numbers(name, baseline, current, max_drift)
    elif current.kind == "category":
        yield from _new_categories(name, baseline, current)
        if min(baseline.known, current.known) >= LEAST:
            yield from _categories(name, baseline, current, max_drift)


def _nulls(name: str, a: FeatureSketch, b: FeatureSketch, max_drift: float) -> Check:
    far = distances.proportion(a.null_ratio, a.rows, b.null_ratio, b.rows)
    said = f"{a.null_ratio:.2%} were null, {b.null_ratio:.2%} are"
    return Check(name, "null_share", far.score, max_drift, far.noise, said)


def _declared(name: str, current: FeatureSketch, promised: Objectives) -> Iterator[Check]:
    """What tags declare holds of every value."""
    if name in promised.ranges and current.kind == "number":
        low, high = promised.ranges[name]
        share = _outside(current, low, high)
        said = f"from {current.low:g} to {current.high:g}"
        yield Check(name, "out_of_range", share, 0.0, 0.0, said)
    if name in promised.categories and current.kind == "category":
        counts, _ = current.counts()
        unknown = {v: n for v, n in counts.items() if v not in promised.categories[name]}
        share = min(sum(unknown.values()) / current.known, 1.0)
        yield Check(name, "unknown_category", share, 0.0, 0.0, _named(unknown))


def _outside(sketch: FeatureSketch, low: float, high: float) -> float:
    """The share of values outside, at least one's where the extremes are."""
    out = int(sketch.low < low) + int(sketch.high > high)
    if not out:
        return 0.0
    below = distances.share_up_to(sketch, math.nextafter(low, -math.inf))
    above = 1 - distances.share_up_to(sketch, high)
    return max(below + above, out / sketch.known)


def _unseen_numbers(name: str, a: FeatureSketch, b: FeatureSketch) -> Check:
    """Beyond each end, more than chance would put there. A sketch knows a share only within its
    rank error, so the share that is sure counts."""
    slack = TOLERANCE * (a.high - a.low)
    sure, noise = 0.0, math.inf
    below = distances.share_up_to(b, math.nextafter(a.low - slack, -math.inf))
    for share in (below, 1 - distances.share_up_to(b, a.high + slack)):
        share = max(0.0, share - PERCENTILE_99 * b.rank_deviation())
        sure += share
        chance = distances.beyond_probability(int(share * b.known), b.known, a.known)
        if chance < distances.ALPHA / 2:
            noise = 0.0
    said = f"{a.low:g} to {a.high:g} were seen; now {b.low:g} to {b.high:g}"
    return Check(name, "unseen_value", sure, UNSEEN, noise, said)


def _new_categories(name: str, a: FeatureSketch, b: FeatureSketch) -> Iterator[Check]:
    """Only where the baseline's values are all known."""
    if not a.all_counted:
        return
    held, _ = a.counts()
    now, _ = b.counts()
    new = {value: count for value, count in now.items() if value not in held}
    share = min(sum(new.values()) / b.known, 1.0)
    singletons = sum(count == 1 for count in held.values())
    limit = distances.unseen_limit(b.known, a.known, singletons) / b.known
    yield Check(name, "new_category", share, UNSEEN, limit, _named(new))


def _named(counts: Mapping[str, int]) -> str:
    """The most frequent of some values."""
    most = sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))
    more = f" and {len(most) - 3} more" if len(most) > 3 else ""
    return ", ".join(f"{value!r} ({count})" for value, count in most[:3]) + more


def _numbers(name: str, a: FeatureSketch, b: FeatureSketch, max_drift: float) -> Iterator[Check]:
    ks = distances.kolmogorov_smirnov(a, b)
    shares = distances.number_shares(a, b)
    # Moments of heavy tails vary more than any formula says: the ranks must have moved as well.
    moved = ks.score > ks.noise
    said = f"{a.mean:.4g} became {b.mean:.4g}"
    yield _check(name, "mean", distances.mean_shift(a, b), max_drift, said, moved)
    said = f"{a.std:.4g} became {b.std:.4g}"
    yield _check(name, "spread", distances.spread_change(a, b), max_drift, said, moved)
    yield _check(name, "ks", ks, thresholds(max_drift)["ks"])
    yield from _shares(name, shares, max_drift)


def _categories(name: str, a: FeatureSketch, b: FeatureSketch, max_drift: float) -> Iterator[Check]:
    shares = distances.category_shares(a, b)
    said = _moved(shares)
    yield _check(name, "chi_squared", distances.chi_squared(shares), max_drift, said)
    yield from _shares(name, shares, max_drift, said)


def _shares(name: str, shares: Shares, max_drift: float, said: str = "") -> Iterator[Check]:
    at = thresholds(max_drift)
    yield _check(name, "psi", distances.stability_index(shares), at["psi"], said)
    yield _check(name, "js", distances.jensen_shannon(shares), at["js"], said)


def _moved(shares: Shares) -> str:
    """The category whose share moved most."""
    n, m = shares.baseline.sum(), shares.current.sum()
    at = int(abs(shares.baseline / n - shares.current / m).argmax())
    was, now = shares.baseline[at] / n, shares.current[at] / m
    return f"{shares.names[at]!r} was {was:.2%}, is {now:.2%}"


def _check(
    name: str, check: str, far: Distance, threshold: float, said: str = "", sure: bool = True
) -> Check:
    return Check(name, check, far.score, threshold, far.noise if sure else math.inf, said)


def thresholds(max_drift: float) -> dict[str, float]:
    """What a normal distribution shifted by so many standard deviations scores."""
    return {
        "ks": 2 * NormalDist().cdf(max_drift / 2) - 1,
        "psi": max_drift**2,
        "js": max_drift / math.sqrt(8 * math.log(2)),
    }
