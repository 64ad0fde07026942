"""What `bench_offline.py` compares: inputs, and each engine's way to the same answer.

Run as a program it does one case by one engine and prints seconds and peak memory as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

US = pa.timestamp("us", tz="UTC")
START = 1_700_000_000_000_000
SPAN = 90 * 86_400_000_000
HOUR = 3_600_000_000
VIEWS, FEATURES, ENTITIES = 3, 10, 10_000
#: Without a limit Feast joins each label to its whole history: over 14 GB and six minutes here.
TTL_DAYS = 7
#: Windows with a hop of one microsecond, which is all that SQL's RANGE can say.
WINDOWS = {"1h": HOUR, "24h": 24 * HOUR, "7d": 168 * HOUR}
INTERVALS = {"1h": "INTERVAL 1 HOUR", "24h": "INTERVAL 24 HOURS", "7d": "INTERVAL 7 DAYS"}
SIZES = {  # rows in each view, labels, entities
    "rows": (5_000_000, 500_000, ENTITIES),
    "windows": (5_000_000, 500_000, ENTITIES),
    "materialize": (1_000_000, 0, 1_000_000),
    "profile": (10_000_000, 0, ENTITIES),
    "long": (100_000_000, 10_000_000, 1_000_000),
    "long_tenth": (10_000_000, 1_000_000, 1_000_000),
}
#: Feast's shares of the entities, since all of them take it many minutes: what one more entity
#: costs from the first to the second is what each of the rest does.
FEAST_SHARES = (0.01, 0.03)
#: Calls of an engine after its first; their median counts. Odd.
RUNS = 3
#: Memory of the long cases, bytes.
LIMIT = 4_000_000_000


class Watch:
    """Seconds on the clock, and of this process's threads, since it was made."""

    wall, cpu = 1.0, 0.0  # of the last one that was stopped

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def stop(self) -> float:
        Watch.wall = time.perf_counter() - self._wall
        Watch.cpu = time.process_time() - self._cpu
        return Watch.wall


