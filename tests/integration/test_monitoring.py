"""Every alert by its real fault: Prometheus, Alertmanager, VictoriaMetrics and vmalert as they are.

One project runs under a steady load and is watched with a scrape interval of one second, of which
all windows and waits of the rules are multiples.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from headwater.local import LocalKafka, LocalRedis
from headwater.local.process import free_ports, listens
from tests.panels import panels
from tests.processes import Programs, feature_store
from tests.waiting import until

SERVERS = ("prometheus", "promtool", "prometheus-alertmanager", "amtool", "victoria-metrics",
           "vmalert", "vmagent")  # fmt: skip
TOPIC = "watched"
DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.data_format import DeltaFormat, JsonFormat
from feast.types import Float64, Int64

driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
rides = KafkaSource(
    name="rides", topic="watched", kafka_bootstrap_servers="127.0.0.1:1", timestamp_field="at",
    message_format=JsonFormat("driver_id bigint, fare double, at timestamp"),
    batch_source=FileSource(name="rides_log", path="data/log/rides",
                            file_format=DeltaFormat(), timestamp_field="at"),
)
schema = [Field(name="driver_id", dtype=Int64)]
last_ride = StreamFeatureView(
    name="last_ride", entities=[driver], source=rides, timestamp_field="at", ttl=timedelta(days=1),
    schema=[*schema, Field(name="fare", dtype=Float64, tags={"max_null_ratio": "0.3"})],
    tags={"freshness_slo": "10s", "max_served_age": "1d", "owner": "rides@example.org"},
)
ride_windows = StreamFeatureView(
    name="ride_windows", entities=[driver], source=rides, timestamp_field="at",
    schema=[*schema, Field(name="n", dtype=Int64)], tags={"freshness_slo": "10s"},
    aggregations=[
        Aggregation(column="fare", function="count", time_window=timedelta(days=1), name="n"),
    ],
)
home = FeatureView(
    name="home", entities=[driver], ttl=timedelta(0),
    schema=[*schema, Field(name="zone", dtype=Int64)],
    source=FileSource(name="homes", path="data/homes.parquet", timestamp_field="event_timestamp"),
)
"""
DRIVERS = list(range(20))


class Notices:
    """A webhook: what Alertmanager sent, and what vmalert would have."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str, str]] = []
        self.of_vmalert: set[str] = set()
        notices = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if isinstance(body, list):
                    notices.of_vmalert |= {one["labels"]["alertname"] for one in body}
                else:
                    for one in body["alerts"]:
                        labels = one["labels"]
                        notices.log.append((one["status"], labels["alertname"], labels["severity"]))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def firing(self) -> set[str]:
        """Alerts whose last notice is that they fire."""
        last = {name: status for status, name, _ in self.log}
        return {name for name, status in last.items() if status == "firing"}

    def pages(self, since: int) -> set[str]:
        return {name for status, name, severity in self.log[since:]
                if status == "firing" and severity == "page"}  # fmt: skip


class Load(threading.Thread):
    """Events and requests, several a second; `event` makes one event's message."""

    def __init__(self, bootstrap: str, url: str) -> None:
        super().__init__(daemon=True)
        self._producer, self._url = KafkaProducer(bootstrap_servers=bootstrap), url
        self.event: Callable[[int], bytes] | None = ride
        self.asks = False
        self._over = threading.Event()

    def run(self) -> None:
        body = {"features": ["last_ride:fare", "ride_windows:n", "home:zone"],
                "entities": {"driver_id": DRIVERS}}  # fmt: skip
        data = json.dumps(body).encode()
        drivers = DRIVERS  # all have a row before anybody counts nulls
        while not self._over.wait(0.2):
            if self.event is not None:
                for driver in drivers:
                    self._producer.send(TOPIC, self.event(driver))
                drivers = random.sample(DRIVERS, 10)
            if not self.asks:
                continue
            with suppress(OSError):  # the service is down, or says 503
                urllib.request.urlopen(self._url + "/get-online-features", data, timeout=5).read()

    def close(self) -> None:
        self._over.set()
        self.join()
        self._producer.close()


def ride(driver: int, fare: float | None = 9.5) -> bytes:
    at = time.time_ns() // 1000
    return json.dumps({"driver_id": driver, "fare": fare, "at": at}).encode()


