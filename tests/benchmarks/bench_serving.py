"""Serving: Headwater against stock `feast serve`, side by side on one Redis server.

`--only headwater` measures ours alone; `--seconds`, `--runs` and `--entities` set the size.
Needs `wrk`. Writes `data/bench/serving.json` and `serving.md`.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

sys.path.insert(0, str(Path(__file__).parents[2]))

from headwater.local import LocalRedis
from headwater.online.columns import warm
from tests.benchmarks.serving import load, servers, stages
from tests.benchmarks.serving.load import Load

OUT = Path("data/bench")
#: name, entities a request, connections of the load generator
SHAPES = [("1x30", 1, 16), ("100x30", 100, 8)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["headwater", "feast"])
    parser.add_argument("--entities", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=30, help="events an entity in the windows")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    warm()  # compiles the loops where no earlier run has: not what is measured here
    server = LocalRedis()
    server.start()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        stack.callback(server.close)
        found = measure(Path(folder), server.url, arguments)
    load.dump(OUT / "serving.json", found)
    table = markdown(found)
    (OUT / "serving.md").write_text(table)
    print(table)


def measure(folder: Path, url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every figure of one run on this machine."""
    entities = arguments.entities
    found: dict[str, Any] = {
        "at": servers.stamp(), "machine": f"{platform.processor() or platform.machine()}",
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
    if arguments.only != "feast":
        repo = servers.make_repo(folder / "ours", "headwater.online.RedisOnlineStore", url)
        bytes_each = _growth(url, 0, lambda: servers.fill_rows(repo, url, entities))
        found["headwater"] = {"bytes": bytes_each / entities / 3}
        windows = servers.fill_windows(repo, url, entities, arguments.events)
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
        cpu = running.cpu_seconds()
        runs = [one(arguments.seconds) for _ in range(arguments.runs)]
        total = sum(run.rate for run in runs) * arguments.seconds
        cpu = running.cpu_seconds() - cpu
        full = load.median(runs)
        half = load.median([one(arguments.seconds, full.rate / 2) for _ in range(arguments.runs)])
        found[name] = {
            **full._asdict(), "cpu_us": cpu / total * 1e6,
            "half_rate": half.rate, "half_p50_ms": half.p50_ms, "half_p99_ms": half.p99_ms,
        }  # fmt: skip
    found["rss_mb"] = running.rss_mb()
    return found


def markdown(found: dict[str, Any]) -> str:
    """The figures and the ratios as a table."""
    lines = [
        f"Measured {found['at']}; {found['entities']:,} entities, {found['events']} events each "
        f"in the windows; medians of {found['runs']} runs of {found['seconds']:g} s.", "",
        "| server | shape | requests/s | p50 ms | p99 ms | CPU us a request | at half load: req/s "
        "| p50 ms | p99 ms |", "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for server in ("feast", "headwater", "windows"):
        for shape, _, _ in SHAPES:
            if server in found:
                f = found[server][shape]
                lines.append(
                    f"| {server} | {shape} | {f['rate']:,.0f} | {f['p50_ms']:.2f} | "
                    f"{f['p99_ms']:.2f} | {f['cpu_us']:,.0f} | {f['half_rate']:,.0f} | "
                    f"{f['half_p50_ms']:.2f} | {f['half_p99_ms']:.2f} |"
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
