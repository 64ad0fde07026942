"""The service's metrics; every name is here, with its meaning."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from headwater import read_kernels
from headwater.catalog import Catalog
from headwater.online.columns import (
    NOT_FOUND,
    NULL_VALUE,
    OUTSIDE_MAX_AGE,
    STATUS_NAMES,
    Int64,
    UInt8,
    Words,
)
from headwater.quality.budgets import BUDGET_TAGS, budgets
from service import counting
from service.counting import AGES, ENTITIES, SECONDS
from service.slots import Slots
from service.uses import Uses

PREFIX = "featurestore_"
#: Event times, 0 for none.
Times = Sequence[int] | NDArray[np.int64]
#: Codes beyond those of statuses: held but not readable; nulled, being past an objective.
ERROR, STALE = len(STATUS_NAMES), len(STATUS_NAMES) + 1
#: Why a value is null, by code; PRESENT is none.
REASONS = {NULL_VALUE: "null", NOT_FOUND: "absent", OUTSIDE_MAX_AGE: "expired", ERROR: "error",
           STALE: "stale"}  # fmt: skip

_CLASSES = ("0xx", "1xx", "2xx", "3xx", "4xx", "5xx")
#: Entities of requests that asked for the same features of a view: those are the labels.
_TOGETHER = "together"
#: Requests for one entity whose values were all PRESENT.
_SINGLE = "single"
#: Requests that are counted together without memory of their own.
_TOGETHER_MOST = 256
_NO_TIMES = np.empty((0, 0), np.int64)
#: Sets of features of a view that have a number of their own.
_SETS = 256


class Spread:
    """A histogram's numbers: a count for each upper edge and one beyond, and the sum of all."""

    def __init__(self, slots: Slots, at: int, bounds: Sequence[float]) -> None:
        #: Where its numbers begin.
        self.at = at
        self._bounds, self._sum_at = list(bounds), at + len(bounds) + 1
        self._whole, self._real = slots.whole, slots.real

    def observe(self, value: float, times: int = 1) -> None:
        self._whole[self.at + bisect_left(self._bounds, value)] += times
        self._real[self._sum_at] += value * times


class Count:
    """One number that only grows."""

    def __init__(self, slots: Slots, at: int) -> None:
        self._whole, self._at = slots.whole, at

    def inc(self, by: int = 1) -> None:
        self._whole[self._at] += by


class _Counters:
    """The series of one counter."""

    def __init__(self, slots: Slots, name: str, doc: str, labels: Sequence[str]) -> None:
        self.name, self._doc, self._labels = PREFIX + name, doc, labels
        self._slots = slots
        self._made: dict[tuple[str, ...], Count] = {}

    def labels(self, *values: str) -> Count:
        found = self._made.get(values)
        if found is None:
            found = self._made[values] = Count(self._slots, self._slots.place(self.name, values, 1))
        return found

    def family(self, sums: Mapping[tuple[str, ...], NDArray[np.int64]]) -> CounterMetricFamily:
        made = CounterMetricFamily(self.name, self._doc, labels=self._labels)
        for values, numbers in sums.items():
            made.add_metric(values, int(numbers[0]))
        return made


class Level:
    """A number that goes up and down."""

    def __init__(self, slots: Slots, at: int) -> None:
        self._whole, self._at = slots.whole, at
        # What the worker before this one had under way ended with it.
        self._whole[at] = 0

    def __int__(self) -> int:
        return self._whole[self._at]

    def add(self, by: int) -> None:
        self._whole[self._at] += by

    def set(self, to: int) -> None:
        self._whole[self._at] = to


class _Levels:
    """The series of one gauge."""

    def __init__(self, slots: Slots, name: str, doc: str, labels: Sequence[str]) -> None:
        self.name, self._doc, self._labels = PREFIX + name, doc, labels
        self._slots = slots

    def labels(self, *values: str) -> Level:
        """Made once for each series."""
        return Level(self._slots, self._slots.place(self.name, values, 1))

    def family(self, sums: Mapping[tuple[str, ...], NDArray[np.int64]]) -> GaugeMetricFamily:
        made = GaugeMetricFamily(self.name, self._doc, labels=self._labels)
        for values, numbers in sums.items():
            made.add_metric(values, int(numbers[0]))
        return made