class Watched:
    """The project's processes and those that watch it."""

    def __init__(self, folder: Path, kafka: LocalKafka) -> None:
        self.folder, self.notices = folder, Notices()
        self.redis = LocalRedis(append_only=True)
        self.redis.start()
        (folder / "data").mkdir()
        (folder / "feature_store.yaml").write_text(feature_store("watched", self.redis.url))
        (folder / "definitions.py").write_text(DEFINITIONS)
        self.programs = Programs(folder, {
            "REDIS_URL": self.redis.url, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
            "HEADWATER_GROUP": f"watched-{time.time_ns()}",
            "HEADWATER_REDIS_TIMEOUT_SECONDS": "0.5",
        })  # fmt: skip
        self.programs.headwater("apply")
        _write_homes(folder / "data" / "homes.parquet")
        self.worker, self.service = self.programs.ingest(), self.programs.serve()
        assert self.programs.post("/materialize", {})[0] == 200
        self.load = Load(kafka.bootstrap, self.programs.url)
        self.load.start()
        until(lambda: '"fresh"' in self.programs.get("/api/v1/freshness"), 60)
        self.load.asks = True
        self._watch()

    def _watch(self) -> None:
        ports = free_ports(4)
        self.prometheus, alertmanager, self.victoria, vmalert = (
            f"127.0.0.1:{port}" for port in ports
        )
        out = self.folder / "monitoring"
        self.programs.headwater(
            "monitoring", "--out", str(out), "--interval", "1",
            "--service", self.programs.url.removeprefix("http://"),
            "--worker", f"127.0.0.1:{self.programs.env['HEADWATER_METRICS_PORT']}",
            "--alertmanager", alertmanager,
            "--page", f"webhook:{self.notices.url}/page", "--page", "email:oncall@example.org",
            "--ticket", f"webhook:{self.notices.url}/ticket",
        )  # fmt: skip
        self.out = out
        # Nobody takes mails here.
        config = (out / "alertmanager.yml").read_text()
        assert "email_configs" in config
        plain = re.sub(r"  email_configs:\n  - to: .*\n    send_resolved: true\n", "", config)
        (out / "webhooks.yml").write_text(plain)
        data = self.folder / "tsdb"
        self.watchers = [
            _start("prometheus", f"--config.file={out}/prometheus.yml",
                   f"--storage.tsdb.path={data}/p", f"--web.listen-address={self.prometheus}"),
            _start("prometheus-alertmanager", f"--config.file={out}/webhooks.yml",
                   f"--storage.path={data}/a", f"--web.listen-address={alertmanager}",
                   "--cluster.listen-address="),
            _start("victoria-metrics", f"-storageDataPath={data}/v", "-memory.allowedPercent=10",
                   f"-httpListenAddr={self.victoria}", f"-promscrape.config={out}/vmagent.yml",
                   "-search.latencyOffset=1s"),
            _start("vmalert", f"-rule={out}/rules.yml", f"-httpListenAddr={vmalert}",
                   f"-datasource.url=http://{self.victoria}", "-evaluationInterval=1s",
                   "-datasource.lookback=0s", f"-notifier.url={self.notices.url}"),
        ]  # fmt: skip
        for port in ports:
            until(lambda port=port: listens(port), 30)

    def query(self, server: str, expr: str) -> list[Any]:
        url = f"http://{server}/api/v1/query?" + urllib.parse.urlencode({"query": expr})
        with urllib.request.urlopen(url, timeout=30) as answer:
            found: list[Any] = json.load(answer)["data"]["result"]
        return found

    @contextmanager
    def fires(self, *names: str, explains: tuple[str, ...] = ()) -> Iterator[None]:
        """The fault is made inside, and repaired when this ends: `names` fire, then resolve.

        No page but these goes out, also while `explains` fire in Prometheus.
        """
        before = len(self.notices.log)
        yield
        until(lambda: set(names) <= self.notices.firing(), 60)
        for name in explains:
            until(lambda name=name: self._fires(name), 60)
        pages = self.notices.pages(before)
        assert pages <= set(names)

    def resolved(self, *names: str) -> None:
        until(lambda: not set(names) & self.notices.firing(), 90)

    def _fires(self, name: str) -> bool:
        expr = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
        return bool(self.query(self.prometheus, expr))

    def close(self) -> None:
        self.load.close()
        for one in (*self.watchers, self.service, self.worker):
            one.send_signal(signal.SIGCONT)
            one.terminate()
        for one in (*self.watchers, self.service, self.worker):
            one.wait(30)
        self.redis.close()
        self.notices.server.shutdown()
        self.notices.server.server_close()


