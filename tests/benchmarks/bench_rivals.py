"""Windows on a stream, side by side: Headwater, Quix Streams and Flink SQL on one topic.

Each engine computes count, sum, mean, min and max of an amount for each of 100,000 users and each
minute, from the same topic of 150-byte JSON events on the same two cores, with commits or
checkpoints on. Headwater does more: its one-minute tiles feed windows of 1 h, coarser ones windows
of 24 h, and every state it writes to Redis is servable. What the rivals write to Kafka is read
back and compared with numpy, and so are Headwater's windows.

Rates are taken once a quarter of the events is done, so that no engine pays for its warm-up.
The rivals live in environments of their own in ~/.cache/headwater/bench, made on first use.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from tests.benchmarks import events, measure
from tests.benchmarks.events import Events, Tiles
from tests.benchmarks.measure import Report, Run, middle
from tests.benchmarks.stream import TOPIC, Project, Servers, servers, takes

HERE = Path(__file__).parent / "rivals"
TILE_MS = 60_000
CONNECTOR = "org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer events, one run each")
    parser.add_argument("--events", type=int, help="instead of 3M (600k with --quick)")
    parser.add_argument("--runs", type=int, help="instead of 3 (1 with --quick)")
    parser.add_argument("--only", default="", help="engines whose name holds this")
    arguments = parser.parse_args()
    total = arguments.events or (600_000 if arguments.quick else 3_000_000)
    runs = arguments.runs or (1 if arguments.quick else 3)
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as both:
        report = Report(
            "rivals",
            "One-minute tiles of 100,000 users, side by side",
            measure.environment("confluent-kafka", "kafka-python") + "; " + versions(),
            ["engine", "events", "events/s", "events per CPU-second", "peak MB",
             "Headwater is, by time", "by CPU", "tiles or values checked"],
        )  # fmt: skip
        sent = events.make(total)
        events.produce(both.kafka.bootstrap, TOPIC, sent)
        engines = [e for e in Bench(both, sent).engines() if arguments.only in e.name]
        compare(report, engines, runs)
        report.finish()


@dataclasses.dataclass(frozen=True)
class Engine:
    """`run` measures it once and returns how many of its values were found right."""

    name: str
    run: Callable[[], tuple[Run, int]]


def compare(report: Report, engines: list[Engine], runs: int) -> None:
    """Rounds of every engine in turn; ratios are taken within a round, medians over them."""
    found: dict[str, list[tuple[Run, int]]] = {engine.name: [] for engine in engines}
    for _ in range(runs):
        for engine in engines:
            found[engine.name].append(engine.run())
            rate, cpu_rate = found[engine.name][-1][0].warm()
            print(f"  {engine.name}: {rate:,.0f}/s, {cpu_rate:,.0f} per CPU-second", flush=True)
    ours = [run.warm() for run, _ in found[engines[0].name]]
    for engine in engines:
        done = [run for run, _ in found[engine.name]]
        rates = [run.warm() for run in done]
        by_time = middle([our[0] / rate[0] for our, rate in zip(ours, rates, strict=True)])
        by_cpu = middle([our[1] / rate[1] for our, rate in zip(ours, rates, strict=True)])
        report.row(
            engine.name, done[0].events, middle([rate for rate, _ in rates]),
            middle([rate for _, rate in rates]), middle([run.peak_mb for run in done]),
            f"{by_time:.1f}x", f"{by_cpu:.1f}x", sum(checked for _, checked in found[engine.name]),
        )  # fmt: skip
        report.data[engine.name] = [dataclasses.asdict(run) for run in done]


class Bench:
    """The engines on one topic."""

    def __init__(self, both: Servers, sent: Events) -> None:
        self.servers, self.sent = both, sent
        self.truth = events.tiles(sent, TILE_MS)

    def engines(self) -> list[Engine]:
        project = Project(self.servers, rows=False).apply()
        clients = [c for c in ("confluent-kafka", "kafka-python") if takes("KAFKA_CLIENT", c)]
        return [
            *[Engine(f"Headwater, {c}", lambda c=c: self.headwater(project, c)) for c in clients],
            Engine("Quix Streams, RocksDB, to Kafka", self.quix),
            Engine("Flink SQL, discarding", lambda: self.flink("", 2)),
            Engine("Flink SQL, to Kafka", lambda: self.flink("flink-tiles", 2)),
            Engine("Flink SQL, discarding, parallelism 1", lambda: self.flink("", 1)),
        ]

    def headwater(self, project: Project, client: str) -> tuple[Run, int]:
        log = not takes("LOG", "off")
        settings = {"HEADWATER_KAFKA_CLIENT": client} | ({} if log else {"HEADWATER_LOG": "off"})
        run = project.ingest(self.sent.n, settings)
        return run, project.check(self.sent, logged=log)

    def quix(self) -> tuple[Run, int]:
        """A prefix of the topic: at its rate the whole would take minutes."""
        python = installed("quix") / "bin" / "python"
        total, output = min(self.sent.n // 3, 300_000), "quix-tiles"
        events.fresh_topic(self.servers.kafka.bootstrap, output)
        words = [TOPIC, output, str(total), str(TILE_MS), str(events.DISORDER_MS)]
        run = self._rival([str(python), str(HERE / "quix_tiles.py")], words, total)
        found = [
            (int(key), row["start"], *(row[name] for name in ("count", "total", "least", "most")))
            for key, row in read_back(self.servers.kafka.bootstrap, output)
        ]
        return run, self._check(found)

    def flink(self, output: str, parallelism: int) -> tuple[Run, int]:
        home = installed("flink")
        if output:
            events.fresh_topic(self.servers.kafka.bootstrap, output)
        numbers = [self.sent.n, TILE_MS, events.DISORDER_MS, parallelism]
        words = [TOPIC, output, *map(str, numbers), str(connector())]
        command = [str(home / "bin" / "python"), str(HERE / "flink_tiles.py")]
        run = self._rival(command, words, self.sent.n)
        if not output:
            return run, 0
        found = [
            (row["user_id"], millis(row["start_at"]),
             *(row[name] for name in ("n", "total", "least", "most")))
            for _, row in read_back(self.servers.kafka.bootstrap, output)
        ]  # fmt: skip
        assert len(found) == len(self.truth.user), "Flink's tiles are not all there"
        return run, self._check(found)

    def _rival(self, command: list[str], words: list[str], total: int) -> Run:
        folder = Path(tempfile.mkdtemp(dir=self.servers.folder))
        done = folder / "done"
        home = Path(command[0]).parent
        # Both find their own Python on PATH; Flink's JVM asks for it.
        env = {**os.environ, "PATH": f"{home}{os.pathsep}{os.environ['PATH']}"}
        run = measure.run(
            [[*command, self.servers.kafka.bootstrap, *words, str(folder)]],
            [env],
            lambda: int(done.read_text() or 0) if done.exists() else 0,
            total,
            log=folder / "log",
            outlives=True,
        )
        shutil.rmtree(folder)
        return run

    def _check(self, found: list[tuple[Any, ...]]) -> int:
        """Each tile that an engine has closed equals numpy's; returns how many there are."""
        user, start, *values = (np.array(column) for column in zip(*found, strict=True))
        known = self.truth.user << 42 | self.truth.start_ms
        wanted = user.astype(np.int64) << 42 | start.astype(np.int64)
        at = np.searchsorted(known, wanted)
        assert len(np.unique(wanted)) == len(wanted), "a tile was written twice"
        assert np.array_equal(known[at], wanted), "a tile has no events"
        for name, column in zip(Tiles._fields[2:], values, strict=True):
            right = np.isclose(column, getattr(self.truth, name)[at], rtol=1e-9, atol=0)
            assert right.all(), f"{(~right).sum():,} tiles have a wrong {name}"
        return len(found)


