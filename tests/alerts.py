"""What a sound project's metrics look like over time, for the rules to be tried on by promtool.

One project with a Kafka source, a row view of it and a batch view, two service processes and two
workers. Levels and rates are arrays [steps], one step a scrape; a test changes them and writes them
down as promtool's input series. Time starts at 0.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from headwater.catalog import BatchSourcePlan, Catalog, StreamSourcePlan, ViewPlan
from headwater.local.process import free_ports, listens
from headwater.monitoring.options import Options
from headwater.monitoring.rules import rules

Floats = NDArray[np.float64]
OPTIONS = Options()
STEP = OPTIONS.interval
SLO, AGE_LIMIT, NULL_LIMIT = 600.0, 3600.0, 0.3
#: Seconds that a comparison of features, or a verification, may still take to be made anew.
JOB_DUE = 900.0
SERVICES, WORKERS = ("s1:6566", "s2:6566"), ("w1:9465", "w2:9465")
CATALOG = Catalog(
    "rides", "", "", "",
    streams={"rides": StreamSourcePlan("rides", ("rides",), "", "json", (), "at")},
    views={
        "last_ride": ViewPlan("last_ride", "row", (), (), stream="rides"),
        "home": ViewPlan("home", "row", (), (),
                         batch=BatchSourcePlan("homes", "parquet", "p", "at")),
    },
)  # fmt: skip
RULES = rules(CATALOG, OPTIONS)


class Series:
    """The metrics of a project; NaN is no sample."""

    def __init__(self, steps: int) -> None:
        self.steps, self.at = steps, np.arange(steps) * STEP
        #: By metric and labels as PromQL writes them: values, and what a counter grows by a second.
        self.levels: dict[str, Floats] = {}
        self.rates: dict[str, Floats] = {}
        #: Steps at which counters begin anew.
        self.restarts: dict[str, list[int]] = {}
        self._servers()
        self._clocks()
        self._ingest()
        self._requests()
        self._values()
        self._jobs()

    def level(self, name: str, value: Any, **labels: str) -> None:
        self.levels[_titled(name, labels)] = np.zeros(self.steps) + value

    def rate(self, name: str, value: Any, **labels: str) -> None:
        self.rates[_titled(name, labels)] = np.zeros(self.steps) + value

    def of(self, name: str, **labels: str) -> Floats:
        """The level or rate of one series, to be changed."""
        title = _titled(name, labels)
        return self.levels[title] if title in self.levels else self.rates[title]

    def _servers(self) -> None:
        for instance in SERVICES:
            self.level("up", 1, job="headwater-service", instance=instance)
            self.level("store_up", 1, instance=instance, store="redis")
        for instance in WORKERS:
            self.level("up", 1, job="headwater-ingest", instance=instance)
            self.level("ingest_turn_timestamp_seconds", self.at - 1, instance=instance)
        self.level("up", 1, job="alertmanager", instance="am:9093")
        self.level("store_memory_bytes", 4e9, store="redis")
        self.level("store_memory_limit_bytes", 8e9, store="redis")
        self.rate("store_evicted_keys_total", 0, store="redis")

    def _clocks(self) -> None:
        for stage, behind in (("source", 2), ("offline", 20), ("online", 3)):
            view = {"feature_view": "last_ride", "stage": stage}
            self.level("last_event_timestamp_seconds", self.at - behind, **view)
        self.level("last_event_timestamp_seconds", self.at - 5000, feature_view="home",
                   stage="online")  # fmt: skip
        self.level("freshness_slo_seconds", SLO, feature_view="last_ride")
        self.level("served_age_limit_seconds", AGE_LIMIT, feature_view="last_ride")
        self.level("feature_view_info", 1, feature_view="last_ride", kind="row", stream="rides",
                   owner="rides@example.org")  # fmt: skip
        self.level("feature_view_info", 1, feature_view="home", kind="row", stream="", owner="")
        self.level("stream_topic_info", 1, stream="rides", topic="rides")

    def _ingest(self) -> None:
        for partition in ("0", "1"):
            self.level("ingest_lag_records", 3, topic="rides", partition=partition)
            self.level("ingest_lag_seconds", 0.2, topic="rides", partition=partition)
        for result, rate in (("applied", 40.0), ("rejected", 0.0), ("duplicate", 0.0)):
            self.rate("ingest_records_total", rate, topic="rides", result=result)
        for reason in ("invalid", "future", "late", "udf"):
            self.rate("ingest_rejected_total", 0, feature_view="last_ride", reason=reason)
        self.rate("ingest_late_records_total", 0, feature_view="last_ride", action="dead_letter")

    def _requests(self) -> None:
        self.requests(np.full(self.steps, 50.0))
        for outcome, rate in (("written", 1.0), ("dropped", 0.0), ("failed", 0.0)):
            self.rate("logged_vectors_total", rate, outcome=outcome)

    def requests(self, rate: Floats, failed: Any = 0.0, slow: Any = 0.001) -> None:
        """Requests a second, the shares of them that fail and that are slow."""
        route = {"route": "/get-online-features", "method": "POST"}
        name = "request_duration_seconds"
        for status, count in (("2xx", rate * (1 - failed)), ("5xx", rate * failed)):
            self.rate(f"{name}_count", count, status=status, **route)
            for edge, share in (("0.01", 0.9 * (1 - slow)), ("0.1", 1 - slow), ("+Inf", 1.0)):
                self.rate(f"{name}_bucket", count * share, status=status, le=edge, **route)

    def _values(self) -> None:
        self.values("last_ride", "fare", np.full(self.steps, 100.0), 0.1)
        self.values("home", "zone", np.full(self.steps, 100.0), 0.02)
        self.level("feature_null_ratio_limit", NULL_LIMIT, feature_view="last_ride", feature="fare")
        self.ages({"300": 60.0, "900": 90.0, "3600": 99.0, "21600": 100.0, "+Inf": 100.0})

    def values(self, view: str, feature: str, rate: Floats, nulls: Any) -> None:
        """Values of a feature served a second, and the share of nulls."""
        of = {"feature_view": view, "feature": feature}
        self.rate("online_values_total", rate, **of)
        for reason, share in (("absent", nulls), ("null", 0.0), ("expired", 0.0)):
            self.rate("online_nulls_total", rate * share, **of, reason=reason)

    def ages(self, up_to: dict[str, Any]) -> None:
        """Rows of last_ride served a second, by the edges of their ages."""
        for edge, rate in up_to.items():
            self.rate("served_value_age_seconds_bucket", rate, feature_view="last_ride", le=edge)

    def _jobs(self) -> None:
        self.level("materialization_last_success_timestamp_seconds", 1, feature_view="home")
        self.level("verified_timestamp_seconds", 1)
        for job in ("feature_drift", "verify"):
            self.level(f"{job}_due_timestamp_seconds", self.at + JOB_DUE)
        for feature, test in (("fare", "ks"), ("", "partial_data")):
            of = {"feature_view": "last_ride", "feature": feature, "test": test, "data": "offline"}
            self.level("feature_drift_score", 0.02, **of)
            self.level("feature_drift_threshold", 0.3, **of)
        self.level("online_offline_mismatch_total", 0, feature_view="last_ride", feature="fare")

    def down(self, which: slice, *instances: str) -> None:
        """These do not answer; a metric of all services or of all workers is gone with them."""
        for title, values in self.levels.items():
            if title.startswith("up{"):
                if any(instance in title for instance in instances):
                    values[which] = 0
            elif any(f'instance="{instance}"' in title for instance in instances):
                values[which] = np.nan
        for everyone, mine in ((SERVICES, False), (WORKERS, True)):
            if set(everyone) <= set(instances):
                for title, values in {**self.levels, **self.rates}.items():
                    if ("_ingest_" in title) == mine and not title.startswith("up{"):
                        values[which] = np.nan

    def written(self) -> list[dict[str, str]]:
        """promtool's `input_series`."""
        found = {title: _text(values) for title, values in self.levels.items()}
        for title, rate in self.rates.items():
            found[title] = _text(self._total(title, rate))
        return [{"series": title, "values": text} for title, text in found.items()]

    def exported(self, start: float) -> bytes:
        """VictoriaMetrics' import lines; times, and what is a time, begin at `start`."""
        at = np.round((start + self.at) * 1000).astype(np.int64)
        lines = []
        for title, values in self.levels.items():
            shift = start if "timestamp_seconds" in title else 0.0
            lines.append(_line(title, values + shift, at))
        for title, rate in self.rates.items():
            lines.append(_line(title, self._total(title, rate), at))
        return b"\n".join(lines)

    def _total(self, title: str, rate: Floats) -> Floats:
        """The counter that grows by a rate; NaN where there is no sample."""
        gone = np.isnan(rate)
        total = np.cumsum(np.where(gone, 0.0, rate) * STEP)
        for at in self.restarts.get(title, []):
            total[at:] -= total[at]
        return np.where(gone, np.nan, np.round(total, 3))