def _start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _write_homes(path: Path) -> None:
    import pandas as pd

    now = pd.Timestamp.now(tz="UTC")
    pd.DataFrame(
        {"driver_id": DRIVERS, "zone": DRIVERS, "event_timestamp": [now] * len(DRIVERS)}
    ).to_parquet(path)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, kafka: LocalKafka) -> Iterator[Watched]:
    missing = [name for name in SERVERS if shutil.which(name) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"not installed: {', '.join(missing)} (README says how)")
    assert not missing
    kafka.create_topics({TOPIC: 2})
    with ExitStack() as stack:
        running = Watched(tmp_path_factory.mktemp("watched"), kafka)
        stack.callback(running.close)
        yield running


def test_the_servers_own_checkers_find_nothing(watched: Watched) -> None:
    out = watched.out
    for command in (
        ["promtool", "check", "config", f"{out}/prometheus.yml"],
        ["promtool", "check", "rules", f"{out}/rules.yml"],
        ["amtool", "check-config", f"{out}/alertmanager.yml"],
        ["vmalert", "-dryRun", f"-rule={out}/rules.yml"],
        ["vmagent", "-dryRun", f"-promscrape.config={out}/vmagent.yml"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    text = watched.programs.get("/metrics")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode in {0, 3}, done.stderr  # 3: matters of style


def test_a_quiet_run_tells_nobody_and_every_panel_has_data(watched: Watched) -> None:
    boards = sorted((watched.out / "dashboards").glob("*.json"))
    asked = [
        (path.stem, title, expr.replace("$__rate_interval", "10s").replace("$view", ".*"))
        for path in boards for title, expr in panels(json.loads(path.read_text()))
    ]  # fmt: skip
    assert len(boards) == 4

    def empty() -> list[tuple[str, str, str]]:
        return [
            (server, board, title)
            for server in (watched.prometheus, watched.victoria)
            for board, title, expr in asked if not watched.query(server, expr)
        ]  # fmt: skip

    until(lambda: not empty(), 60)
    assert watched.notices.log == []


def test_nulls_and_messages_of_another_schema_are_tickets(watched: Watched) -> None:
    with watched.fires("FeatureNullRatioHigh", "SchemaViolation"):
        watched.load.event = lambda driver: ride(driver, None) if driver else b'{"driver_id": "x"}'
    watched.load.event = ride
    until(lambda: "FeatureNullRatioHigh" in watched.notices.of_vmalert, 30)
    watched.resolved("FeatureNullRatioHigh", "SchemaViolation", "NullRatioJump")


def test_a_silent_source_is_one_page_for_all_of_its_views(watched: Watched) -> None:
    with watched.fires("SourceSilent", explains=("FeatureViewStale",)):
        watched.load.event = None
    watched.load.event = ride
    watched.resolved("SourceSilent")


def test_a_worker_that_hangs_is_one_page(watched: Watched) -> None:
    with watched.fires("IngestDown", explains=("FeatureViewStale",)):
        watched.worker.send_signal(signal.SIGSTOP)
    watched.worker.send_signal(signal.SIGCONT)
    watched.resolved("IngestDown")


def test_a_store_that_is_down_is_one_page(watched: Watched) -> None:
    with watched.fires("FeatureStoreDown", explains=("FeatureViewStale",)):
        watched.redis.kill()
    watched.redis.start()
    watched.resolved("FeatureStoreDown")


def test_a_service_that_is_down_is_one_page_and_then_all_is_quiet(watched: Watched) -> None:
    with watched.fires("FeatureServiceDown"):
        watched.service.terminate()
        watched.service.wait(30)
    watched.service = watched.programs.serve()
    watched.resolved("FeatureServiceDown")
    until(lambda: not watched.notices.firing(), 60)
    assert {name for status, name, severity in watched.notices.log if severity == "page"} == {
        "SourceSilent", "IngestDown", "FeatureStoreDown", "FeatureServiceDown",
    }  # fmt: skip
