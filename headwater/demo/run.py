"""`headwater demo` and `headwater up`: the local stack, a worker and the service."""

from __future__ import annotations

import heapq
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from headwater import catalog_cache
from headwater.cli import terminal
from headwater.demo import flights, leftovers
from headwater.errors import HeadwaterError
from headwater.local import LocalStack
from headwater.local.process import free_ports, listens
from headwater.settings import BLOCKED_PORTS, UI_PORT, Settings

SERVICE = "departure_delay_v1"
#: Seconds that worker and service take to listen where their loops are compiled already, and the
#: longest that they are waited for: the first start of an installation compiles them.
_USUAL_START, _LONGEST_START = 10.0, 600.0
console = terminal.console()


def demo(repo: Path, once: bool) -> None:
    """Register, stream a year, materialize, serve, train, watch; `once` ends after that."""
    catalog_cache.configuration(repo)  # what is no project is refused before anything is started
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _Demo(repo, Path(folder)).run(once)
    except KeyboardInterrupt:
        console.print("Stopped.")


def up(repo: Path, fresh: bool = False) -> None:
    """The local stack, a project applied to it, a worker and the service, until Ctrl-C.

    What Redis and Kafka hold stays in `data/stack` of the project, as the offline log does beside
    it: offsets in the log mean something only together with the broker that gave them. `fresh`
    moves all of it aside first.
    """
    catalog_cache.configuration(repo)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    held = repo / "data" / "stack"
    if fresh:
        for path in leftovers.set_aside(repo, datetime.now(UTC)):
            console.print(f"  moved aside: {path}", soft_wrap=True)
    goes_on = (held / "kafka" / "log").exists()
    with tempfile.TemporaryDirectory() as folder, _stack(held) as stack:
        run = _Demo(repo, Path(folder))
        run.env.update(stack.env)
        try:
            run.done("apply", run.headwater("apply"))
            catalog = catalog_cache.load(repo)
            if stack.kafka.kind == "mock" or (stack.kafka.kind == "apache" and not goes_on):
                leftovers.refuse_foreign_logs(catalog, stack.kafka.description)
            streams = catalog.streams.values()
            stack.kafka.create_topics({t: 1 for stream in streams for t in stream.topics})
            run.live()
            console.print("For other terminals:")
            for name, value in stack.env.items():
                console.print(f"  export {name}={value}", soft_wrap=True)
            console.print(
                f"Service at {run.address}, its pages at {run.pages}. Ctrl-C stops everything."
            )
            run.stay()
        except KeyboardInterrupt:
            console.print("Stopped.")
        finally:
            run.stop()