def _line(title: str, values: Floats, at: NDArray[np.int64]) -> bytes:
    name, _, inner = title.partition("{")
    labels = {"__name__": name, **dict(re.findall(r'(\w+)="([^"]*)"', inner))}
    there = ~np.isnan(values)
    return json.dumps({
        "metric": labels, "values": values[there].tolist(), "timestamps": at[there].tolist(),
    }).encode()  # fmt: skip


def _titled(name: str, labels: dict[str, str]) -> str:
    title = name if name == "up" else f"featurestore_{name}"
    inner = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return f"{title}{{{inner}}}" if inner else title


def _text(values: Floats) -> str:
    """Values as promtool reads them; a series that is gone is marked so, as Prometheus does."""
    words, before = [], False
    for value, gone in zip(values.tolist(), np.isnan(values).tolist(), strict=True):
        words.append(("stale" if before else "_") if gone else repr(value))
        before = not gone
    return " ".join(words)


class Check:
    """What PromQL gives at some steps: expression -> labels -> value."""

    def __init__(self) -> None:
        self.tests: list[dict[str, Any]] = []

    def expect(self, step: int, expr: str, samples: dict[str, float]) -> None:
        listed = [{"labels": labels, "value": value} for labels, value in samples.items()]
        self.tests.append({"expr": expr, "eval_time": f"{step * STEP:g}s", "exp_samples": listed})

    def firing(self, step: int, names: Sequence[str] | set[str], which: str = "") -> None:
        """The names of all alerts (with some labels) that fire at a step."""
        expr = f'group by (alertname) (ALERTS{{alertstate="firing"{which}}})'
        self.expect(step, expr, {f'{{alertname="{name}"}}': 1.0 for name in sorted(names)})


