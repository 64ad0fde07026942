"""A project under load, watched by Prometheus, Alertmanager, VictoriaMetrics and vmalert.

One project runs under a steady load and is watched with a scrape interval of a second or two
(INTERVAL in the test's module), of which all windows and waits of the rules are multiples.
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
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from kafka import KafkaProducer

from headwater.local import LocalKafka, LocalRedis
from headwater.local.process import free_ports
from tests.processes import Programs, feature_store
from tests.waiting import answers, until

SERVERS = ("prometheus", "promtool", "prometheus-alertmanager", "amtool", "victoria-metrics",
           "vmalert", "vmagent")  # fmt: skip
TOPIC, TOLL_TOPIC = "watched", "watched-tolls"
DEFINITIONS = '''
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource, KafkaSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.data_format import DeltaFormat, JsonFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64

driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)


def stream(name, topic):
    return KafkaSource(
        name=name, topic=topic, kafka_bootstrap_servers="127.0.0.1:1", timestamp_field="at",
        watermark_delay_threshold=timedelta(hours=6),
        message_format=JsonFormat("driver_id bigint, fare double, at timestamp"),
        batch_source=FileSource(name=f"{name}_log", path=f"data/log/{name}",
                                file_format=DeltaFormat(), timestamp_field="at"),
    )


rides, tolls = stream("rides", "watched"), stream("tolls", "watched-tolls")
schema = [Field(name="driver_id", dtype=Int64)]
fare = Field(name="fare", dtype=Float64, tags={"max_null_ratio": "0.3", "max_drift": "1000"})
last_ride = StreamFeatureView(
    name="last_ride", entities=[driver], source=rides, timestamp_field="at", ttl=timedelta(days=1),
    schema=[*schema, fare],
    tags={"freshness_slo": "SLO", "max_served_age": "1d", "owner": "rides@example.org"},
)
ride_windows = StreamFeatureView(
    name="ride_windows", entities=[driver], source=rides, timestamp_field="at",
    schema=[*schema, Field(name="n", dtype=Int64)], tags={"freshness_slo": "SLO"},
    aggregations=[
        Aggregation(column="fare", function="count", time_window=timedelta(days=1), name="n"),
    ],
)


def checked(events):
    """As if another system were asked: it takes as long as that one does."""
    import pathlib
    import time

    pace = pathlib.Path("FOLDER/udf-pace")
    while pace.read_text() == "hang":
        time.sleep(0.1)
    time.sleep(float(pace.read_text()) * len(events))
    return events


checked.__module__ = "__main__"  # as Feast's decorator does, so that dill keeps the code
checked_ride = StreamFeatureView(
    name="checked_ride", entities=[driver], source=rides, timestamp_field="at",
    ttl=timedelta(days=1), schema=[*schema, Field(name="fare", dtype=Float64)],
    mode="pandas", udf=checked, udf_string="checked",
)
all_rides = StreamFeatureView(
    name="all_rides", entities=[], source=rides, timestamp_field="at",
    schema=[Field(name="rides", dtype=Int64)],
    aggregations=[
        Aggregation(column="fare", function="count", time_window=timedelta(hours=1), name="rides"),
    ],
)
last_toll = StreamFeatureView(
    name="last_toll", entities=[driver], source=tolls, timestamp_field="at", ttl=timedelta(days=1),
    schema=[*schema, Field(name="fare", dtype=Float64, tags={"max_drift": "MAX_DRIFT"})],
)


def batch(name, feature, **tags):
    return FeatureView(
        name=name, entities=[driver], ttl=timedelta(0), tags=tags,
        schema=[*schema, Field(name=feature, dtype=Int64)],
        source=FileSource(name=f"{name}_file", path=f"data/{name}.parquet", timestamp_field="at"),
    )


home = batch("home", "zone", max_served_age="1h")
car = batch("car", "plate")


@on_demand_feature_view(
    sources=[home], mode="python", schema=[Field(name="next_zone", dtype=Int64)]
)
def next_zone(inputs):
    import pathlib
    import time

    time.sleep(float(pathlib.Path("FOLDER/service-pace").read_text()))
    return {"next_zone": [zone and zone + 1 for zone in inputs["zone"]]}
'''
#: Added later: nobody can load it, for its file is none.
CLUB = 'club = batch("club", "number", freshness_slo="1h")\n'
DRIVERS = list(range(20))
#: Whose homes were last heard of hours ago.
GONE = list(range(100, 120))
#: Tolls an hour, for so many days before today.
TOLLS, TOLL_DAYS = 50, 4


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

    def fired(self, since: int) -> set[str]:
        return {name for status, name, _ in self.log[since:] if status == "firing"}

    def pages(self, since: int) -> set[str]:
        return {name for status, name, severity in self.log[since:]
                if status == "firing" and severity == "page"}  # fmt: skip


class Load(threading.Thread):
    """Events and requests, several a second; `event` makes one event's message."""

    def __init__(self, bootstrap: str, url: str) -> None:
        super().__init__(daemon=True)
        self.producer, self._url = KafkaProducer(bootstrap_servers=bootstrap), url
        self.event: Callable[[int], bytes] | None = ride
        self.asks = False
        self._over = threading.Event()

    def run(self) -> None:
        features = ["last_ride:fare", "ride_windows:n", "car:plate", "next_zone:next_zone",
                    "home:zone", "all_rides:rides"]  # fmt: skip
        drivers = DRIVERS  # all have a row before anybody counts nulls
        while not self._over.wait(0.1):
            if self.event is not None:
                for driver in drivers:
                    self.producer.send(TOPIC, self.event(driver))
                drivers = random.sample(DRIVERS, 5)
            if self.asks:
                self.ask(features, DRIVERS)

    def ask(self, features: list[str], drivers: list[int]) -> None:
        body = json.dumps({"features": features, "entities": {"driver_id": drivers}}).encode()
        with suppress(OSError):  # the service is down, or says 503
            urllib.request.urlopen(self._url + "/get-online-features", body, timeout=5).read()

    @contextmanager
    def more(self, features: list[str], drivers: list[int], clients: int = 3) -> Iterator[None]:
        """Clients that ask for this as well, some thirty times a second."""
        over = threading.Event()

        def run() -> None:
            while not over.wait(0.1):
                self.ask(features, drivers)

        threads = [threading.Thread(target=run, daemon=True) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def close(self) -> None:
        self._over.set()
        self.join()
        self.producer.close()


def ride(driver: int, fare: float | None = 9.5, ago_seconds: float = 0) -> bytes:
    at = int((time.time() - ago_seconds) * 1e6)
    return json.dumps({"driver_id": driver, "fare": fare, "at": at}).encode()


class Watched:
    """The project's processes and those that watch it."""

    def __init__(self, folder: Path, kafka: LocalKafka, interval: int) -> None:
        self.folder, self.interval, self.notices = folder, interval, Notices()
        self.redis = LocalRedis(append_only=True)
        self.redis.start()
        self.client = redis.Redis.from_url(self.redis.url)
        (folder / "data").mkdir()
        (folder / "feature_store.yaml").write_text(feature_store("watched", self.redis.url))
        self.define()
        self.pace(udf="0", service="0")
        now = time.time()
        homes = {**dict.fromkeys(DRIVERS, now), **dict.fromkeys(GONE, now - 7200)}
        self.write("home", "zone", homes)
        self.cars = dict.fromkeys(DRIVERS, now)
        self.write("car", "plate", self.cars)
        env = {
            "REDIS_URL": self.redis.url, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
            "HEADWATER_GROUP": f"watched-{time.time_ns()}", "HEADWATER_BATCH_RECORDS": "40",
            "HEADWATER_LOG_FLUSH_SECONDS": "0.5", "HEADWATER_DRIFT_SECONDS": "0",
            "HEADWATER_REDIS_TIMEOUT_SECONDS": "0.5", "HEADWATER_FEATURE_LOG_QUEUE": "5000",
            "HEADWATER_FEATURE_LOG": str(folder / "served"), "HEADWATER_FEATURE_LOG_SECONDS": "1",
        }  # fmt: skip
        self.programs = Programs(folder, env)
        self.second = Programs(folder, env)
        self.programs.headwater("apply")
        self.workers = [self.programs.ingest(), self.second.ingest()]
        self.service = self.programs.serve()
        self.load = Load(kafka.bootstrap, self.programs.url)
        self.hour = time.time() // 3600 * 3600
        self.tolls(range(-24 * TOLL_DAYS, -1), TOLLS)
        self.tolls(range(-1, 0), TOLLS // 10)  # a tenth of what there should be
        self.tolls(range(1), TOLLS)
        self.load.start()
        fresh = '"state":"fresh"'
        until(lambda: self.programs.get("/api/v1/freshness").count(fresh) == 2, 90)
        self.load.asks = True
        self.verifier = self.verify()
        self._watch()

    def tolls(self, hours: range, count: int, usual: float = 10) -> None:
        """So many tolls in each of some hours; hour 0 is the one in which the project began."""
        chance = random.Random(hours.start)
        for hour in hours:
            for i in range(count):
                ago = time.time() - (self.hour + 3600 * (hour + i / count))
                value = ride(i % 20, chance.gauss(usual, 2), ago)
                self.load.producer.send(TOLL_TOPIC, value, partition=0)
        self.load.producer.flush()

    def define(self, max_drift: str = "", more: str = "") -> None:
        text = DEFINITIONS.replace("FOLDER", str(self.folder)).replace("MAX_DRIFT", max_drift)
        text = text.replace("SLO", f"{15 * self.interval}s")
        (self.folder / "definitions.py").write_text(text + more)

    def pace(self, **of: str) -> None:
        """How long code of the project's takes: of the udf an event, of the service a request."""
        for who, seconds in of.items():
            new = self.folder / f"{who}-pace.new"
            new.write_text(seconds)
            new.replace(self.folder / f"{who}-pace")

    def write(self, view: str, feature: str, times: dict[int, float], plus: int = 0) -> None:
        """The file of a batch view: each driver's number."""
        at = pa.array([int(t * 1e6) for t in times.values()], pa.timestamp("us", tz="UTC"))
        numbers = [driver + plus for driver in times]
        table = pa.table({"driver_id": list(times), feature: numbers, "at": at})
        pq.write_table(table, self.folder / "data" / f"{view}.parquet")

    def verify(self) -> subprocess.Popen[bytes]:
        words = ("verify", "--every", "3", "--repo", str(self.folder), "--json")
        return self.programs.start("headwater.cli", *words)

    def _watch(self) -> None:
        ports = free_ports(4)
        self.prometheus, self.alertmanager, self.victoria, vmalert = (
            f"127.0.0.1:{port}" for port in ports
        )
        out = self.folder / "monitoring"
        workers = [
            word for one in (self.programs, self.second)
            for word in ("--worker", f"127.0.0.1:{one.env['HEADWATER_METRICS_PORT']}")
        ]  # fmt: skip
        self.programs.headwater(
            "monitoring", "--out", str(out), "--interval", str(self.interval),
            "--service", self.programs.url.removeprefix("http://"), *workers,
            "--alertmanager", self.alertmanager,
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
                   f"--storage.path={data}/a", f"--web.listen-address={self.alertmanager}",
                   "--cluster.listen-address="),
            _start("victoria-metrics", f"-storageDataPath={data}/v", "-memory.allowedPercent=10",
                   f"-httpListenAddr={self.victoria}", f"-promscrape.config={out}/vmagent.yml",
                   "-search.latencyOffset=1s"),
            _start("vmalert", f"-rule={out}/rules.yml", f"-httpListenAddr={vmalert}",
                   f"-datasource.url=http://{self.victoria}",
                   f"-evaluationInterval={self.interval}s",
                   "-datasource.lookback=0s", f"-notifier.url={self.notices.url}"),
        ]  # fmt: skip
        # They listen, and answer with 503, before they can be asked.
        for server, path in (
            (self.prometheus, "-/ready"), (self.alertmanager, "-/ready"),
            (self.victoria, "health"), (vmalert, "health"),
        ):  # fmt: skip
            until(partial(answers, f"http://{server}/{path}"))

    def query(self, server: str, expr: str) -> list[Any]:
        url = f"http://{server}/api/v1/query?" + urllib.parse.urlencode({"query": expr})
        with urllib.request.urlopen(url, timeout=30) as answer:
            found: list[Any] = json.load(answer)["data"]["result"]
        return found

    @contextmanager
    def fires(
        self, *names: str, explains: tuple[str, ...] = (), may: tuple[str, ...] = (),
        repair: Callable[[], object] = lambda: None,
    ) -> Iterator[Callable[..., None]]:  # fmt: skip
        """The fault is made inside; `names` are told of it, and then it is repaired.

        No page but these, and what `may`, goes out, also while `explains` fire in Prometheus. What
        it gives waits until some of them were told.
        """
        before = len(self.notices.log)

        def told(*some: str) -> None:
            until(
                lambda: set(some) <= self.notices.fired(before), 120 * self.interval,
                lambda: f"not told: {set(some) - self.notices.fired(before)}",
            )  # fmt: skip

        try:
            yield told
            told(*names)
            for name in explains:
                until(
                    lambda name=name: self._fires(name), 60 * self.interval,
                    f"{name} does not fire",
                )  # fmt: skip
            pages = self.notices.pages(before)
            assert pages <= {*names, *may}, f"also told: {pages - {*names, *may}}"
        finally:
            repair()

    def resolved(self, *names: str) -> None:
        until(
            lambda: not set(names) & self.notices.firing(), 90 * self.interval,
            lambda: f"still told: {set(names) & self.notices.firing()}",
        )  # fmt: skip

    def settled(self) -> None:
        """No alert is active any more.

        Alertmanager is asked, for it tells nobody of the end of what another alert hides.
        """
        until(
            lambda: not self.active(), 200 * self.interval, lambda: f"still active: {self.active()}"
        )

    def active(self) -> list[dict[str, str]]:
        """The labels of each alert that Alertmanager holds."""
        url = f"http://{self.alertmanager}/api/v2/alerts"
        with urllib.request.urlopen(url, timeout=30) as told:
            return [alert["labels"] for alert in json.load(told)]

    def _fires(self, name: str) -> bool:
        expr = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
        return bool(self.query(self.prometheus, expr))

    def close(self) -> None:
        self.load.close()
        self.client.close()
        processes = [*self.watchers, self.verifier, self.service, *self.workers]
        for one in processes:
            one.send_signal(signal.SIGCONT)
            one.terminate()
        for one in processes:
            one.wait(30)
        self.redis.close()
        self.notices.server.shutdown()
        self.notices.server.server_close()


def _start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def watched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, kafka: LocalKafka
) -> Iterator[Watched]:
    missing = [name for name in SERVERS if shutil.which(name) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"not installed: {', '.join(missing)} (README says how)")
    assert not missing
    kafka.create_topics({TOPIC: 2, TOLL_TOPIC: 1})
    with ExitStack() as stack:
        running = Watched(tmp_path_factory.mktemp("watched"), kafka, request.module.INTERVAL)
        stack.callback(running.close)
        yield running
