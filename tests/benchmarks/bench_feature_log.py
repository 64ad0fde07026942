"""What the feature log and provenance cost: request rates, one after the other on one Redis server.

Off, one request in a hundred, every request, and provenance in every answer. Needs `wrk`. Writes
`bench/feature_log.json` and `feature_log.md`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from headwater.local import LocalRedis
from headwater.online.columns import warm
from tests.benchmarks.serving import load, servers

OUT = Path("bench")
SHAPES = [("1x30", 1, 16), ("100x30", 100, 8)]
MODES = ("off", "1 %", "all", "in the answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=30, help="events an entity in the windows")
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.runs = 2, 3
    warm()
    server = LocalRedis()
    server.start()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        stack.callback(server.close)
        found = measure(stack, Path(folder), server.url, arguments)
    load.dump(OUT / "feature_log.json", found)
    table = markdown(found)
    (OUT / "feature_log.md").write_text(table)
    print(table)


def measure(stack: ExitStack, folder: Path, url: str, arguments: Any) -> dict[str, Any]:
    repo = servers.make_repo(folder / "ours", "headwater.online.RedisOnlineStore", url)
    servers.fill_rows(repo, url, arguments.entities)
    windows = servers.fill_windows(repo, url, arguments.entities, arguments.events)
    running = {"off": stack.enter_context(servers.headwater(repo, url))}
    running["in the answer"] = running["off"]
    for mode, sample in (("1 %", "0.01"), ("all", "1")):
        settings = {"HEADWATER_FEATURE_LOG": str(folder / mode),
                    "HEADWATER_FEATURE_LOG_SAMPLE": sample,
                    "HEADWATER_FEATURE_LOG_SECONDS": "2"}  # fmt: skip
        running[mode] = stack.enter_context(servers.headwater(repo, url, **settings))
    found: dict[str, Any] = {"at": servers.stamp(), **vars(arguments), "rates": {}}
    for name, features in (("rows", servers.ROW_FEATURES), ("windows", windows)):
        for shape, n, connections in SHAPES:
            rates: dict[str, list[load.Load]] = {mode: [] for mode in MODES}
            # In turns, since the machine's speed drifts.
            for _ in range(arguments.runs + 1):
                for mode in MODES:
                    more = {"provenance": True} if mode == "in the answer" else {}
                    rates[mode].append(
                        load.run(running[mode].url, features, n, arguments.entities, connections,
                                 arguments.seconds, None, **more)
                    )  # fmt: skip
            found["rates"][f"{name} {shape}"] = {
                mode: {
                    "rate": statistics.median(run.rate for run in runs[1:]),
                    "best": max(run.rate for run in runs[1:]),
                    "p99_ms": statistics.median(run.p99_ms for run in runs[1:]),
                }
                for mode, runs in rates.items()
            }
    return found


def markdown(found: dict[str, Any]) -> str:
    lines = [
        f"Measured {found['at']}; medians of {found['runs']} runs of {found['seconds']} s.", "",
        "| request | log | requests/s | to off | best | p99 ms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for request, modes in found["rates"].items():
        for mode, f in modes.items():
            lines.append(
                f"| {request} | {mode} | {f['rate']:,.0f} | "
                f"{f['rate'] / modes['off']['rate']:.3f} | {f['best']:,.0f} | {f['p99_ms']:.2f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
