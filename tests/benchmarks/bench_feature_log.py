"""What the feature log and provenance cost, of the request rate and of the processor.

One service (`serving/switched.py`) logs nothing, one request in a hundred, or every request:
- in turns of a second: what the log costs the thread that answers requests, and the
  other threads, which work for the log alone;
- in loads of some seconds: the rate, with the log's writer at its work meanwhile. What a load
  leaves to it is waited for, and the CPU seconds that it takes count as seconds of the load, so
  that nothing is got by putting it off. The ratio to a load without a log is the median over the
  rounds, each with its loads in another order.

Provenance in every answer is measured by loads as well. Needs `wrk`. Writes
`bench/feature_log.json` and `feature_log.md`; exit code 1 where logging all costs more than `BOUND`
of the rate.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

from headwater.local import LocalRedis
from headwater.online.columns import warm
from tests.benchmarks.measure import RESULTS, environment
from tests.benchmarks.serving import load, servers, turns
from tests.benchmarks.serving.report import SHAPES
from tests.benchmarks.serving.switched import TURN_SECONDS

#: The part of the request rate that logging every request may cost.
BOUND = 0.15
WAYS = ("off", "1 %", "all")
ANSWER = "in the answer"
MODES = (*WAYS, ANSWER)
#: A file is begun so often: a service that answers 25,000 vectors a second fills one in this time,
#: and a load is longer, so that what making files costs falls into it.
FILE_SECONDS = 2.0


class Phase(NamedTuple):
    """One load: its rate, processor microseconds a request, and how many CPU seconds of the
    writer's came after its end."""

    rate: float
    service_us: float
    writer_us: float
    left: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=30, help="events an entity in the windows")
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=MODES)
    parser.add_argument("--only", default="", help="a request, such as 'rows 1x30'")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.rounds = 5, 1
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
    over = [
        shape for shape, f in found["shapes"].items()
        if "all" in f["modes"] and 1 - f["modes"]["all"]["to_off"] > BOUND
    ]  # fmt: skip
    if over:
        sys.stderr.write(f"over {BOUND:.0%} of the request rate: {', '.join(over)}\n")
    return 1 if over else 0


def measure(stack: ExitStack, folder: Path, url: str, arguments: Any) -> dict[str, Any]:
    repo = servers.make_repo(folder / "ours", "headwater.online.RedisOnlineStore", url)
    servers.fill_rows(repo, url, arguments.entities)
    windows = servers.fill_windows(repo, url, arguments.entities, arguments.events)
    log, took = folder / "log", folder / "took.json"
    settings = {
        "HEADWATER_FEATURE_LOG": str(log), "HEADWATER_FEATURE_LOG_SECONDS": str(FILE_SECONDS),
    }  # fmt: skip
    running = stack.enter_context(turns.service(repo, url, "log", took, **settings))
    ways = [way for way in WAYS if way in arguments.modes]
    found: dict[str, Any] = {
        "at": servers.stamp(), "environment": environment("uvicorn", "pyarrow"), **vars(arguments),
        "shapes": {},
    }  # fmt: skip
    chance = random.Random(1)
    for name, features in (("rows", servers.ROW_FEATURES), ("windows", windows)):
        for shape, n, connections in SHAPES:
            if arguments.only not in {"", f"{name} {shape}"}:
                continue
            asked = (features, n, arguments.entities, connections)
            # The first load is for the processes, which are new to it.
            phase(running, log, took, ways[-1], asked, 1)
            phases: dict[str, list[Phase]] = {mode: [] for mode in arguments.modes}
            for _ in range(arguments.rounds):
                for mode in chance.sample(arguments.modes, len(arguments.modes)):
                    one = phase(running, log, took, mode, asked, arguments.seconds)
                    phases[mode].append(one)
            kept = found["shapes"][f"{name} {shape}"] = {
                "loads": {mode: [one._asdict() for one in of] for mode, of in phases.items()},
                "modes": medians(phases),
                "turns": switched(running, log, took, ways, asked, 2 * arguments.seconds),
            }
            print(f"{name} {shape}", kept["modes"], kept["turns"], file=sys.stderr, flush=True)
    found["vectors"] = {one: _logged(running.url, one) for one in ("written", "dropped", "failed")}
    return found


def medians(phases: dict[str, list[Phase]]) -> dict[str, dict[str, float]]:
    """Of each mode."""
    found = {}
    for mode, of in phases.items():
        pairs = zip(of, phases["off"], strict=True)
        found[mode] = {"to_off": statistics.median(t.rate / off.rate for t, off in pairs)}
        for what in Phase._fields:
            found[mode][what] = statistics.median(getattr(t, what) for t in of)
    return found


def phase(
    running: servers.Running, log: Path, took: Path, mode: str, asked: Any, seconds: int
) -> Phase:
    """One load, and then the wait until nothing of it is left to do."""
    more = {"provenance": True} if mode == ANSWER else {}
    way = "off" if mode == ANSWER else mode
    found = turns.measured(running, took, [way], asked, seconds, **more)
    before, loaded = found.writer
    _drain(log)
    after, one = turns.writer_seconds(running.pid), found.took[way]
    requests, left = one["requests"], after - loaded
    return Phase(
        requests / (one["seconds"] + left), one["cpu_seconds"] / requests * 1e6,
        (after - before) / requests * 1e6, left,
    )  # fmt: skip


def switched(
    running: servers.Running, log: Path, took: Path, ways: Sequence[str], asked: Any, seconds: int
) -> dict[str, float]:
    """Microseconds of the processor a request, of the thread that answers, each way; `more` is what
    the other threads took, for a request that was logged, and `writer` the log's writer.

    With one request in a hundred logged, no thread of its own shows beside the turns that log all.
    """
    of, (before, _) = turns.measured(running, took, ways, asked, seconds)
    _drain(log)
    writer = turns.writer_seconds(running.pid) - before
    found = {way: one["loop_seconds"] / one["requests"] * 1e6 for way, one in of.items()}
    logged = sum(of[way]["requests"] * share for way, share in (("1 %", 0.01), ("all", 1))
                 if way in of)  # fmt: skip
    others = sum(one["cpu_seconds"] - one["loop_seconds"] for one in of.values())
    return {**found, "more": others / logged * 1e6, "writer": writer / logged * 1e6}


def _drain(log: Path) -> None:
    """Wait until all vectors are in files."""
    time.sleep(0.6)  # the service's thread takes what waits for it twice a second
    while any(log.rglob("*.segment")):
        time.sleep(0.02)


def _logged(url: str, outcome: str) -> float:
    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    found = re.search(rf'logged_vectors_total{{outcome="{outcome}"}} (\S+)', text)
    return float(found[1]) if found else 0.0


def markdown(found: dict[str, Any]) -> str:
    lines = [
        f"{found['environment']}, load generator and Redis included; {found['at']}; medians of "
        f"{found['rounds']} loads of {found['seconds']} s. Vectors: {found['vectors']}.", "",
        "| request | log | requests/s | to off | service us/request | writer us/request | "
        f"left to it s | in turns of {TURN_SECONDS:g} s: answering us/request |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for request, f in found["shapes"].items():
        for mode, of in f["modes"].items():
            turn = f"{f['turns'][mode]:.1f}" if mode in f["turns"] else ""
            if mode == "all":
                turn += f" + {f['turns']['more']:.1f} in other threads"
            lines.append(
                f"| {request} | {mode} | {of['rate']:,.0f} | {of['to_off']:.3f} | "
                f"{of['service_us']:.1f} | {of['writer_us']:.1f} | {of['left']:.2f} | {turn} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