class _Demo:
    """One run: its processes, and the environment that they share."""

    def __init__(self, repo: Path, folder: Path) -> None:
        self.repo, self.folder = repo, folder
        port = int(os.environ.get("HEADWATER_PORT") or _free(6566))
        pages = int(os.environ.get("HEADWATER_UI_PORT") or 0)
        if not pages and port in BLOCKED_PORTS:
            pages = _free(UI_PORT)
        self.address = f"http://127.0.0.1:{port}"
        self.pages = f"http://127.0.0.1:{pages or port}/ui/"
        self.env = {
            **os.environ,
            "HEADWATER_PORT": str(port),
            "HEADWATER_UI_PORT": str(pages),
            "HEADWATER_METRICS_PORT": str(free_ports(1)[0]),
        }
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._mock = False

    def run(self, once: bool) -> None:
        data = self.repo / "data"
        data.mkdir(exist_ok=True)
        shutil.rmtree(data / "log", ignore_errors=True)  # a new broker starts at offset 0 again
        console.print("[bold]1 Stack[/] starting Redis and Kafka, preparing a year of flights ...")
        applying = self.headwater("apply", stdout=subprocess.DEVNULL)
        with _stack() as stack:
            stack.kafka.create_topics({"departures": 4, "arrivals": 4})
            self.env.update(stack.env)
            self._mock = stack.kafka.kind == "mock"
            try:
                self._steps(data, applying)
                if not once:
                    self._trickle()
            finally:
                self.stop()

    def _steps(self, data: Path, applying: subprocess.Popen[bytes]) -> None:
        year = flights.load(datetime.now(UTC))
        year.write_batch_sources(data)
        labels = data / "labels.parquet"
        pq.write_table(year.labels, labels)
        past = self._write_events(year)
        self.done("apply", applying)
        console.print("[bold]2 Register[/] `headwater apply` wrote Feast's registry")
        console.print("[bold]3 Stream[/] the year so far through Kafka and the ingest worker")
        self._stream(past)
        console.print("[bold]4 Batch[/] `headwater materialize`")
        self.done("materialize", self.headwater("materialize"))
        console.print("[bold]5 Serve[/] one vector, with statuses")
        self.live()
        self._show_vector(year.labels)
        console.print("[bold]6 Train[/] a training set of all flights, right in time")
        self.done("training-set", self.headwater(
            "training-set", "--service", SERVICE, "--entities", str(labels),
            "--out", str(data / "train.parquet")))  # fmt: skip
        self._show_training_set(data)
        console.print("[bold]7 Watch[/] freshness and null rates")
        self.headwater("status").wait()
        self._show_nulls()
        self._show_next()

    # -- steps -----------------------------------------------------------------------------------

    def _write_events(self, year: flights.Flights) -> int:
        """Both topics' events in one order of time: `past.parquet` and `live.parquet`."""
        total = 0
        for at, name in enumerate(("past", "live")):
            streams = [
                _events(topic, flights.split(getattr(year, topic), year.now)[at])
                for topic in ("departures", "arrivals")
            ]
            rows = list(heapq.merge(*streams, key=lambda row: row[0]))
            columns = zip(*rows, strict=True) if rows else ([], [], [], [])
            names = ["event_us", "topic", "key", "value"]
            types = [pa.int64(), pa.string(), pa.binary(), pa.binary()]
            arrays = [pa.array(list(c), t) for c, t in zip(columns, types, strict=True)]
            pq.write_table(pa.table(arrays, names=names), self.folder / f"{name}.parquet")
            total = total or len(rows)
        return total

    def _stream(self, total: int) -> None:
        start = time.monotonic()
        servers = self.env["KAFKA_BOOTSTRAP_SERVERS"]
        if self._mock:
            self._stream_paced(servers, total)
            return
        self._replay(servers, "past").wait()
        produced = time.monotonic() - start
        worker = self.child("ingest", "ingest", "--repo", str(self.repo), "--until-end")
        begun = time.monotonic()
        with _bar("events", total) as move:
            while worker.poll() is None:
                move(self._applied())
                time.sleep(0.25)
            move(total)
        seconds = time.monotonic() - begun
        self.done("ingest", worker)
        console.print(
            f"  {total:,} events: sent in {produced:.1f} s, "
            f"taken in within {seconds:.1f} s ({total / seconds:,.0f} events/s, start included)"
        )

    def _stream_paced(self, servers: str, total: int) -> None:
        """The mock broker keeps little, so the events are sent no faster than they are taken in."""
        begun = time.monotonic()
        worker = self.child("ingest", "ingest", "--repo", str(self.repo))
        metrics = f"http://127.0.0.1:{self.env['HEADWATER_METRICS_PORT']}/metrics"
        replay = self._replay(servers, "past", "--paced-by", metrics)
        with _bar("events", total) as move:
            while self._applied() < total and worker.poll() is None:
                move(self._applied())
                time.sleep(0.25)
        self.done("replay-past", replay)
        worker.terminate()
        self.done("ingest", worker)
        seconds = time.monotonic() - begun
        console.print(
            f"  {total:,} events sent and taken in within {seconds:.1f} s "
            f"({total / seconds:,.0f} events/s, start included)"
        )

    def _applied(self) -> int:
        try:
            text = _get(f"http://127.0.0.1:{self.env['HEADWATER_METRICS_PORT']}/metrics")
        except OSError:
            return 0
        lines = [x for x in text.splitlines() if x.startswith("featurestore_ingest_records_total")]
        return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))

    def live(self) -> None:
        """Start a worker and the service; both take in and answer when this returns."""
        begun, told = time.monotonic(), False
        self.child("worker", "ingest", "--repo", str(self.repo))
        self.child("service", "service", "--repo", str(self.repo))
        # A worker shows its metrics once its loops are compiled: what is sent after that is served
        # at once.
        for name, port in {"service": "HEADWATER_PORT", "worker": "HEADWATER_METRICS_PORT"}.items():
            while not listens(int(self.env[port])):
                waited = time.monotonic() - begun
                if self._children[name].poll() is not None:
                    raise HeadwaterError(f"the {name} has ended: {self._tail(name)}")
                if waited > _LONGEST_START:
                    raise HeadwaterError(
                        f"the {name} does not listen after {waited:.0f} s; the machine is too "
                        f"busy, or its log says why: {self._tail(name) or 'it is empty'}"
                    )
                if waited > _USUAL_START and not told:
                    console.print("  The first start compiles the loops, once: about a minute ...")
                    told = True
                time.sleep(0.05)

    def _show_vector(self, labels: pa.Table) -> None:
        row = labels.slice(len(labels) // 2, 1).to_pylist()[0]
        names = ("origin", "dest", "carrier", "tailnum", "sched_hour", "sched_weekday")
        body = {"feature_service": SERVICE, "entities": {name: [row[name]] for name in names}}
        answer = json.loads(_get(f"{self.address}/get-online-features", body))
        table = Table("feature", "value", "status", "event time", box=box.SIMPLE)
        names = answer["metadata"]["feature_names"]
        for name, found in zip(names, answer["results"], strict=True):
            value, at = found["values"][0], found["event_timestamps"][0]
            shown = f"{value:.6g}" if isinstance(value, float) else str(value)
            # Feast's answer says 1970 for what has no event time, such as the keys themselves.
            when = "-" if at.startswith("1970-01-01T00:00:00") else at[:19].replace("T", " ")
            table.add_row(name, shown, found["statuses"][0], when)
        console.print(table)

    def _show_training_set(self, data: Path) -> None:
        manifest = json.loads((data / "train.parquet.manifest.json").read_text())
        columns = len(manifest["null_counts"])
        console.print(
            f"  {manifest['rows']:,} rows by {columns} features in "
            f"{data / 'train.parquet'}; manifest beside it"
        )

    def _show_nulls(self) -> None:
        values: dict[str, float] = {}
        nulls: dict[str, float] = {}
        for line in _get(f"{self.address}/metrics").splitlines():
            if line.startswith(("featurestore_online_values_total", "featurestore_online_nulls_t")):
                feature = line.split('feature="', 1)[1].split('"', 1)[0]
                into = values if "values_total" in line else nulls
                into[feature] = into.get(feature, 0.0) + float(line.rsplit(" ", 1)[1])
        served = {name: n for name, n in values.items() if n}
        empty = [f"{n} ({nulls[n] / served[n]:.0%})" for n in sorted(served) if nulls.get(n)]
        console.print(f"  Null in the vectors served: {', '.join(empty) or 'none'}")

    def _show_next(self) -> None:
        console.print("[bold]Try next[/]")
        body = '{"feature_service":"airport_board","entities":{"origin":["JFK","LGA"]}}'
        console.print(f"  curl -s {self.address}/get-online-features -d '{body}'", soft_wrap=True)
        console.print(
            f"  python -c \"import pandas; print(pandas.read_parquet('"
            f"{self.repo / 'data' / 'train.parquet'}').describe())\"",
            soft_wrap=True,
        )
        docs = self.pages.removesuffix("ui/") + "docs"
        console.print(f"  {self.pages}   {docs}   {self.address}/metrics")

    def _trickle(self) -> None:
        """Live events as their time comes, until Ctrl-C."""
        servers = self.env["KAFKA_BOOTSTRAP_SERVERS"]
        self._children["live"] = self._replay(servers, "live", "--live")
        console.print("Live flights go on arriving. Ctrl-C stops everything.")
        self.stay()

    # -- processes -------------------------------------------------------------------------------

    def child(self, name: str, module: str, *more: str) -> subprocess.Popen[bytes]:
        """Start `python -P -m module`; its output goes to a log in the run's folder."""
        command = [sys.executable, "-P", "-m", module, *more]
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            self._children[name] = subprocess.Popen(command, stdout=out, stderr=out, env=self.env)
        return self._children[name]

    def _replay(self, servers: str, name: str, *more: str) -> subprocess.Popen[bytes]:
        events = str(self.folder / f"{name}.parquet")
        return self.child(
            f"replay-{name}", "ingest.replay", "--servers", servers, "--events", events, *more
        )

    def headwater(self, *words: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "headwater.cli", *words, "--repo", str(self.repo)]
        return subprocess.Popen(command, env=self.env, stdout=stdout)

    def done(self, what: str, child: subprocess.Popen[bytes]) -> None:
        if child.wait():
            code = child.returncode
            raise HeadwaterError(f"{what} ended with exit code {code}. {self._tail(what)}")

    def _tail(self, name: str) -> str:
        log = self.folder / f"{name}.log"
        return log.read_text(errors="replace")[-600:] if log.exists() else ""

    def stay(self) -> None:
        while all(
            c.poll() is None for n, c in self._children.items() if n in {"worker", "service"}
        ):
            time.sleep(0.5)
        raise HeadwaterError(f"a process has ended: {self._tail('worker')} {self._tail('service')}")

    def stop(self) -> None:
        for child in self._children.values():
            child.terminate()
        for child in self._children.values():
            child.wait(30)


def _free(port: int) -> int:
    """That port, or a free one where something listens there."""
    return free_ports(1)[0] if listens(port) else port


def _events(topic: str, table: pa.Table) -> Iterator[tuple[int, str, bytes, bytes]]:
    for event_us, key, value in flights.messages(table, flights.TOPIC_KEYS[topic]):
        yield event_us, topic, key, value


def _stack(folder: Path | None = None) -> LocalStack:
    """Its data go with it, or stay in a folder."""

    def say(line: str) -> None:
        console.print(f"  {line}", soft_wrap=True)

    return LocalStack(Settings.from_env(os.environ), say, folder)


@contextmanager
def _bar(what: str, total: int) -> Iterator[Any]:
    columns = (TextColumn(f"  {what}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def _get(url: str, body: Any = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(url, data, 30) as answer:  # noqa: S310 (our own service)
        text: str = answer.read().decode()
    return text
