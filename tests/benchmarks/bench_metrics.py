"""What metrics cost: request rates and the service's CPU time, with all of them and with none.

Two services on one Redis, one as it is and scraped in the middle of each run, one that counts and
watches nothing (`serving/uncounted.py`), loaded in turns. Needs `wrk`. Writes `bench/metrics.json`
and `metrics.md`; exit code 1 where the rate falls by more than `BOUND`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

from headwater.local import LocalRedis
from headwater.online.columns import warm
from tests.benchmarks.measure import RESULTS, environment, tree_cpu
from tests.benchmarks.serving import load, servers
from tests.benchmarks.serving.report import SHAPES

#: The part of the request rate that metrics may cost.
BOUND = 0.05


class Round(NamedTuple):
    """Requests a second; the service's CPU time for each, microseconds."""

    rate: float
    cpu_us: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=30, help="events an entity in the windows")
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="a request, such as 'rows 1x30'")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.rounds = 2, 3
    warm()
    server = LocalRedis()
    server.start()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        stack.callback(server.close)
        found = measure(stack, Path(folder), server.url, arguments)
    load.dump(RESULTS / "metrics.json", found)
    table = markdown(found)
    (RESULTS / "metrics.md").write_text(table)
    print(table)
    over = [shape for shape, f in found["shapes"].items() if f["cost"] > BOUND]
    if over:
        sys.stderr.write(f"over {BOUND:.0%} of the request rate: {', '.join(over)}\n")
    return 1 if over else 0


def measure(stack: ExitStack, folder: Path, url: str, arguments: Any) -> dict[str, Any]:
    repo = servers.make_repo(folder / "ours", "headwater.online.RedisOnlineStore", url)
    servers.fill_rows(repo, url, arguments.entities)
    windows = servers.fill_windows(repo, url, arguments.entities, arguments.events)
    without = str(Path(__file__).with_name("serving") / "uncounted.py")
    running = {
        "on": stack.enter_context(servers.headwater(repo, url)),
        "off": stack.enter_context(servers.headwater(repo, url, (without,))),
    }
    found: dict[str, Any] = {
        "at": servers.stamp(), "environment": environment("uvicorn"), **vars(arguments),
        "shapes": {},
    }  # fmt: skip
    for name, features in (("rows", servers.ROW_FEATURES), ("windows", windows)):
        for shape, n, connections in SHAPES:
            if arguments.only not in {"", f"{name} {shape}"}:
                continue
            rounds: dict[str, list[Round]] = {mode: [] for mode in running}

            def one(
                mode: str, features: list[str] = features, n: int = n, c: int = connections
            ) -> Round:
                return _round(running[mode], mode == "on", features, n, c, arguments)

            for mode in running:
                one(mode)  # warm
            # In turns, each first as often as the other, since the machine's speed drifts.
            for i in range(arguments.rounds):
                for mode in sorted(running, reverse=bool(i % 2)):
                    rounds[mode].append(one(mode))
            pairs = list(zip(rounds["on"], rounds["off"], strict=True))
            found["shapes"][f"{name} {shape}"] = {
                **{mode: [r._asdict() for r in some] for mode, some in rounds.items()},
                "cost": 1 - statistics.median(on.rate / off.rate for on, off in pairs),
                "cpu_cost": statistics.median(on.cpu_us / off.cpu_us for on, off in pairs) - 1,
            }
    found["scrape_ms"] = _scrape_ms(running["on"])
    return found


def _round(
    running: servers.Running, scraped: bool, features: list[str], n: int, connections: int,
    arguments: Any,
) -> Round:  # fmt: skip
    scrape = threading.Timer(arguments.seconds / 2, _scrape, (running,))
    if scraped:
        scrape.start()
    before = tree_cpu(running.pid)
    done = load.run(running.url, features, n, arguments.entities, connections, arguments.seconds)
    used = tree_cpu(running.pid) - before
    if scraped:
        scrape.join()
    return Round(done.rate, used / (done.rate * arguments.seconds) * 1e6)


def _scrape(running: servers.Running) -> None:
    with urllib.request.urlopen(running.url + "/metrics", timeout=30) as answer:
        text = answer.read()
    if b"featurestore_online_values_total" not in text:
        raise RuntimeError("the service shows no metrics")


def _scrape_ms(running: servers.Running) -> float:
    """The time of one scrape of a service that has nothing else to do."""
    taken = []
    for _ in range(20):
        start = time.perf_counter()
        _scrape(running)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1000


def markdown(found: dict[str, Any]) -> str:
    lines = [
        f"{found['environment']}, load generator and Redis included; {found['at']}; medians of "
        f"{found['rounds']} rounds of {found['seconds']} s, each with one scrape; a scrape takes "
        f"{found['scrape_ms']:.1f} ms.", "",
        "| request | requests/s, all metrics | none | cost | CPU us a request, all | none | cost |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for shape, f in found["shapes"].items():
        rate, cpu = (
            [statistics.median(r[key] for r in f[mode]) for mode in ("on", "off")]
            for key in ("rate", "cpu_us")
        )
        lines.append(
            f"| {shape} | {rate[0]:,.0f} | {rate[1]:,.0f} | {f['cost']:.1%} | "
            f"{cpu[0]:.1f} | {cpu[1]:.1f} | {f['cpu_cost']:.1%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