def read_back(bootstrap: str, topic: str) -> list[tuple[bytes, dict[str, Any]]]:
    """(key, decoded value) of every message of a topic."""
    client = Consumer({"bootstrap.servers": bootstrap, "group.id": "check"})
    partitions = client.list_topics(topic, timeout=30).topics[topic].partitions
    left = 0
    for partition in partitions:
        left += client.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)[1]
    client.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    found: list[tuple[bytes, dict[str, Any]]] = []
    while len(found) < left:
        found += [(m.key(), json.loads(m.value())) for m in client.consume(10_000, 10.0)]
    client.close()
    return found


def millis(text: str) -> int:
    """A SQL timestamp ("2026-01-01 10:00:00") in UTC, in ms since the epoch."""
    return int(np.datetime64(text.replace(" ", "T"), "ms").astype(np.int64))


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "headwater" / "bench"


def installed(name: str) -> Path:
    """A rival's virtual environment, made from its pinned requirements when they are new."""
    requirements = HERE / f"{name}.txt"
    stamp = hashlib.blake2b(requirements.read_bytes(), digest_size=6).hexdigest()
    home = cache() / name
    ready = home / "ready"
    if ready.exists() and ready.read_text() == stamp:
        return home
    print(f"Installing {name} into {home}, once ...", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    python = str(home / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    pip = (
        ["uv", "pip", "install", "-q", "--python", python]
        if shutil.which("uv")
        else [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    )
    subprocess.run([*pip, "--require-hashes", "-r", str(requirements)], check=True)
    ready.write_text(stamp)
    return home


def connector() -> Path:
    """Flink's Kafka connector, which its wheels lack; fetched once with Maven."""
    _, name, version = CONNECTOR.split(":")
    jar = cache() / f"{name}-{version}.jar"
    if not jar.exists():
        command = ["mvn", "-q", "-B", "-C", _COPY, f"-Dartifact={CONNECTOR}"]
        subprocess.run([*command, f"-DoutputDirectory={jar.parent}"], check=True)
    return jar


def versions() -> str:
    """The rivals' pinned versions."""
    pinned = [(HERE / f"{name}.in").read_text().strip() for name in ("quix", "flink")]
    return ", ".join(line.replace("==", " ") for line in pinned)


if __name__ == "__main__":
    main()