def promtool(folder: Path, tests: Sequence[tuple[str, Series, Check]], every: int = 1) -> str:
    """What `promtool test rules` finds wrong, "" for nothing. every: steps between two looks."""
    (group,) = RULES["groups"]
    looked = {"groups": [{**group, "interval": f"{every * STEP:g}s"}]}
    (folder / "rules.yml").write_text(yaml.safe_dump(looked))
    content = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": f"{STEP:g}s",
        "tests": [
            {
                "name": name, "interval": f"{STEP:g}s", "input_series": series.written(),
                "promql_expr_test": check.tests,
            }
            for name, series, check in tests
        ],
    }  # fmt: skip
    (folder / "tests.yml").write_text(json.dumps(content))  # which is YAML, and quick
    done = subprocess.run(
        ["promtool", "test", "rules", "tests.yml"], cwd=folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return "" if done.returncode == 0 else done.stdout + done.stderr


def replayed(folder: Path, series: Series) -> dict[str, set[str]]:
    """What vmalert would have found: the names of the alerts that were pending, and that fired.

    The series end a few minutes ago; every step is looked at.
    """
    folder.mkdir()
    start = (time.time() - series.steps * STEP) // STEP * STEP - 300
    end = start + series.steps * STEP
    (folder / "rules.yml").write_text(yaml.safe_dump(RULES))
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        store = subprocess.Popen(
            ["victoria-metrics", f"-storageDataPath={folder}/data", "-retentionPeriod=3d",
             f"-httpListenAddr=127.0.0.1:{port}", "-memory.allowedPercent=10",
             "-search.disableCache", "-search.latencyOffset=1s"],
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            while not listens(port):
                assert store.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
            _ask(f"{url}/api/v1/import", series.exported(start))
            _ask(f"{url}/internal/force_flush")
            times = [
                datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                for at in (start + 20 * STEP, end - STEP)
            ]
            done = subprocess.run(
                ["vmalert", f"-rule={folder}/rules.yml", f"-datasource.url={url}",
                 f"-remoteWrite.url={url}", f"-replay.timeFrom={times[0]}",
                 f"-replay.timeTo={times[1]}", "-replay.rulesDelay=0s",
                 f"-replay.maxDatapointsPerQuery={series.steps + 1}",
                 f"-datasource.queryStep={STEP:g}s", "-replay.disableProgressBar"],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            _ask(f"{url}/internal/force_flush")
            expr = f"group by (alertname, alertstate) (count_over_time(ALERTS[{end - start:g}s]))"
            query = urllib.parse.urlencode({"query": expr, "time": end})
            found: dict[str, set[str]] = {"pending": set(), "firing": set()}
            for one in json.loads(_ask(f"{url}/api/v1/query?{query}"))["data"]["result"]:
                found[one["metric"]["alertstate"]].add(one["metric"]["alertname"])
            return found
        finally:
            store.terminate()
            store.wait(30)


def _ask(url: str, data: bytes | None = None) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as answer:
        body: bytes = answer.read()
    return body