def several(once: Callable[[], Any]) -> tuple[float, Any, dict[str, Any]]:
    """Seconds of the median of `RUNS` calls, the last one's answer, and the first call's seconds,
    which stand apart: a process's memory is touched for the first time only once."""
    watch = Watch()
    once()
    first = watch.stop()
    taken, answer = [], None
    for _ in range(RUNS):
        del answer
        watch = Watch()
        answer = once()
        taken.append((watch.stop(), Watch.cpu))
    Watch.wall, Watch.cpu = sorted(taken)[RUNS // 2]
    return Watch.wall, answer, {"first": first}


def sizes(case: str, scale: float) -> tuple[int, int, int]:
    rows, labels, entities = SIZES[case]
    return int(rows * scale), int(labels * scale), entities


def views_of(case: str) -> int:
    return VIEWS if case in {"rows", "materialize"} else 1


def features_of(case: str) -> int:
    if case == "windows":
        return 1
    return VIEWS * FEATURES if case.startswith("long") else FEATURES


def make(case: str, folder: Path, scale: float) -> None:
    """Write the case's Parquet files, in order of time as a log is, unless they are there."""
    rows, labels, entities = sizes(case, scale)
    done = folder / f"{case}.done"
    if done.exists() and done.read_text() == str(scale):
        return
    views = views_of(case)
    for view in range(views):
        _write_view(folder / f"{case}.v{view}.parquet", view, rows, entities, case)
    if labels:
        chance = np.random.default_rng(99)
        times = chance.integers(START, START + SPAN, labels)
        frame = {
            "label_id": np.arange(labels),
            "entity": chance.integers(0, entities, labels),
            "event_timestamp": pa.array(times, US),
        }
        pq.write_table(pa.table(frame), folder / f"{case}.labels.parquet")
    done.write_text(str(scale))


def _write_view(path: Path, view: int, rows: int, entities: int, case: str) -> None:
    chance = np.random.default_rng(view)
    names = ["entity", "ts", *(f"v{view}_f{i}" for i in range(features_of(case)))]
    schema = pa.schema([(n, pa.int64()) for n in names[:1]] + [("ts", US)]
                       + [(n, pa.float64()) for n in names[2:]])  # fmt: skip
    step = 1_000_000
    with pq.ParquetWriter(path, schema, use_dictionary=["entity"]) as writer:
        for at in range(0, rows, step):
            n = min(step, rows - at)
            low, high = START + SPAN * at // rows, START + SPAN * (at + n) // rows
            times = np.sort(chance.integers(low, high, n))
            if case == "materialize":
                keys = np.arange(at, at + n)
            else:
                keys = chance.integers(0, entities, n)
            columns = [keys, pa.array(times, US), *(chance.normal(size=n) for _ in names[2:])]
            writer.write_table(pa.table(columns, names=names))


# -- Headwater ---------------------------------------------------------------------------------


def catalog(case: str, folder: Path) -> Any:
    from headwater.catalog import (
        AggregationPlan,
        BatchSourcePlan,
        Catalog,
        FieldPlan,
        JoinKeyPlan,
        StreamSourcePlan,
        ViewPlan,
    )

    key = (JoinKeyPlan("entity", "INT64"),)
    if case == "windows":
        plans = tuple(
            AggregationPlan(f"{f}_{w}", "v0_f0", f, length, 1, 0.0, "DOUBLE", "DOUBLE")
            for f in ("count", "sum", "max") for w, length in WINDOWS.items()
        )  # fmt: skip
        history = BatchSourcePlan("h", "parquet", str(folder / "windows.v0.parquet"), "ts")
        fields = (FieldPlan("entity", "INT64"), FieldPlan("v0_f0", "DOUBLE"),
                  FieldPlan("ts", "UNIX_TIMESTAMP"))  # fmt: skip
        stream = StreamSourcePlan("s", ("t",), "", "json", fields, "ts",
                                  log_path=str(folder / "no_log"), history=history)  # fmt: skip
        view = ViewPlan("v0", "window", key, tuple(FieldPlan(a.name, a.output_type) for a in plans),
                        stream="s", aggregations=plans)  # fmt: skip
        return Catalog("bench", "", "", "", streams={"s": stream}, views={"v0": view})
    views = {
        f"v{v}": ViewPlan(
            f"v{v}", "row", key,
            tuple(FieldPlan(f"v{v}_f{i}", "DOUBLE") for i in range(features_of(case))),
            ttl_us=TTL_DAYS * 24 * HOUR,
            batch=BatchSourcePlan(f"v{v}", "parquet", str(folder / f"{case}.v{v}.parquet"), "ts"),
        )
        for v in range(views_of(case))
    }  # fmt: skip
    return Catalog("bench", "", "", "", views=views)


def headwater(case: str, folder: Path, scale: float) -> tuple[float, dict[str, Any]]:
    if case == "materialize":
        return _headwater_materialize(folder)
    if case == "profile":
        return _headwater_profile(folder)
    if case.startswith("long"):
        return _headwater_job(case, folder)
    from headwater.catalog import FeatureRefPlan
    from headwater.offline.training_set import build

    plans = catalog(case, folder)
    wanted = [FeatureRefPlan(v, p.feature_names) for v, p in plans.views.items()]
    labels = pq.read_table(folder / f"{case}.labels.parquet")
    build(plans, wanted, labels.slice(0, 1))  # compiled kernels are loaded, as in any second call
    seconds, table, more = several(
        lambda: build(plans, wanted, pq.read_table(folder / f"{case}.labels.parquet"))
    )
    _keep(table, case, "headwater", folder)
    return seconds, more


def _headwater_job(case: str, folder: Path) -> tuple[float, dict[str, Any]]:
    """A job, as the command line runs it, with four gigabytes, which the system holds it to."""
    from headwater.offline.jobs import Job
    from headwater.offline.spec import Spec

    plans = catalog(case, folder)
    spec = Spec(
        str(folder / f"{case}.labels.parquet"), str(folder / f"{case}.set.parquet"),
        features=tuple(f"{view}:*" for view in plans.views),
    )  # fmt: skip
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    watch = Watch()
    manifest = Job(plans, spec, memory=LIMIT).run().data
    return watch.stop(), {"note": f"{manifest['rows']:,} labels, written to a file; held to 4 GB"}


def _headwater_materialize(folder: Path) -> tuple[float, dict[str, Any]]:
    import redis

    from headwater.local import LocalRedis
    from headwater.offline.materialize import materialize
    from headwater.online.writer import OnlineWriter

    plans = catalog("materialize", folder)
    server = LocalRedis()
    server.start()
    try:
        client = redis.Redis.from_url(server.url)
        watch = Watch()
        counts = materialize(plans, OnlineWriter(client, "bench"))
        seconds = watch.stop()
        assert client.dbsize() > sum(counts.values()), counts  # and the clocks
    finally:
        server.close()
    return seconds, {"note": f"{sum(counts.values()):,} entities"}


def _headwater_profile(folder: Path) -> tuple[float, dict[str, Any]]:
    from headwater.offline.profile import profile_view

    plans = catalog("profile", folder)
    profile_view(plans, plans.views["v0"], limit=1000)
    watch = Watch()
    found = profile_view(plans, plans.views["v0"])
    seconds = watch.stop()
    median = found["features"]["v0_f3"]["quantiles"]["0.5"]
    assert abs(median) < 0.01, median
    return seconds, {"note": f"{found['rows']:,} rows x {len(found['features'])} features"}


# -- the others --------------------------------------------------------------------------------


def feast_store(case: str, folder: Path, offline: str, online: dict[str, Any] | None = None) -> Any:
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64, Int64

    config = RepoConfig(
        project="bench", registry=str(folder / f"{case}.{os.getpid()}.db"), provider="local",
        offline_store={"type": offline}, entity_key_serialization_version=3, repo_path=folder,
        online_store=online or {"type": "sqlite", "path": str(folder / "online.db")},
    )  # fmt: skip
    store = FeatureStore(config=config)
    entity = Entity(name="entity", join_keys=["entity"], value_type=ValueType.INT64)
    views = [
        FeatureView(
            name=f"v{v}", entities=[entity], ttl=timedelta(days=TTL_DAYS),
            schema=[Field(name="entity", dtype=Int64)]
            + [Field(name=f"v{v}_f{i}", dtype=Float64) for i in range(FEATURES)],
            source=FileSource(
                name=f"s{v}", path=str(folder / f"{case}.v{v}.parquet"), timestamp_field="ts"
            ),
        )
        for v in range(VIEWS)
    ]  # fmt: skip
    store.apply([entity, *views])
    return store


def _feast_rows(case: str, folder: Path, offline: str, name: str) -> tuple[float, dict[str, Any]]:
    store = feast_store(case, folder, offline)
    labels = pq.read_table(folder / f"{case}.labels.parquet").to_pandas()
    features = [f"v{v}:v{v}_f{i}" for v in range(VIEWS) for i in range(FEATURES)]
    store.get_historical_features(labels.head(1), features).to_arrow()
    watch = Watch()
    table = store.get_historical_features(labels, features).to_arrow()
    seconds = watch.stop()
    _keep(table.sort_by("label_id"), case, name, folder)
    return seconds, {"note": "through Feast's SDK"}


def plugin(case: str, folder: Path, scale: float) -> tuple[float, dict[str, Any]]:
    return _feast_rows(case, folder, "headwater.offline.DuckDBOfflineStore", "plugin")


def feast(case: str, folder: Path, scale: float) -> tuple[float, dict[str, Any]]:
    if case == "rows":
        return _feast_rows(case, folder, "duckdb", "feast")
    import redis

    from headwater.local import LocalRedis

    taken, loaded = [], []
    for share in FEAST_SHARES:
        part = folder / f"share{share}"
        part.mkdir(exist_ok=True)
        loaded.append(int(sizes(case, scale)[0] * share))
        for view in range(VIEWS):
            name = f"{case}.v{view}.parquet"
            pq.write_table(pq.read_table(folder / name).slice(0, loaded[-1]), part / name)
        server = LocalRedis()
        server.start()
        try:
            address = server.url.removeprefix("redis://").split("/")[0]
            online = {"type": "redis", "connection_string": address}
            store = feast_store(case, part, "duckdb", online)
            begin, end = (
                datetime.fromtimestamp(t / 1e6, UTC) for t in (START - HOUR, START + 2 * SPAN)
            )
            watch = Watch()
            store.materialize(begin, end)
            taken.append(watch.stop())
            assert redis.Redis.from_url(server.url).dbsize() == loaded[-1]
        finally:
            server.close()
    (few, many), (short, long) = loaded, taken
    seconds = long + (long - short) / (many - few) * (sizes(case, scale)[0] - many)
    return seconds, {
        "note": f"drawn out from {short:.1f} s for {few:,} and {long:.1f} s for {many:,} entities"
    }


def polars(case: str, folder: Path, scale: float) -> tuple[float, dict[str, Any]]:
    import polars as pl

    def once() -> Any:
        labels = pl.read_parquet(folder / f"{case}.labels.parquet").sort("event_timestamp")
        for v in range(VIEWS):
            view = pl.read_parquet(folder / f"{case}.v{v}.parquet").sort("ts")
            labels = labels.join_asof(
                view,
                left_on="event_timestamp",
                right_on="ts",
                by="entity",
                strategy="backward",
                tolerance=f"{TTL_DAYS}d",
            ).drop("ts", strict=False)
        return labels.sort("label_id")

    seconds, table, more = several(once)
    table.write_parquet(folder / f"{case}.polars.parquet")
    return seconds, more


def duckdb(case: str, folder: Path, scale: float) -> tuple[float, dict[str, Any]]:
    """RANGE windows as one writes them: the columns as they are, with a zone, and intervals."""
    return _range_windows(case, folder, "duckdb", "{0}", list(INTERVALS.values()))


def duckdb_zoneless(case: str, folder: Path, scale: float) -> tuple[float, dict[str, Any]]:
    """The same over timestamps whose zone is cast away."""
    spans = list(INTERVALS.values())
    return _range_windows(case, folder, "duckdb_zoneless", "{0}::TIMESTAMP", spans)


def duckdb_numbers(case: str, folder: Path, scale: float) -> tuple[float, dict[str, Any]]:
    """The same over times as numbers, which is the quickest that DuckDB can be asked."""
    spans = [str(length) for length in WINDOWS.values()]
    return _range_windows(case, folder, "duckdb_numbers", "epoch_us({0})", spans)


def _range_windows(
    case: str, folder: Path, name: str, time_of: str, lengths: list[str]
) -> tuple[float, dict[str, Any]]:
    import duckdb as engine

    names = [(f, w) for f in ("count", "sum", "max") for w in WINDOWS]
    spans = ", ".join(
        f"{f}(x) OVER (PARTITION BY entity ORDER BY ts "
        f"RANGE BETWEEN {length} PRECEDING AND CURRENT ROW) AS {f}_{w}"
        for f in ("count", "sum", "max")
        for w, length in zip(WINDOWS, lengths, strict=True)
    )
    sql = f"""
        SELECT label_id, {", ".join(f"{f}_{w}" for f, w in names)} FROM (
          SELECT label_id, {spans} FROM (
            SELECT entity, {time_of.format("ts")} AS ts, v0_f0 AS x, NULL AS label_id
            FROM '{folder}/windows.v0.parquet'
            UNION ALL
            SELECT entity, {time_of.format("event_timestamp")}, NULL, label_id
            FROM '{folder}/windows.labels.parquet'))
        WHERE label_id IS NOT NULL ORDER BY label_id"""  # noqa: S608

    def once() -> pa.Table:
        with engine.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return connection.sql(sql).to_arrow_table()

    seconds, table, more = several(once)
    _keep(table, case, name, folder)
    return seconds, more


def numpy(case: str, folder: Path, scale: float) -> tuple[float, dict[str, Any]]:
    """The floor that was set: one thread, one sort, prefix sums, a sparse table, searchsorted."""
    seconds, table, more = several(lambda: _numpy_windows(folder))
    _keep(table, case, "numpy", folder)
    return seconds, {"note": "subtracts prefix sums", **more}


def _numpy_windows(folder: Path) -> pa.Table:
    events = pq.read_table(folder / "windows.v0.parquet")
    labels = pq.read_table(folder / "windows.labels.parquet")

    def keys(table: pa.Table, time: str) -> Any:
        at = table[time].cast(pa.int64()).to_numpy() - START + SPAN
        return table["entity"].to_numpy() * (4 * SPAN) + at

    key = keys(events, "ts")
    order = np.argsort(key, kind="stable")
    key, x = key[order], events["v0_f0"].to_numpy()[order]
    sums = np.concatenate([[0.0], np.cumsum(x)])
    levels = [x]
    t = keys(labels, "event_timestamp")
    high = np.searchsorted(key, t, "right")
    found = {"label_id": labels["label_id"]}
    for name, length in WINDOWS.items():
        low = np.searchsorted(key, t - length, "left")
        count = high - low
        level = np.log2(np.maximum(count, 1)).astype(np.int64)
        while len(levels) <= level.max():
            half = 1 << (len(levels) - 1)
            levels.append(np.maximum(levels[-1][:-half], levels[-1][half:]))
        top = np.full(len(t), np.nan)
        for i, held in enumerate(levels):
            some = (level == i) & (count > 0)
            top[some] = np.maximum(held[low[some]], held[high[some] - (1 << i)])
        found |= {f"count_{name}": count, f"max_{name}": pa.array(top, mask=count == 0),
                  f"sum_{name}": pa.array(sums[high] - sums[low], mask=count == 0)}  # fmt: skip
    return pa.table(found)


def reading(case: str, folder: Path, scale: float) -> tuple[float, dict[str, Any]]:
    """The least that any engine has to do: read the columns."""
    watch = Watch()
    for view in range(views_of(case)):
        file = pq.ParquetFile(folder / f"{case}.v{view}.parquet")
        for group in range(file.num_row_groups):
            file.read_row_group(group)
    return watch.stop(), {"note": "reads the columns and does nothing"}


def _keep(table: pa.Table, case: str, engine: str, folder: Path) -> None:
    names = [n for n in table.column_names if n not in {"entity", "event_timestamp", "ts"}]
    pq.write_table(table.select(names), folder / f"{case}.{engine}.parquet")


ENGINES: dict[str, Callable[[str, Path, float], tuple[float, dict[str, Any]]]] = {
    "headwater": headwater, "plugin": plugin, "feast": feast, "polars": polars, "duckdb": duckdb,
    "duckdb_zoneless": duckdb_zoneless, "duckdb_numbers": duckdb_numbers, "numpy": numpy,
    "reading": reading,
}  # fmt: skip


def main() -> None:
    case, engine, folder, scale = sys.argv[1:]
    seconds, more = ENGINES[engine](case, Path(folder), float(scale))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu = Watch.cpu * (seconds / Watch.wall)
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_mb": peak, **more}))


if __name__ == "__main__":
    main()
