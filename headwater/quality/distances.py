"""How far two samples lie apart, and how far chance alone would put them. Pure.

Each distance comes with the value that it exceeds by chance in at most one of `1 / ALPHA` pairs of
samples of one distribution. A sketch's own error counts like that of a smaller sample: a share of
variance v at rank error e is that of n' with 1/n' = 1/n + e²/v.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from headwater.quality.feature_sketches import FeatureSketch, Floats

#: How often one comparison may be over its noise by chance.
ALPHA = 1e-5
#: Two-sided, in standard deviations.
Z = NormalDist().inv_cdf(1 - ALPHA / 2)
#: Bins of equal share of the baseline, fewer where values repeat.
BINS = 10
#: Least count that a bin or category is expected to have; rarer ones are taken together.
EXPECTED = 10
#: Categories that are compared one by one, the most frequent ones.
CATEGORIES = 50
#: Stands for infinitely far.
FAR = 1e6


class Distance(NamedTuple):
    """A measured distance, and what chance gives at most."""

    score: float
    noise: float


class Shares(NamedTuple):
    """Counts of two samples over the same bins or categories, and what chance adds to them.

    `names` are the categories, or the upper edges of the bins; `spread` is 1/n' + 1/m'.
    """

    names: list[str] | list[float]
    baseline: Floats
    current: Floats
    spread: float


def chi_squared_limit(degrees: int, alpha: float = ALPHA) -> float:
    """The 1 - alpha quantile of chi-squared (Wilson, Hilferty 1931)."""
    a = 2 / (9 * degrees)
    z = NormalDist().inv_cdf(1 - alpha)
    return float(degrees * (1 - a + z * math.sqrt(a)) ** 3)


def kolmogorov_smirnov(baseline: FeatureSketch, current: FeatureSketch) -> Distance:
    """The greatest distance of two distribution functions, and its limit by Smirnov's asymptote:
    sqrt(-ln(alpha / 2) / 2 · (1/n + 1/m)) (Press et al., Numerical Recipes, 14.3).
    """
    (x, p), (y, q) = baseline.points(), current.points()
    at = np.concatenate([x, y])
    apart = np.abs(_share_up_to(x, p, at) - _share_up_to(y, q, at))
    spread = sum(_spread(s.known, s.rank_deviation(), 0.25) for s in (baseline, current))
    return Distance(float(apart.max()), math.sqrt(-math.log(ALPHA / 2) / 2 * spread))


def _share_up_to(values: Floats, shares: Floats, at: Floats) -> Floats:
    found = np.searchsorted(values, at, side="right")
    return np.concatenate([[0.0], shares])[found]


def share_up_to(sketch: FeatureSketch, at: float) -> float:
    values, shares = sketch.points()
    return float(_share_up_to(values, shares, np.array([at]))[0])


def _spread(n: int, deviation: float, variance: float) -> float:
    return 1 / n + deviation * deviation / variance


def number_shares(baseline: FeatureSketch, current: FeatureSketch) -> Shares:
    """Both samples over the baseline's tenths; a value that fills a tenth alone has its own bin."""
    (x, p), (y, q) = baseline.points(), current.points()
    least = min(baseline.known, current.known)
    count = max(2, min(BINS, least // EXPECTED))
    ranks = np.arange(1, count) / count
    cuts = x[np.minimum(np.searchsorted(p, ranks), len(x) - 1)]
    repeated = cuts[1:][cuts[1:] == cuts[:-1]]
    edges = np.unique(np.concatenate([cuts, np.nextafter(repeated, -np.inf)]))
    up_to = [np.r_[0.0, _share_up_to(v, s, edges), 1.0] for v, s in ((x, p), (y, q))]
    n, m = baseline.known, current.known
    share = 1 / (len(edges) + 1)
    spread = sum(
        _spread(s.known, s.rank_deviation(True), share * (1 - share)) for s in (baseline, current)
    )
    counts = np.diff(up_to[0]) * n, np.diff(up_to[1]) * m
    ends = [*edges.tolist(), max(x[-1], y[-1])]
    return _pooled(Shares(ends, counts[0], counts[1], spread), "")


def category_shares(baseline: FeatureSketch, current: FeatureSketch) -> Shares:
    """Both samples over the categories that are frequent in both together, the rest as one."""
    (a, error_a), (b, error_b) = baseline.counts(), current.counts()
    n, m = baseline.known, current.known
    share = {v: a.get(v, 0) / n + b.get(v, 0) / m for v in a.keys() | b.keys()}
    # A count that the sketch knows only roughly is no evidence.
    rough = 20 * (error_a / n + error_b / m)
    names = sorted((v for v, s in share.items() if s > rough), key=lambda v: (-share[v], v))
    names = names[:CATEGORIES]
    counts = [np.array([held.get(v, 0) for v in names], np.float64) for held in (a, b)]
    rest = [max(total - part.sum(), 0.0) for total, part in zip((n, m), counts, strict=True)]
    whole = [np.append(part, more) for part, more in zip(counts, rest, strict=True)]
    return _pooled(Shares([*names, OTHER], whole[0], whole[1], 1 / n + 1 / m), OTHER)


#: Stands for all categories that have no share of their own.
OTHER = "(others)"


def _pooled(shares: Shares, other: str) -> Shares:
    """Rare bins taken together: numbers with the next bin, categories as the others."""
    n, m = shares.baseline.sum(), shares.current.sum()
    expected = (shares.baseline + shares.current) * min(n, m) / (n + m)
    if other:
        rare = (expected < EXPECTED) | np.array([name == other for name in shares.names])
        group = np.where(rare, int((~rare).sum()), np.cumsum(~rare) - 1)
        names: list[str] | list[float] = [
            str(x) for x, r in zip(shares.names, rare, strict=True) if not r
        ]
        if shares.baseline[rare].sum() + shares.current[rare].sum() > 0:
            names = [*map(str, names), other]
    else:
        group, held, at = np.zeros(len(expected), np.int64), 0.0, 0
        for i, count in enumerate(expected):
            if held >= EXPECTED and expected[i:].sum() >= EXPECTED:
                at, held = at + 1, 0.0
            group[i], held = at, held + count
        ends = np.flatnonzero(np.r_[group[1:] != group[:-1], True])
        names = [float(shares.names[end]) for end in ends]
    size = len(names)
    a = np.bincount(group, shares.baseline, size)[:size].astype(np.float64)
    b = np.bincount(group, shares.current, size)[:size].astype(np.float64)
    return Shares(names, a, b, shares.spread)


def stability_index(shares: Shares) -> Distance:
    """PSI, the symmetric divergence Σ (q - p) ln(q / p) (Jeffreys 1946), with half a count more.

    Without a change it is about chi-squared · (1/n + 1/m) (Yurdakul 2018).
    """
    p, q = _smoothed(shares)
    return Distance(float(((q - p) * np.log(q / p)).sum()), _limit(shares))


def jensen_shannon(shares: Shares) -> Distance:
    """The Jensen-Shannon distance, base 2, 0 to 1 (Lin 1991); for small ones PSI is 8 ln 2 JS²."""
    p, q = _smoothed(shares)
    middle = (p + q) / 2
    bits = (p * np.log2(p / middle)).sum() / 2 + (q * np.log2(q / middle)).sum() / 2
    limit = math.sqrt(_limit(shares) / (8 * math.log(2)))
    return Distance(math.sqrt(max(float(bits), 0.0)), limit)


def chi_squared(shares: Shares) -> Distance:
    """Pearson's two-sample chi-squared as Cohen's effect size w = sqrt(X² (1/n + 1/m))."""
    n, m = shares.baseline.sum(), shares.current.sum()
    both = shares.baseline + shares.current
    kept = both > 0
    apart = shares.baseline[kept] / n - shares.current[kept] / m
    squared = float((apart * apart / (both[kept] / (n + m))).sum())
    return Distance(math.sqrt(squared), math.sqrt(_limit(shares)))


def _smoothed(shares: Shares) -> tuple[Floats, Floats]:
    p, q = shares.baseline + 0.5, shares.current + 0.5
    return p / p.sum(), q / q.sum()


def _limit(shares: Shares) -> float:
    if len(shares.names) < 2:
        return math.inf
    return chi_squared_limit(len(shares.names) - 1) * shares.spread


def proportion(p: float, n: int, q: float, m: int) -> Distance:
    """Two proportions of n and m: Cohen's h, |2 asin √q - 2 asin √p| (Cohen 1988, chapter 6)."""
    h = 2 * math.asin(math.sqrt(q)) - 2 * math.asin(math.sqrt(p))
    return Distance(abs(h), Z * math.sqrt(1 / n + 1 / m))


def mean_shift(baseline: FeatureSketch, current: FeatureSketch) -> Distance:
    """The means' difference in the baseline's standard deviations (Glass's Δ), and Welch's error.

    A constant that changes is `FAR` away.
    """
    apart, std = abs(current.mean - baseline.mean), baseline.std
    if std == 0:
        tiny = 1e-12 * max(abs(baseline.mean), abs(current.mean))
        return Distance(FAR if apart > tiny else 0.0, 0.0)
    variance = std**2 / baseline.known + current.std**2 / current.known
    return Distance(apart / std, Z * math.sqrt(variance) / std)


def spread_change(baseline: FeatureSketch, current: FeatureSketch) -> Distance:
    """|ln of the ratio of the standard deviations|, with the error of a normal distribution's:
    sqrt(1/2n + 1/2m). Alone it says nothing of heavy tails; see `headwater.quality.drift`."""
    if baseline.std == 0 or current.std == 0:
        return Distance(0.0 if baseline.std == current.std else FAR, 0.0)
    noise = Z * math.sqrt(1 / (2 * baseline.known) + 1 / (2 * current.known))
    return Distance(abs(math.log(current.std / baseline.std)), noise)


def beyond_probability(x: int, n: int, m: int) -> float:
    """How likely the x greatest of n + m values are all among the n: at most (n / (n + m))^x,
    whatever the distribution."""
    return float((n / (n + m)) ** x)


def unseen_limit(n: int, m: int, singletons: int) -> float:
    """How many of n values may be ones that m values lacked: Good-Turing's (singletons + 1) / m of
    them (Good 1953), and the Poisson noise of both numbers by their roots (Anscombe 1948)."""
    expected = n * (singletons + 1) / m
    return float((math.sqrt(expected) + Z / 2 * math.sqrt(1 + n / m)) ** 2)
