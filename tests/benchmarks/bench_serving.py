"""Serving: Headwater against stock `feast serve`, side by side on one Redis server.

`--only headwater` measures ours alone; `--seconds`, `--runs` and `--entities` set the size.
Needs `wrk`, and `h2load` for gRPC. Writes `bench/serving.json` and `serving.md`;
with `--readme` its first table goes into README.md too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

sys.path.insert(0, str(Path(__file__).parents[2]))

from headwater.local import LocalRedis
from headwater.local.process import free_ports
from headwater.online import columns
from service import single
from tests.benchmarks.measure import RESULTS, environment, tree_cpu
from tests.benchmarks.serving import load, report, servers, stages, trouble
from tests.benchmarks.serving.load import Load
from tests.benchmarks.serving.report import BOUND, SHAPES

ARROW = "application/vnd.apache.arrow.stream"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["headwater", "feast"])
    parser.add_argument("--entities", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=30, help="events an entity in the windows")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two short runs of each")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.runs = 2, 2
    columns.warm()  # compiles the loops where no earlier run has: not what is measured here
    single.warm()
    server = LocalRedis()
    server.start()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        stack.callback(server.close)
        found = measure(Path(folder), server, arguments)
    found["environment"] = environment("feast", "uvicorn", "grpcio")
    load.dump(RESULTS / "serving.json", found)
    text = report.whole(found)
    (RESULTS / "serving.md").write_text(text)
    print(text)
    if arguments.readme:
        report.put_into(RESULTS.parent / "README.md", report.summary(found))


def measure(folder: Path, server: LocalRedis, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every figure of one run on this machine."""
    entities, url = arguments.entities, server.url
    found: dict[str, Any] = {
        "at": servers.stamp(),
        "entities": entities, "events": arguments.events, "seconds": arguments.seconds,
        "runs": arguments.runs,
    }  # fmt: skip
    feast_url = f"{url.split('//')[1].split('/')[0]},db=1"
    if arguments.only != "headwater":
        repo = servers.make_repo(folder / "feast", "redis", feast_url)
        bytes_each = _growth(url, 1, lambda: servers.fill_feast(repo, entities))
        found["feast"] = {"bytes": bytes_each / entities / 3}
        with servers.feast(repo) as running:
            found["feast"] |= _loads(running, servers.ROW_FEATURES, arguments)
        with servers.feast_rpc(repo) as (address, pid):
            found["feast gRPC"] = _calls(address, pid, arguments)
    if arguments.only != "feast":
        repo = servers.make_repo(folder / "ours", "headwater.online.RedisOnlineStore", url)
        bytes_each = _growth(url, 0, lambda: servers.fill_rows(repo, url, entities))
        found["headwater"] = {"bytes": bytes_each / entities / 3}
        windows = servers.fill_windows(repo, url, entities, arguments.events)
        (port,) = free_ports(1)
        with servers.headwater(repo, url, HEADWATER_GRPC_PORT=str(port)) as running:
            servers.until_calls_are_answered(f"127.0.0.1:{port}")
            found["headwater gRPC"] = _calls(f"127.0.0.1:{port}", running.pid, arguments)
        with servers.headwater(repo, url) as running:
            found["headwater"] |= _loads(running, servers.ROW_FEATURES, arguments)
            found["windows"] = _loads(running, windows, arguments)
            found["batch"] = _batches(running, arguments)
            found["overload"] = _overloads(running, arguments)
        found["stages"] = {
            f"{name} {n}x30": stages.measure(repo, url, features, n)
            for name, features in (("rows", servers.ROW_FEATURES), ("windows", windows))
            for n in (1, 100)
        }
        with servers.headwater(repo, url) as running:
            found["outage"] = _outages(running, server, arguments)
    return found


def _growth(url: str, db: int, fill: Callable[[], object]) -> float:
    """Bytes that Redis's data grew by."""
    with redis.Redis.from_url(url, db=db) as client:
        client.flushdb()
        before = client.info("memory")["used_memory"]
        fill()
        return float(client.info("memory")["used_memory"] - before)


def _loads(running: servers.Running, features: list[str], arguments: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"start_seconds": running.start_seconds}
    for name, n, connections in SHAPES:

        def one(
            seconds: int, rate: float | None = None, n: int = n, connections: int = connections
        ) -> Load:
            return load.run(
                running.url, features, n, arguments.entities, connections, seconds, rate
            )

        one(1)
        cpu = tree_cpu(running.pid)
        runs = [one(arguments.seconds) for _ in range(arguments.runs)]
        total = sum(run.rate for run in runs) * arguments.seconds
        cpu = tree_cpu(running.pid) - cpu
        full = load.median(runs)
        half = load.median([one(arguments.seconds, full.rate / 2) for _ in range(arguments.runs)])
        found[name] = {
            **full._asdict(), "cpu_us": cpu / total * 1e6,
            "half_rate": half.rate, "half_p50_ms": half.p50_ms, "half_p99_ms": half.p99_ms,
        }  # fmt: skip
    found["rss_mb"] = running.rss_mb()
    return found


def _calls(address: str, pid: int, arguments: Any) -> dict[str, Any]:
    """The same shapes over gRPC, at full load alone."""
    found: dict[str, Any] = {}
    for name, n, connections in SHAPES:
        message = servers.rpc_message(servers.ROW_FEATURES, n)

        def one(seconds: int, message: bytes = message, connections: int = connections) -> Load:
            return load.run_rpc(address, servers.RPC_METHOD, message, connections, seconds)

        one(1)
        cpu = tree_cpu(pid)
        runs = [one(arguments.seconds) for _ in range(arguments.runs)]
        total = sum(run.rate for run in runs) * arguments.seconds
        full = load.median(runs)
        found[name] = {**full._asdict(), "cpu_us": (tree_cpu(pid) - cpu) / total * 1e6}
    return found


def _batches(running: servers.Running, arguments: Any) -> dict[str, Any]:
    """1,000 entities a request, as JSON and as Arrow."""
    found = {}
    for name, accept in (("JSON", "application/json"), ("Arrow", ARROW)):

        def one(seconds: int, accept: str = accept) -> Load:
            return load.run(
                running.url, servers.ROW_FEATURES, 1000, arguments.entities, 4, seconds,
                accept=accept,
            )  # fmt: skip

        one(1)
        found[name] = load.median([one(arguments.seconds) for _ in range(arguments.runs)])._asdict()
    return found


def _overloads(running: servers.Running, arguments: Any) -> dict[str, Any]:
    """The greatest rate, by as many connections as requests are let in; once and thrice it, paced.

    Larger answers would overload the load generator instead.
    """
    found = {}
    for n in (1, 10):
        body = {"features": servers.ROW_FEATURES, "entities": {"customer_id": list(range(n))}}

        def one(connections: int, rate: float | None = None, body: Any = body) -> trouble.Overload:
            return trouble.overload(running.url, body, connections, arguments.seconds, rate)

        full = one(BOUND)
        loads = {"full": full, **{f"{x} x": one(3 * BOUND, x * full.accepted) for x in (1, 3)}}
        found[f"{n}x30"] = {name: load._asdict() for name, load in loads.items()}
    return found


def _outages(running: servers.Running, server: LocalRedis, arguments: Any) -> list[dict[str, Any]]:
    head, tail = load.body(servers.ROW_FEATURES)
    body = f"{head}1{tail}".encode()
    runs = [trouble.outage(running.url, body, server) for _ in range(arguments.runs)]
    return [run._asdict() for run in runs]


if __name__ == "__main__":
    main()
