"""How fast a view is rebuilt from the log, what an append costs, and what opening a log costs.

`python tests/benchmarks/bench_rebuild.py [events] [commits]`
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import redis
from deltalake import DeltaTable

from headwater.catalog import (
    AggregationPlan,
    Catalog,
    FieldPlan,
    JoinKeyPlan,
    StreamSourcePlan,
    ViewPlan,
)
from headwater.local import LocalRedis
from headwater.offline.log import EventLog, log_schema
from headwater.offline.upkeep import maintain
from headwater.online.values import ViewReader
from headwater.online.writer import OnlineWriter
from headwater.rebuild import Rebuilder

KEYS, PARTITIONS, HOUR, MINUTE = 100_000, 4, 3_600_000_000, 60_000_000
FIELDS = (
    FieldPlan("user", "INT64"), FieldPlan("amount", "DOUBLE"), FieldPlan("items", "INT64"),
    FieldPlan("city", "STRING"), FieldPlan("session", "STRING"), FieldPlan("at", "UNIX_TIMESTAMP"),
)  # fmt: skip
CHANCE = np.random.default_rng(1)


def catalog(folder: Path) -> Catalog:
    """Count, sum, mean, min and max over 1 h and 24 h; and a row view."""
    made = tuple(
        AggregationPlan(f"{function}_{hours}", "amount", function, hours * HOUR,
                        MINUTE if hours == 1 else 15 * MINUTE, 0.0, "DOUBLE",
                        "INT64" if function == "count" else "DOUBLE")
        for hours in (1, 24) for function in ("count", "sum", "mean", "min", "max")
    )  # fmt: skip
    key = (JoinKeyPlan("user", "INT64"),)
    stream = StreamSourcePlan("s", ("t",), "", "json", FIELDS, "at", log_path=str(folder / "log"))
    features = tuple(FieldPlan(a.name, a.output_type) for a in made)
    views = {
        "windows": ViewPlan("windows", "window", key, features, stream="s", aggregations=made),
        "rows": ViewPlan("rows", "row", key, FIELDS[1:4], stream="s"),
    }
    return Catalog("bench", "1", "", "", streams={"s": stream}, views=views)


def events(stream: StreamSourcePlan, n: int, partition: int, first: int, at_us: int) -> pa.Table:
    """n events of the second that begins at `at_us`."""
    times = pa.array(at_us + np.sort(CHANCE.integers(0, 1_000_000, n)))
    sessions = np.char.add("s-", CHANCE.integers(0, 1 << 30, n).astype(str))
    columns = [
        CHANCE.integers(0, KEYS, n), CHANCE.random(n) * 100, CHANCE.integers(0, 9, n),
        np.array(["Ulm", "Bern", "Graz", "Lyon"])[CHANCE.integers(0, 4, n)], sessions, times,
        pa.repeat("t", n), np.full(n, partition, np.int32), np.arange(first, first + n), times,
    ]  # fmt: skip
    schema = log_schema(stream)
    arrays = [pa.array(c).cast(f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


def fill(log: EventLog, stream: StreamSourcePlan, total: int, size: int) -> list[float]:
    """Append `total` events of the last 40 minutes; returns the seconds of each append."""
    offsets, taken, done = [0] * PARTITIONS, [], 0
    start = time.time_ns() // 1000 - 40 * MINUTE
    while done < total:
        partition = done // size % PARTITIONS
        at = start + done * 35 * MINUTE // total
        table = events(stream, size, partition, offsets[partition], at)
        offsets[partition] += size
        before = time.perf_counter()
        log.append(table, {("t", partition): offsets[partition] - 1})
        taken.append(time.perf_counter() - before)
        done += size
    return taken


def bench_rebuild(total: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = catalog(Path(folder))
        stream = found.streams["s"]
        taken = fill(EventLog(stream), stream, total, 200_000)
        print(f"append of 200,000 x 10 columns: {statistics.median(taken) * 1e3:.0f} ms")
        server = LocalRedis()
        server.start()
        try:
            client = redis.Redis.from_url(server.url)
            Rebuilder(found, client, ["windows"]).run()  # compiles
            for views in (["windows"], ["rows"], ["windows", "rows"]):
                before, cpu = time.perf_counter(), time.process_time()
                rows = Rebuilder(found, client, views).run(reset=True)
                seconds, cpu = time.perf_counter() - before, time.process_time() - cpu
                print(
                    f"rebuild of {' and '.join(views)}: {rows:,} events folded in {seconds:.1f} s, "
                    f"{rows / seconds:,.0f}/s; {rows / cpu:,.0f} per CPU-second of the rebuild"
                )
            view = found.views["windows"]
            reader, users = ViewReader(found.project, view), list(range(KEYS))
            data = OnlineWriter(client, found.project).read(reader.keys([users], KEYS))
            counts = reader.values(data, ["count_24"], time.time_ns() // 1000).values[0]
            assert sum(counts) == total
        finally:
            server.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"most resident memory: {peak:,.0f} MiB")


def bench_many_commits(commits: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stream = catalog(Path(folder)).streams["s"]
        taken = fill(EventLog(stream), stream, commits * 20, 20)
        small = statistics.median(taken[-200:]) * 1e3
        print(f"append of 20 events after {commits:,} commits: {small:.1f} ms, "
              f"worst {max(taken) * 1e3:.0f} ms (a checkpoint)")  # fmt: skip
        for when in ("before", "after"):
            before = time.perf_counter()
            table = DeltaTable(stream.log_path)
            seconds = time.perf_counter() - before
            print(
                f"opening {when} upkeep: {seconds * 1e3:.0f} ms, {len(table.file_uris()):,} files"
            )
            if when == "before":
                before = time.perf_counter()
                done = maintain(stream, 24, many=2)
                print(f"upkeep: {time.perf_counter() - before:.1f} s, {done}")


if __name__ == "__main__":
    bench_rebuild(int(sys.argv[1]) if len(sys.argv) > 1 else 4_000_000)
    bench_many_commits(int(sys.argv[2]) if len(sys.argv) > 2 else 5_000)