class _Spreads:
    """The series of one histogram."""

    def __init__(
        self, slots: Slots, name: str, doc: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        self.name, self._doc, self._labels, self._bounds = PREFIX + name, doc, labels, bounds
        self._slots = slots
        self._made: dict[tuple[str, ...], Spread] = {}

    def labels(self, *values: str) -> Spread:
        found = self._made.get(values)
        if found is None:
            at = self._slots.place(self.name, values, len(self._bounds) + 2)
            found = self._made[values] = Spread(self._slots, at, self._bounds)
        return found

    def family(self, sums: Mapping[tuple[str, ...], NDArray[np.int64]]) -> HistogramMetricFamily:
        made = HistogramMetricFamily(self.name, self._doc, labels=self._labels)
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        for values, numbers in sums.items():
            counts = np.cumsum(numbers[:-1]).tolist()
            total = float(numbers[-1:].view(np.float64)[0])
            made.add_metric(values, list(zip(names, counts, strict=True)), total)
        return made


class Tally:
    """What requests for some features have returned, and how long they took.

    reads: view, features, and whether it is a row view, of each view that is read.
    """

    def __init__(self, metrics: Metrics, reads: Sequence[tuple[str, Sequence[str], bool]]) -> None:
        self._views = views = [_ViewTally(metrics, *read) for read in reads]
        self._numbers, self._entities = metrics.slots.array, metrics.entities
        rows = np.cumsum([0, *(len(features) for _, features, _ in reads)]).tolist()
        entities = [place for view in views for place in view.entities]
        of_views = [
            number
            for view, row, read in zip(views, rows, reads, strict=False)
            for number in (view.ages.at, row, read[2])
        ]
        nulls = [place for view in views for place in view.nulls.tolist()]
        single = metrics.slots.place(_SINGLE, (), 1)
        #: As `counting.count_singles` takes it.
        self._note = np.array(
            [
                metrics.read_seconds.at, single, len(entities), len(views), *entities, *of_views,
                *nulls,
            ],
            np.int64,
        )  # fmt: skip
        #: Event times [views, n] of the request that is being answered, and when that was.
        self._counted: tuple[Int64, int] | None = None
        self._begun = np.empty(2 * _TOGETHER_MOST, np.float64)
        self._begun_at: Any = self._begun.data  # quicker to write to than the array

    def count(
        self, found: Sequence[tuple[Times, UInt8 | None]], n: int, now_us: int,
        data: Sequence[bytes | None],
    ) -> None:  # fmt: skip
        """One request's entities, as of a time; `ended` counts them with the rest. found: of each
        view their event times [n], and codes [features, n] or None; data: what was held of them,
        view by view."""
        times = np.empty((len(found), n), np.int64)
        for i, (event_us, status) in enumerate(found):
            times[i] = event_us
            if status is not None:
                self._views[i].count(times[i], data[i * n : (i + 1) * n], status)
        self._counted = times, now_us

    def ended(self, to: Spread, use: int, n: int, seconds: float, read_seconds: float) -> None:
        """A request for n entities has its answer after so long, of which the store took
        `read_seconds`. use: where its caller's are counted."""
        counted, self._counted = self._counted, None
        times, now_us = counted or (_NO_TIMES, time.time_ns() // 1000)
        counting.count_request(
            self._numbers, self._note, to.at, self._entities.at, use, n, now_us,
            counted is not None, times, read_seconds, seconds,
        )  # fmt: skip

    def singles(
        self, to: Spread, use: int, found: Words, sizes: Int64, now_us: int,
        begun: Sequence[tuple[float, float]], read_at: float, ended_at: float,
    ) -> None:  # fmt: skip
        """Requests for one entity each, answered together.

        use: where their caller's are counted, or -1. sizes: of what was held, view by view. begun:
        when each came, and when the store was asked, which had answered by `read_at`; by the clock
        of `time.perf_counter`.
        """
        n, times = len(begun), self._begun
        if n > _TOGETHER_MOST:
            times = np.array(begun).reshape(-1)
        else:
            into, at = self._begun_at, 0
            for into[at], into[at + 1] in begun:
                at += 2
        counting.count_singles(
            self._numbers, self._note, to.at, use, ERROR, now_us, times, n, read_at, ended_at,
            found.event_us, found.status, found.nulls[0], sizes,
        )  # fmt: skip


class _ViewTally:
    """What requests for some features of one view have returned."""

    def __init__(self, metrics: Metrics, view: str, features: Sequence[str], rows: bool) -> None:
        self._rows = rows
        self.entities = metrics.asked(view, features)
        self._array = metrics.slots.array
        self.nulls = np.array([metrics.nulls_at(view, name) for name in features], np.int64)
        self.ages = metrics.age.labels(view)

    def count(self, event_us: Int64, data: Sequence[bytes | None], status: UInt8) -> None:
        """The codes of values, not all of which are PRESENT."""
        if self._rows:
            status = _with_errors(status, event_us, data)
        read_kernels.count_statuses(status, self._array, self.nulls)


def _with_errors(status: UInt8, event_us: Int64, data: Sequence[bytes | None]) -> UInt8:
    """Rows that are held and were not read (of another schema, or broken) as ERROR."""
    if np.count_nonzero(event_us) + data.count(None) == len(event_us):
        return status
    held = np.array([row is not None for row in data])
    found: UInt8 = np.where(held & (status == NOT_FOUND), np.uint8(ERROR), status)
    return found


class Metrics:
    """One registry for one process; what it shows are the counts of every worker."""

    def __init__(self, slots: Slots | None = None) -> None:
        self.registry = r = CollectorRegistry()
        self.slots = s = slots or Slots()
        self.seconds = _Spreads(
            s, "request_duration_seconds", "Time of a request",
            ["route", "method", "status"], SECONDS,
        )  # fmt: skip
        self._entities = _Spreads(
            s, "online_entities_per_request", "Entities in a request", [], ENTITIES
        )
        self.entities = self._entities.labels()
        self.age = _Spreads(
            s, "served_value_age_seconds", "Age of a row when served, by its event time",
            ["feature_view"], AGES,
        )  # fmt: skip
        self._values = _Counters(s, "online_values", "Values returned", ["feature_view", "feature"])
        self._nulls = _Counters(
            s, "online_nulls",
            "Values returned as null, by reason (absent, null, expired, stale, error)",
            ["feature_view", "feature", "reason"],
        )  # fmt: skip
        self.past_objective = _Counters(
            s, "online_past_objective",
            "Values past an objective that a tag enforces, by what was done (serve, null, default, "
            "refuse)", ["feature_view", "objective", "action"],
        )  # fmt: skip
        self.refused = _Counters(
            s, "requests_refused", "Requests refused, since a view was past its objective",
            ["feature_view", "route"],
        )  # fmt: skip
        self.store_errors = _Counters(
            s, "store_errors", "Failed calls to a store", ["store", "op", "kind"]
        )
        self.logged = _Counters(
            s, "logged_vectors",
            "Vectors for the feature log: written, dropped (there was no room), failed",
            ["outcome"],
        )  # fmt: skip
        for outcome in ("written", "dropped", "failed"):
            self.logged.labels(outcome)
        self.predictions = _Counters(
            s, "logged_predictions",
            "Predictions and outcomes that clients sent: written, dropped (the queue was full), "
            "failed", ["outcome"],
        )  # fmt: skip
        for outcome in ("written", "dropped", "failed"):
            self.predictions.labels(outcome)
        self.starts = _Counters(s, "worker_starts", "Starts of a worker of the service", ["worker"])
        self.store_errors.labels("redis", "request", "unavailable")
        self._store_seconds = _Spreads(
            s, "store_operation_duration_seconds", "Time that a store took for an operation",
            ["store", "op"], SECONDS,
        )  # fmt: skip
        self.read_seconds = self._store_seconds.labels("redis", "read")
        self.in_flight = _Levels(s, "requests_in_flight", "Requests under way", ["route"])
        self._asked: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        self._families = (
            self.seconds, self._entities, self.age, self._values, self._nulls, self.store_errors,
            self._store_seconds, self.in_flight, self.logged, self.predictions, self.starts,
            self.past_objective, self.refused,
        )  # fmt: skip
        #: Who asked for which features; no metric, since callers are many.
        self.uses = Uses(s)
        r.register(self)

    def declare(self, catalog: Catalog) -> None:
        """Create every series of the catalogue at 0."""
        for view in catalog.views.values():
            for field in view.features:
                self._values.labels(view.name, field.name)
                self.nulls_at(view.name, field.name)
            for budget in budgets(view):
                self.past_objective.labels(view.name, BUDGET_TAGS[budget.tag], budget.action)

    def nulls_at(self, view: str, feature: str) -> int:
        """Where the statuses of a feature are counted, by their codes."""
        return self.slots.place(self._nulls.name, (view, feature), STALE + 1)

    def asked(self, view: str, features: Sequence[str]) -> list[int]:
        """Where to count the entities of requests for some features of a view.

        One number for all of them, while not too many different sets of features are asked for.
        """
        known = self._asked[view]
        if len(known) < _SETS:
            known.add(tuple(features))
        if tuple(features) in known:
            return [self.slots.place(_TOGETHER, (view, *features), 1)]
        return [self.slots.place(self._values.name, (view, name), 1) for name in features]

    def served(self) -> dict[tuple[str, str], NDArray[np.int64]]:
        """(view, feature) -> counts [1 + REASONS]: values returned, and of these null by reason."""
        found: dict[tuple[str, str], NDArray[np.int64]] = {}

        def of(view: str, feature: str) -> NDArray[np.int64]:
            counts = found.get((view, feature))
            if counts is None:
                counts = found[view, feature] = np.zeros(1 + len(REASONS), np.int64)
            return counts

        for name, labels, numbers in self.slots.sums():
            if name == _TOGETHER:
                for feature in labels[1:]:
                    of(labels[0], feature)[0] += numbers[0]
            elif name == self._values.name:
                of(*labels)[0] += numbers[0]
            elif name == self._nulls.name:
                of(*labels)[1:] += numbers[1:]
        return found

    def answered(self, route: str, method: str, status: int) -> Spread:
        """Where the time of a request for vectors is counted."""
        return self.seconds.labels(route, method, _CLASSES[status // 100])

    def collect(self) -> Iterator[Metric]:
        """The families of what is counted (prometheus_client asks for them)."""
        sums: dict[str, dict[tuple[str, ...], NDArray[np.int64]]] = defaultdict(dict)

        def add(name: str, labels: tuple[str, ...], numbers: NDArray[np.int64]) -> None:
            held = sums[name].get(labels)
            if held is None:
                sums[name][labels] = numbers.copy()
            elif name in spreads:
                held[:-1] += numbers[:-1]
                held[-1:].view(np.float64)[0] += numbers[-1:].view(np.float64)[0]
            else:
                held += numbers

        spreads = {f.name for f in (self.seconds, self._entities, self.age, self._store_seconds)}
        for name, labels, numbers in self.slots.sums():
            if name == _TOGETHER:
                for feature in labels[1:]:
                    add(self._values.name, (labels[0], feature), numbers)
            elif name == _SINGLE:
                spread = np.zeros(len(ENTITIES) + 2, np.int64)
                spread[0], spread[-1:].view(np.float64)[0] = numbers[0], numbers[0]
                add(self._entities.name, (), spread)
            elif name == self._nulls.name:
                for code, reason in REASONS.items():
                    add(name, (*labels, reason), numbers[code : code + 1])
            else:
                add(name, labels, numbers)
        for family in self._families:
            yield family.family(sums[family.name])

    def text(self) -> bytes:
        """Prometheus text of everything."""
        return generate_latest(self.registry)
