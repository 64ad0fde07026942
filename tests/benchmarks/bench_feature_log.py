"""What the feature log and provenance cost: request rates side by side on one Redis server.

Off, one request in a hundred, every request, and provenance in every answer: in turns of some
seconds, each round in another order, since the machine's speed drifts; what a mode's rate is to
that without a log is the median over the rounds. Beside it the processor time a request, of the
service and of the log's writer, and how long after the load the writer had all in files. Needs
`wrk`. Writes `bench/feature_log.json` and `feature_log.md`.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))

from headwater.local import LocalRedis
from headwater.online.columns import warm
from tests.benchmarks.measure import RESULTS
from tests.benchmarks.serving import load, servers
from tests.benchmarks.serving.report import SHAPES

MODES = ("off", "1 %", "all", "in the answer")
#: A file is begun so often: short beside a load, so that what making files costs falls into it.
FILE_SECONDS = 0.5


class Turn(NamedTuple):
    """One load: its rate, processor microseconds a request, seconds until all was in files."""

    rate: float
    p99_ms: float
    service_us: float
    writer_us: float
    behind: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=30, help="events an entity in the windows")
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--modes", nargs="*", default=list(MODES))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.runs = 2, 5
    warm()
    server = LocalRedis()
    server.start()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        stack.callback(server.close)
        found = measure(stack, Path(folder), server.url, arguments)
    load.dump(RESULTS / "feature_log.json", found)
    table = markdown(found)
    (RESULTS / "feature_log.md").write_text(table)
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
                    "HEADWATER_FEATURE_LOG_SECONDS": str(FILE_SECONDS)}  # fmt: skip
        running[mode] = stack.enter_context(servers.headwater(repo, url, **settings))
    found: dict[str, Any] = {"at": servers.stamp(), **vars(arguments), "rates": {}}
    chance = random.Random(1)
    for name, features in (("rows", servers.ROW_FEATURES), ("windows", windows)):
        for shape, n, connections in SHAPES:
            turns: dict[str, list[Turn]] = {mode: [] for mode in arguments.modes}
            for _ in range(arguments.runs + 1):
                for mode in chance.sample(arguments.modes, len(arguments.modes)):
                    more = {"provenance": True} if mode == "in the answer" else {}
                    ask = (features, n, arguments.entities, connections, arguments.seconds)
                    turns[mode].append(turn(running[mode], folder / mode, ask, more))
            found["rates"][f"{name} {shape}"] = medians(turns)
            print(f"{name} {shape}", found["rates"][f"{name} {shape}"], file=sys.stderr, flush=True)
    found["vectors"] = {
        mode: {kind: _logged(running[mode].url, kind) for kind in ("written", "dropped", "failed")}
        for mode in ("1 %", "all")
    }
    return found


def medians(turns: dict[str, list[Turn]]) -> dict[str, dict[str, float]]:
    """Of each mode; the first turns are left out, since the processes are new."""
    found = {}
    for mode, of in turns.items():
        pairs = zip(of[1:], turns["off"][1:], strict=True)
        found[mode] = {"to_off": statistics.median(t.rate / off.rate for t, off in pairs)}
        for what in Turn._fields:
            found[mode][what] = statistics.median(getattr(t, what) for t in of[1:])
    return found


def turn(running: servers.Running, log: Path, ask: Any, more: dict[str, Any]) -> Turn:
    """One load, and then the wait until nothing of it is left to do."""
    features, n, entities, connections, seconds = ask
    before = _used(running.pid)
    run = load.run(running.url, features, n, entities, connections, seconds, None, **more)
    loaded = _used(running.pid)
    start = time.monotonic()
    while any(log.rglob("*.segment")):
        time.sleep(0.02)
    behind = time.monotonic() - start
    requests = run.rate * seconds
    return Turn(
        run.rate, run.p99_ms, (loaded[0] - before[0]) / requests * 1e6,
        (_used(running.pid)[1] - before[1]) / requests * 1e6, behind,
    )  # fmt: skip


def _used(pid: int) -> tuple[float, float]:
    """Seconds of the processor that a service has used, and its children."""
    process = psutil.Process(pid)

    def of(one: psutil.Process) -> float:
        times = one.cpu_times()
        return float(times.user + times.system)

    return of(process), sum(of(child) for child in process.children())


def _logged(url: str, outcome: str) -> float:
    import re
    import urllib.request

    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    found = re.search(rf'logged_vectors_total{{outcome="{outcome}"}} (\S+)', text)
    return float(found[1]) if found else 0.0


def markdown(found: dict[str, Any]) -> str:
    lines = [
        f"Measured {found['at']}; medians of {found['runs']} runs of {found['seconds']} s. "
        f"Vectors: {found['vectors']}.", "",
        "| request | log | requests/s | to off | p99 ms | service µs/request | writer µs/request | "
        "in files after s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for request, modes in found["rates"].items():
        for mode, f in modes.items():
            lines.append(
                f"| {request} | {mode} | {f['rate']:,.0f} | {f['to_off']:.3f} | "
                f"{f['p99_ms']:.2f} | {f['service_us']:.0f} | {f['writer_us']:.0f} | "
                f"{f['behind']:.1f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
