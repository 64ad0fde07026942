"""Every alert against its fault by `promtool test rules`: when it fires, with what, until when.

A fault begins in a sound project and is repaired. The alert fires after exactly so many scrapes;
nothing does before; what its effects fire as well is hidden by it, so that one fault is one page.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from headwater.monitoring.routing import CAUSES
from tests.alerts import AGE_LIMIT, RULES, SERVICES, STEP, WORKERS, Check, Series, promtool

#: Steps before the fault.
QUIET = 40
SEVERITY = {rule["alert"]: rule["labels"]["severity"] for rule in RULES["groups"][0]["rules"]}


class Fault(NamedTuple):
    """`make` breaks the series within a slice that `lasts` so many steps.

    The alert fires `after` steps from its beginning on, and no more `gone` steps after its end. By
    its end `also` fires, which is hidden, and `tickets`.
    """

    make: Callable[[Series, slice], None]
    after: int
    gone: int
    lasts: int = 60
    also: tuple[str, ...] = ()
    tickets: tuple[str, ...] = ()


def frozen(series: Series, which: slice, *stages: str) -> None:
    for stage in stages:
        clock = series.of("last_event_timestamp_seconds", feature_view="last_ride", stage=stage)
        clock[which] = clock[which.start]


def nothing_applied(series: Series, which: slice) -> None:
    series.of("ingest_records_total", topic="rides", result="applied")[which] = 0


def services_down(series: Series, which: slice) -> None:
    series.down(which, *SERVICES)


def workers_down(series: Series, which: slice) -> None:
    series.down(which, *WORKERS)
    frozen(series, which, "source", "offline", "online")


def store_down(series: Series, which: slice) -> None:
    for instance in SERVICES:
        series.of("store_up", instance=instance, store="redis")[which] = 0
    failed = np.zeros(series.steps)
    failed[which] = 1
    series.requests(np.full(series.steps, 50.0), failed)
    frozen(series, which, "source", "offline", "online")
    nothing_applied(series, which)
    lag_grows(series, which)


def lag_grows(series: Series, which: slice) -> None:
    for partition in ("0", "1"):
        lag = series.of("ingest_lag_records", topic="rides", partition=partition)
        lag[which] = np.arange(len(lag[which])) * 600.0


def silent(series: Series, which: slice) -> None:
    frozen(series, which, "source", "offline", "online")
    nothing_applied(series, which)
    for partition in ("0", "1"):
        series.of("ingest_lag_records", topic="rides", partition=partition)[which] = 0


def stalled(series: Series, which: slice) -> None:
    frozen(series, which, "source", "offline", "online")
    nothing_applied(series, which)
    lag_grows(series, which)
    for partition in ("0", "1"):
        lag = series.of("ingest_lag_seconds", topic="rides", partition=partition)
        lag[which] = np.arange(len(lag[which])) * STEP


def stuck(series: Series, which: slice) -> None:
    """A worker that hangs says nothing more: what waits is not known to it."""
    frozen(series, which, "source", "offline", "online")
    nothing_applied(series, which)
    turned = series.of("ingest_turn_timestamp_seconds", instance=WORKERS[0])
    turned[which] = turned[which.start]
    for partition in ("0", "1"):
        series.of("ingest_lag_records", topic="rides", partition=partition)[which] = 0


def never_loaded(series: Series, which: slice) -> None:
    for stage in ("source", "offline", "online"):
        of = {"feature_view": "last_ride", "stage": stage}
        series.of("last_event_timestamp_seconds", **of)[which] = np.nan


def behind(series: Series, which: slice) -> None:
    for partition in ("0", "1"):
        series.of("ingest_lag_seconds", topic="rides", partition=partition)[which] = 400


def rejected(series: Series, which: slice) -> None:
    """One event."""
    of = {"feature_view": "last_ride", "reason": "invalid"}
    series.of("ingest_rejected_total", **of)[which.start] = 1 / STEP


def late(series: Series, which: slice) -> None:
    of = {"feature_view": "last_ride", "action": "dead_letter"}
    series.of("ingest_late_records_total", **of)[which] = 2


def failing(series: Series, which: slice) -> None:
    failed = np.zeros(series.steps)
    failed[which] = 0.05
    series.requests(np.full(series.steps, 50.0), failed)


def slow(series: Series, which: slice) -> None:
    share = np.full(series.steps, 0.001)
    share[which] = 0.5
    series.requests(np.full(series.steps, 50.0), 0.0, share)


def old_values(series: Series, which: slice) -> None:
    for edge in ("300", "900", f"{AGE_LIMIT:g}"):
        of = {"feature_view": "last_ride", "le": edge}
        series.of("served_value_age_seconds_bucket", **of)[which] = 50


def nulls(view: str, feature: str) -> Callable[[Series, slice], None]:
    def make(series: Series, which: slice) -> None:
        of = {"feature_view": view, "feature": feature, "reason": "null"}
        series.of("online_nulls_total", **of)[which] = 40

    return make


def evicted(series: Series, which: slice) -> None:
    series.of("store_evicted_keys_total", store="redis")[which.start] = 1 / STEP


def full(series: Series, which: slice) -> None:
    series.of("store_memory_bytes", store="redis")[which] = 7.6e9


def dropped(series: Series, which: slice) -> None:
    series.of("logged_vectors_total", outcome="dropped")[which.start] = 5 / STEP


def load_failed(series: Series, which: slice) -> None:
    """The first failure of all: its series begins with it."""
    at = np.full(series.steps, np.nan)
    at[which.start :] = series.at[which.start]
    series.level("materialization_last_failure_timestamp_seconds", at, feature_view="home")
    good = series.of("materialization_last_success_timestamp_seconds", feature_view="home")
    good[which.stop :] = series.at[which.stop]


def never_done(job: str) -> Callable[[Series, slice], None]:
    def make(series: Series, which: slice) -> None:
        due = series.of(f"{job}_due_timestamp_seconds")
        due[which] = due[which.start]

    return make


def mismatch(series: Series, which: slice) -> None:
    """A feature that was never verified before: its series begins with its differences."""
    count = np.full(series.steps, np.nan)
    count[which.start :] = 5
    series.level("online_offline_mismatch_total", count, feature_view="home", feature="zone")
    series.of("verified_timestamp_seconds")[which.start :] = series.at[which.start]


def drifted(feature: str, test: str) -> Callable[[Series, slice], None]:
    of = {"feature_view": "last_ride", "feature": feature, "test": test, "data": "offline"}

    def make(series: Series, which: slice) -> None:
        series.of("feature_drift_score", **of)[which] = 0.5

    return make


FAULTS = {
    "FeatureServiceDown": Fault(services_down, 1, 7, tickets=("InstanceDown",)),
    "IngestDown": Fault(workers_down, 1, 7, also=("FeatureViewStale",), tickets=("InstanceDown",)),
    "InstanceDown": Fault(lambda s, w: s.down(w, WORKERS[1]), 20, 0),
    "FeatureStoreDown": Fault(
        store_down, 1, 7, also=("FeatureViewStale", "IngestStalled", "OnlineErrorBudgetBurn")
    ),
    "FeatureViewStale": Fault(lambda s, w: frozen(s, w, "online"), 41, 0),
    "FeatureViewNeverLoaded": Fault(never_loaded, 20, 0),
    "SourceSilent": Fault(silent, 40, 3, also=("FeatureViewStale",)),
    "OfflineLogBehind": Fault(lambda s, w: frozen(s, w, "offline"), 39, 0),
    "IngestStalled": Fault(
        stalled, 11, 0, also=("FeatureViewStale",), tickets=("IngestLagSeconds",)
    ),
    "IngestLagSeconds": Fault(behind, 20, 0),
    "SchemaViolation": Fault(rejected, 0, 0, lasts=20),
    "LateEvents": Fault(late, 3, 16),
    "OnlineErrorBudgetBurn": Fault(failing, 16, 2),
    "OnlineLatencyBudgetBurn": Fault(slow, 14, 2),
    "FeatureServedStale": Fault(old_values, 5, 18),
    "FeatureNullRatioHigh": Fault(nulls("last_ride", "fare"), 14, 9, tickets=("NullRatioJump",)),
    "NullRatioJump": Fault(nulls("home", "zone"), 5, 4),
    "StoreEvictsKeys": Fault(evicted, 0, 0, lasts=20),
    "StoreMemoryHigh": Fault(full, 20, 0),
    "FeatureLogDropping": Fault(dropped, 0, 0, lasts=20),
    "MaterializationFailed": Fault(load_failed, 0, 0),
    "DriftJobOverdue": Fault(never_done("feature_drift"), 62, 0, lasts=80),
    "VerifyJobOverdue": Fault(never_done("verify"), 62, 0, lasts=80),
    "OnlineOfflineMismatch": Fault(mismatch, 0, 180),
    "FeatureDrift": Fault(drifted("fare", "ks"), 0, 0),
    "SourcePartial": Fault(drifted("", "partial_data"), 0, 0),
}


def test_every_alert_has_its_fault_here() -> None:
    assert set(FAULTS) == set(SEVERITY)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_page_or_none(name: str) -> None:
    fault = FAULTS[name]
    firing = {name, *fault.also, *fault.tickets}
    hidden = {
        effect for cause, effects, _ in CAUSES if cause in firing
        for effect in firing - {cause} if re.fullmatch(effects, effect)
    }  # fmt: skip
    told = firing - hidden
    assert name in told
    assert set(fault.also) <= hidden, "what a page brings with it is hidden"
    assert {one for one in told if SEVERITY[one] == "page"} <= {name}


def test_each_fires_on_its_fault_and_ends_with_the_repair(tmp_path: Path) -> None:
    if shutil.which("promtool") is None and not os.environ.get("CI"):
        pytest.skip("promtool is not installed: Debian's package prometheus has it")
    tried = []
    for name, fault in FAULTS.items():
        end = QUIET + fault.lasts
        series, check = Series(end + fault.gone + 5), Check()
        fault.make(series, slice(QUIET, end))
        this = f',alertname="{name}"'
        check.firing(QUIET - 1, ())
        if fault.after:
            check.firing(QUIET + fault.after - 1, (), this)
        check.firing(QUIET + fault.after, (name,), this)
        check.firing(end - 1, (name, *fault.also, *fault.tickets))
        check.firing(end + fault.gone - 1, (name,), this)
        check.firing(end + fault.gone, (), this)
        tried.append((name, series, check))
    vanished, check = Series(2 * QUIET), Check()
    for instance in SERVICES:
        vanished.of("up", job="headwater-service", instance=instance)[QUIET:] = np.nan
    check.firing(QUIET + 1, ("FeatureServiceDown",))
    tried.append(("targets that are gone from DNS", vanished, check))
    hangs, check = Series(2 * QUIET), Check()
    stuck(hangs, slice(QUIET, None))
    check.firing(QUIET + 11, ())
    check.firing(QUIET + 12, ("IngestStalled",))
    tried.append(("a worker that hangs", hangs, check))
    hangs, check = Series(2 * QUIET), Check()
    hangs.of("freshness_slo_seconds", feature_view="last_ride")[:] = 8 * STEP
    stuck(hangs, slice(QUIET, None))
    for after in range(9, 40):
        stalls = ("IngestStalled",) if after >= 12 else ()
        check.firing(QUIET + after, ("FeatureViewStale", *stalls))
    tried.append(("a worker that hangs, and a view that is soon stale", hangs, check))
    absent, check = Series(2 * QUIET), Check()
    for values in (*absent.levels.values(), *absent.rates.values()):
        values[:QUIET] = np.nan
    for step in range(2 * QUIET):
        check.firing(step, ())
    tried.append(("Prometheus that was not there before", absent, check))
    assert promtool(tmp_path, tried) == ""
