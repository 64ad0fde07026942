"""Serving: Headwater against stock `feast serve`, side by side on one Redis server.

`--only headwater` measures ours alone; `--seconds`, `--runs` and `--entities` set the size.
Needs `wrk`, and `h2load` for gRPC. Writes `bench/serving.json` and `serving.md`.
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
from headwater.online.columns import warm
from tests.benchmarks.measure import RESULTS, environment, tree_cpu
from tests.benchmarks.serving import load, servers, stages
from tests.benchmarks.serving.load import Load

#: name, entities a request, connections of the load generator
SHAPES = [("1x30", 1, 16), ("100x30", 100, 8)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["headwater", "feast"])
    parser.add_argument("--entities", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=30, help="events an entity in the windows")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two short runs of each")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.runs = 2, 2
    warm()  # compiles the loops where no earlier run has: not what is measured here
    server = LocalRedis()
    server.start()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        stack.callback(server.close)
        found = measure(Path(folder), server.url, arguments)
    found["environment"] = environment("feast", "uvicorn", "grpcio")
    load.dump(RESULTS / "serving.json", found)
    table = markdown(found)
    (RESULTS / "serving.md").write_text(table)
    print(table)


def measure(folder: Path, url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every figure of one run on this machine."""
    entities = arguments.entities
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
        found["stages"] = {
            f"{name} {n}x30": stages.measure(repo, url, features, n)
            for name, features in (("rows", servers.ROW_FEATURES), ("windows", windows))
            for n in (1, 100)
        }
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


def markdown(found: dict[str, Any]) -> str:
    """The figures and the ratios as a table."""
    lines = [
        f"{found['environment']}. Measured {found['at']}; {found['entities']:,} entities, "
        f"{found['events']} events each in the windows; medians of {found['runs']} runs of "
        f"{found['seconds']:g} s.", "",
        "| server | shape | requests/s | p50 ms | p99 ms | CPU us a request | at half load: req/s "
        "| p50 ms | p99 ms |", "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for server in ("feast", "headwater", "windows", "feast gRPC", "headwater gRPC"):
        for shape, _, _ in SHAPES:
            if server in found:
                f = found[server][shape]
                half = (
                    f"{f['half_rate']:,.0f} | {f['half_p50_ms']:.2f} | {f['half_p99_ms']:.2f}"
                    if "half_rate" in f
                    else "| |"
                )
                lines.append(
                    f"| {server} | {shape} | {f['rate']:,.0f} | {f['p50_ms']:.2f} | "
                    f"{f['p99_ms']:.2f} | {f['cpu_us']:,.0f} | {half} |"
                )
    if "stages" in found:
        names = list(next(iter(found["stages"].values())))
        lines += ["", f"| us in our own code | {' | '.join(names)} |",
                  "| --- |" + " --- |" * len(names)]  # fmt: skip
        for name, taken in found["stages"].items():
            lines.append(f"| {name} | {' | '.join(f'{us:.1f}' for us in taken.values())} |")
    lines += ["", "| ratio | value |", "| --- | --- |"]
    for name, value in ratios(found).items():
        lines.append(f"| {name} | {value:.2f} |")
    return "\n".join(lines) + "\n"


def ratios(found: dict[str, Any]) -> dict[str, float]:
    made: dict[str, float] = {}
    ours, feast, windows = (found.get(k) for k in ("headwater", "feast", "windows"))
    for shape, _, _ in SHAPES:
        if ours and feast:
            made[f"{shape} to feast serve"] = ours[shape]["rate"] / feast[shape]["rate"]
        if "feast gRPC" in found and "headwater gRPC" in found:
            rates = [found[f"{name} gRPC"][shape]["rate"] for name in ("headwater", "feast")]
            made[f"{shape} gRPC to feast listen"] = rates[0] / rates[1]
        if ours and windows:
            made[f"{shape} windows to rows"] = windows[shape]["rate"] / ours[shape]["rate"]
    if ours and feast:
        made["Redis bytes to Feast's"] = ours["bytes"] / feast["bytes"]
    for name in ("feast", "headwater"):
        if name in found:
            made[f"{name}: Redis bytes an entity and view"] = found[name]["bytes"]
            made[f"{name}: seconds from start to first vector"] = found[name]["start_seconds"]
            made[f"{name}: RSS MB"] = found[name]["rss_mb"]
    return made


if __name__ == "__main__":
    main()
