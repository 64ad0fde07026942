"""A day of a sound project's traffic, with all that happens on a day: nobody is called."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.alerts import (
    RULES,
    SERVICES,
    STEP,
    WORKERS,
    Check,
    Floats,
    Series,
    promtool,
    replayed,
)  # fmt: skip

STEPS = round(86_400 / STEP)
NAMES = [rule["alert"] for rule in RULES["groups"][0]["rules"]]


def hour(at: float) -> int:
    return round(at * 3600 / STEP)


def span(at: float, seconds: float) -> slice:
    return slice(hour(at), hour(at) + round(seconds / STEP))


def daily(chance: np.random.Generator, low: float, high: float) -> Floats:
    """A rate over the day: least at four in the morning, with noise."""
    phase = np.arange(STEPS) / STEPS * 2 * np.pi
    curve = low + (high - low) * (1 - np.cos(phase - 2 * np.pi * 4 / 24)) / 2
    return curve * chance.lognormal(0, 0.15, STEPS)


def bursts(series: Series, at: float, seconds: float) -> None:
    """A worker falls behind for a while: events wait, and are then taken in."""
    which = span(at, seconds)
    n = which.stop - which.start
    for partition in ("0", "1"):
        of = {"topic": "rides", "partition": partition}
        wave = np.sin(np.linspace(0, np.pi, n))
        series.of("ingest_lag_records", **of)[which] = 4000 * wave
        series.of("ingest_lag_seconds", **of)[which] = 90 * wave
    for stage in ("offline", "online"):
        clock = series.of("last_event_timestamp_seconds", feature_view="last_ride", stage=stage)
        clock[which] -= 90 * np.sin(np.linspace(0, np.pi, n))


def rebalances(series: Series, at: float, seconds: float = 60) -> None:
    """One worker goes, the other waits for its partitions, and nothing is applied meanwhile."""
    which = span(at, seconds)
    series.of("up", job="headwater-ingest", instance=WORKERS[0])[which] = 0
    series.of("ingest_records_total", topic="rides", result="applied")[which] = 0
    waiting = np.arange(which.stop - which.start) * 300.0
    for partition in ("0", "1"):
        series.of("ingest_lag_records", topic="rides", partition=partition)[which] = waiting
    for stage in ("source", "offline", "online"):
        clock = series.of("last_event_timestamp_seconds", feature_view="last_ride", stage=stage)
        clock[which] = clock[which.start]


def deploys(series: Series, at: float) -> None:
    """The services are replaced one after the other, each away for half a minute."""
    for i, instance in enumerate(SERVICES):
        series.down(span(at + i * 0.02, 30), instance)
    for title in series.rates:
        if "_ingest_" not in title and "_store_" not in title:
            series.restarts.setdefault(title, []).append(hour(at + 0.02))


def a_day(seed: int) -> Series:
    chance = np.random.default_rng(seed)
    series = Series(STEPS)
    requests = daily(chance, 0.4, 120)
    slow = np.clip(chance.beta(1, 600, STEPS), 0, 1)
    slow[span(13.2, 60)] = 0.15  # a minute of garbage collection somewhere
    failed = (chance.random(STEPS) < 0.02) * 0.004
    series.requests(requests, failed, slow)
    for view, feature, usual in (("last_ride", "fare", 0.1), ("home", "zone", 0.02)):
        rate = requests * 4
        n = np.maximum(rate * STEP, 1)
        # Who asks at night is another mix of entities.
        share = usual + 0.05 * (requests < 20) + chance.normal(0, 1, STEPS) * np.sqrt(usual / n)
        series.values(view, feature, rate, np.clip(share, 0, 1))
    for edge, share in (("300", 0.6), ("900", 0.9), ("3600", 0.97), ("21600", 1.0), ("+Inf", 1.0)):
        series.rate("served_value_age_seconds_bucket", requests * share, feature_view="last_ride",
                    le=edge)  # fmt: skip
    events = daily(chance, 0.05, 60)
    series.rate("ingest_records_total", events, topic="rides", result="applied")
    gaps = np.minimum(chance.exponential(1 / events), 240)  # at night minutes between two events
    for stage, behind in (("source", 1.0), ("offline", 20.0), ("online", 2.0)):
        clock = series.of("last_event_timestamp_seconds", feature_view="last_ride", stage=stage)
        clock[:] = np.maximum.accumulate(series.at - gaps - behind)
    late = series.of("ingest_late_records_total", feature_view="last_ride", action="dead_letter")
    late[:] = chance.random(STEPS) < 0.3
    late /= STEP
    series.of("store_memory_bytes", store="redis")[:] = np.linspace(4e9, 6.5e9, STEPS)
    for at in (3.0, 9.5, 17.0):
        bursts(series, at, 600)
    for at in (6.0, 11.2, 20.4):
        rebalances(series, at)
    for at in (10.0, 15.5):
        deploys(series, at)
    success = series.of("materialization_last_success_timestamp_seconds", feature_view="home")
    success[:] = 1 + np.floor(series.at / 3600) * 3600
    series.of("verified_timestamp_seconds")[:] = 1 + np.floor(series.at / 7200) * 7200
    return series


def test_no_alert_fires_on_a_day_of_deployments_rebalances_and_bursts(tmp_path: Path) -> None:
    if shutil.which("promtool") is None and not os.environ.get("CI"):
        pytest.skip("promtool is not installed: Debian's package prometheus has it")
    check = Check()
    ever = f'max_over_time((group by (alertname) (ALERTS{{alertstate="firing"}}))[1d:{STEP:g}s])'
    check.expect(STEPS - 1, ever, {})
    # That the day was watched at all: some did wait for their time.
    check.expect(STEPS - 1, 'count(count_over_time(ALERTS{alertstate="pending"}[1d])) > bool 0',
                 {"{}": 1.0})  # fmt: skip
    assert promtool(tmp_path, [("a day", a_day(7), check)], every=4) == ""


def test_vmalert_finds_the_day_as_quiet_and_an_hour_that_was_not(tmp_path: Path) -> None:
    if shutil.which("vmalert") is None and not os.environ.get("CI"):
        pytest.skip("vmalert is not installed: Debian's package victoria-metrics has it")
    day = a_day(7)
    quiet = replayed(tmp_path / "quiet", day)
    assert quiet["firing"] == set()
    assert quiet["pending"]
    which = span(14.0, 3600)
    clock = day.of("last_event_timestamp_seconds", feature_view="last_ride", stage="online")
    clock[which] = clock[which.start]
    assert replayed(tmp_path / "stale", day)["firing"] == {"FeatureViewStale"}
