"""From a producer's send to a served vector, at 10,000 events a second, through the real API.

A process sends paced events of 100,000 users. Meanwhile canaries are sent one after the other:
an event of a user nobody has seen, whose features (its row and its window) are asked of
`POST /get-online-features` until they are there.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from headwater.local.process import free_ports, listens
from tests.benchmarks import events, measure
from tests.benchmarks.measure import Report
from tests.benchmarks.stream import TOPIC, Project, applied, servers, takes

RATE = 10_000
#: Canaries that do not count: the producer connects, and the service compiles, with the first.
FIRST = 5
FIRST_CANARY = 10_000_000
FEATURES = ["user_latest:amount", "user_windows:sum_1h", "user_windows:count_24h"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 canaries instead of 400")
    parser.add_argument("--rate", type=int, default=RATE, help="events a second")
    parser.add_argument("--pace", metavar="SERVERS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.pace:
        pace(arguments.pace, arguments.rate)
        return
    canaries = 100 if arguments.quick else 400
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as both:
        report = Report(
            "latency",
            f"From send to served at {arguments.rate:,} events/s",
            measure.environment("kafka-python", "confluent-kafka"),
            ["client", "canaries", "p50 ms", "p90 ms", "p99 ms", "max ms", "of which the ask, ms",
             "worker's CPU, cores", "events/s"],
        )  # fmt: skip
        project = Project(both, rows=True).apply()
        for client in ("confluent-kafka", "kafka-python"):
            if takes("KAFKA_CLIENT", client):
                Bench(project, client, arguments.rate).run(canaries, report)
        report.note("Sent to the client library's queue, with no linger, until all features show.")
        report.finish()


class Bench:
    """One worker, one service, one paced producer."""

    def __init__(self, project: Project, client: str, rate: int) -> None:
        self.project, self.client, self.rate = project, client, rate
        self.bootstrap = project.servers.kafka.bootstrap
        self.port, self.metrics = free_ports(2)

    def run(self, canaries: int, report: Report) -> None:
        self.project.clear()
        events.fresh_topic(self.bootstrap, TOPIC)
        env = self.project.environ(
            HEADWATER_KAFKA_CLIENT=self.client, HEADWATER_GROUP=uuid.uuid4().hex,
            HEADWATER_PORT=str(self.port), HEADWATER_METRICS_PORT=str(self.metrics),
        )  # fmt: skip
        serve = [sys.executable, "-P", "-m", "service", "--repo", str(self.project.repo)]
        sender = [sys.executable, __file__, "--pace", self.bootstrap, "--rate", str(self.rate)]
        with (
            process(serve, env), process(self.project.worker(), env) as worker,
            process(sender, env),
        ):  # fmt: skip
            wait(lambda: listens(self.port) and applied(self.metrics) > 5 * self.rate)
            start, cpu, count = time.monotonic(), measure.tree_cpu(worker.pid), self._applied()
            delays, asks = self._canaries(canaries)
            seconds = time.monotonic() - start
            busy = (measure.tree_cpu(worker.pid) - cpu) / seconds
            rate = (self._applied() - count) / seconds
        p50, p90, p99, top = (float(np.percentile(delays, q)) * 1e3 for q in (50, 90, 99, 100))
        report.row(
            self.client, canaries, f"{p50:.1f}", f"{p90:.1f}", f"{p99:.1f}", f"{top:.1f}",
            f"{np.median(asks) * 1e3:.1f}", f"{busy:.2f}", rate,
        )  # fmt: skip
        report.data[self.client] = {"delays_s": delays, "ask_s": asks, "cores": busy, "rate": rate}
        assert rate > 0.95 * self.rate, f"the worker took in {rate:,.0f} events/s of {self.rate:,}"

    def _applied(self) -> int:
        return applied(self.metrics)

    def _canaries(self, count: int) -> tuple[list[float], list[float]]:
        """Seconds from each canary's send to its features; seconds of each last request."""
        client = events.producer(self.bootstrap, linger_ms=0)
        api = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        chance = random.Random(3)
        delays, asks = [], []
        for i in range(FIRST + count):
            user, amount = FIRST_CANARY + i, 1_000 + i
            body = json.dumps({"features": FEATURES, "entities": {"user_id": [user]}})
            value = {"user_id": user, "amount": amount, "at": time.time_ns() // 1_000_000}
            start = time.perf_counter()
            events.send(client, TOPIC, str(user).encode(), json.dumps(value).encode(),
                        user % events.PARTITIONS)  # fmt: skip
            client.poll(0)
            deadline = start + 20
            while True:
                asked = time.perf_counter()
                api.request("POST", "/get-online-features", body,
                            {"Content-Type": "application/json"})  # fmt: skip
                answer = json.loads(api.getresponse().read())
                seen = time.perf_counter()
                if served(answer) == [amount, amount, 1]:
                    break
                assert seen < deadline, f"a canary is not served after 20 s: {answer}"
                time.sleep(0.001)
            delays.append(seen - start)
            asks.append(seen - asked)
            time.sleep(chance.uniform(0.0, 0.05))  # at no fixed phase of the worker's loop
        client.flush(10)
        api.close()
        return delays[FIRST:], asks[FIRST:]


def served(answer: dict[str, object]) -> list[object]:
    """The values of FEATURES in an answer of Feast's format, by their order there."""
    assert "metadata" in answer, f"no vector but {answer}"
    names = answer["metadata"]["feature_names"]  # type: ignore[index]
    columns = {
        name: result["values"][0]
        for name, result in zip(names, answer["results"], strict=True)  # type: ignore[arg-type]
    }
    return [columns[feature.split(":")[1]] for feature in FEATURES]


def pace(bootstrap: str, rate: int) -> None:
    """Send events at an even rate, each with the time at which it is sent, until killed."""
    client = events.producer(bootstrap, linger_ms=5)
    load = events.make(1_000_000)
    sent, start = 0, time.monotonic()
    while True:
        due = int((time.monotonic() - start) * rate)
        if due > sent:
            at = np.arange(sent, due) % load.n
            part = events.Events(*(column[at] for column in load))
            part = part._replace(at_ms=np.full(len(at), time.time_ns() // 1_000_000))
            for value, user, partition in zip(
                events.encoded(part, 0, part.n), part.user.tolist(), part.partition().tolist(),
                strict=True,
            ):  # fmt: skip
                events.send(client, TOPIC, str(user).encode(), value, partition)
            sent = due
        client.poll(0)
        time.sleep(0.002)


@contextmanager
def process(command: Sequence[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(command, env=env)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def wait(condition: object, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "the programs do not come up"
        time.sleep(0.1)


if __name__ == "__main__":
    main()
