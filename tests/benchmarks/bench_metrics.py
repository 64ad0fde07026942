"""What metrics cost: request rates and the service's CPU time, with all of them and with none.

One service that counts and watches everything, or nothing, in turns of a second while it is loaded
(`serving/switched.py`). A scrape is timed by itself, and costs its share of
`SCRAPE_SECONDS`. Needs `wrk`. Writes `bench/metrics.json` and `metrics.md`; exit code 1 where the
rate falls by more than `BOUND`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from headwater.local import LocalRedis
from headwater.online.columns import warm
from tests.benchmarks.measure import RESULTS, environment
from tests.benchmarks.serving import load, servers, turns
from tests.benchmarks.serving.report import SHAPES
from tests.benchmarks.serving.switched import TURN_SECONDS, Took

#: The part of the request rate that metrics may cost.
BOUND = 0.05
#: Prometheus asks so often by default, and so does `headwater monitoring`'s configuration.
SCRAPE_SECONDS = 15.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=30, help="events an entity in the windows")
    parser.add_argument("--seconds", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="a request, such as 'rows 1x30'")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.rounds = 4, 1
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
    took = folder / "took.json"
    running = stack.enter_context(turns.service(repo, url, "metrics", took))
    found: dict[str, Any] = {
        "at": servers.stamp(), "environment": environment("uvicorn"), **vars(arguments),
        "scrape_ms": _scrape_ms(running), "shapes": {},
    }  # fmt: skip
    scrapes = found["scrape_ms"] / 1000 / SCRAPE_SECONDS
    for name, features in (("rows", servers.ROW_FEATURES), ("windows", windows)):
        for shape, n, connections in SHAPES:
            if arguments.only not in {"", f"{name} {shape}"}:
                continue
            rounds = []
            for _ in range(arguments.rounds):
                asked = (features, n, arguments.entities, connections)
                one = turns.measured(running, took, ("on", "off"), asked, arguments.seconds).took
                rounds.append({way: _per_request(one[way]) for way in ("on", "off")})
            ratios = [(r["on"], r["off"]) for r in rounds]
            found["shapes"][f"{name} {shape}"] = {
                "rounds": rounds,
                "cost": 1 - statistics.median(a["rate"] / b["rate"] for a, b in ratios) + scrapes,
                "cpu_cost": statistics.median(a["cpu_us"] / b["cpu_us"] for a, b in ratios) - 1
                + scrapes,
            }  # fmt: skip
    return found


def _per_request(took: Took) -> dict[str, float]:
    """Requests a second; the service's CPU time for each, microseconds."""
    return {
        "rate": took["requests"] / took["seconds"],
        "cpu_us": took["cpu_seconds"] / took["requests"] * 1e6,
    }


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
        f"{found['rounds']} rounds of {found['seconds']} s in turns of {TURN_SECONDS:g} s; a "
        f"scrape takes {found['scrape_ms']:.1f} ms.", "",
        "| request | requests/s, all metrics | none | cost | CPU us a request, all | none | cost |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for shape, f in found["shapes"].items():
        rate, cpu = (
            [statistics.median(r[mode][key] for r in f["rounds"]) for mode in ("on", "off")]
            for key in ("rate", "cpu_us")
        )
        lines.append(
            f"| {shape} | {rate[0]:,.0f} | {rate[1]:,.0f} | {f['cost']:.1%} | "
            f"{cpu[0]:.1f} | {cpu[1]:.1f} | {f['cpu_cost']:.1%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
