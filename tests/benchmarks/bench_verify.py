"""How fast `headwater verify` is: vectors of thirty windows, and of thirty columns of a row, a
second, reading the log included. Every value must be compared, and none may differ.

Writes `bench/verify.json` and `verify.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from headwater.catalog import FieldPlan, ViewPlan
from headwater.local import LocalRedis
from headwater.offline.feature_log import FeatureLog
from headwater.offline.verify import verify
from tests.benchmarks.serving import load, servers
from tests.proof.world import KEY, World, window_view

OUT = Path("bench")
MEASURES = [
    ("count", "amount", "INT64"), ("sum", "amount", "DOUBLE"), ("mean", "amount", "DOUBLE"),
    ("min", "amount", "DOUBLE"), ("max", "amount", "DOUBLE"), ("std", "amount", "DOUBLE"),
    ("last", "amount", "DOUBLE"), ("sum", "quantity", "INT64"), ("mean", "quantity", "DOUBLE"),
    ("max", "quantity", "INT64"),
]  # fmt: skip
COLUMNS = [f"n{i}" for i in range(30)]
VIEWS = {
    "windows": window_view("windows", MEASURES, (1, 3, 6)),
    "rows": ViewPlan(
        "rows", "row", KEY, tuple(FieldPlan(name, "DOUBLE") for name in COLUMNS), stream="clicks"
    ),
}  # fmt: skip


class Crowd(World):
    """Asks for many users at once."""

    async def _serve(self, rounds: int, meanwhile: Any) -> None:
        self.chunks = rounds
        await super()._serve(1, meanwhile)

    async def _ask(self, vectors: Any, features: Any, users: list[int]) -> None:
        if len(users) == 1 or features[0].startswith("fresh"):
            return
        for _ in range(self.chunks):
            for at in range(0, len(users), 500):
                await super()._ask(vectors, features, users[at : at + 500])
            await asyncio.sleep(0.6)  # the log's thread takes them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=50_000, help="for each of six partitions")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.users, arguments.events, arguments.rounds = 5000, 10_000, 4
    server = LocalRedis()
    server.start()
    found = {"at": servers.stamp(), **vars(arguments)}
    try:
        for name, view in VIEWS.items():
            with tempfile.TemporaryDirectory() as folder:
                found[name] = measure(Path(folder), server.url, arguments, view)
    finally:
        server.close()
    load.dump(OUT / "verify.json", found)
    text = (
        f"Measured {found['at']}: vectors of 30 features, {found['users']:,} entities, "
        f"{found['events'] * 6:,} events in the log; no value differs.\n\n"
        "| of | vectors | s | vectors/s |\n| --- | --- | --- | --- |\n"
    )
    for name in VIEWS:
        f = found[name]
        text += f"| {name} | {f['vectors']:,} | {f['seconds']:.2f} | {f['rate']:,.0f} |\n"
    (OUT / "verify.md").write_text(text)
    print(text)


def measure(folder: Path, url: str, arguments: Any, view: ViewPlan) -> dict[str, Any]:
    world = Crowd(folder, url, f"bench-{view.name}", users=arguments.users, views=[view],
                  more=COLUMNS if view.kind == "row" else ())  # fmt: skip
    world.take_in(arguments.events)
    world.serve(arguments.rounds)
    log = FeatureLog(str(folder / "vectors" / "features"))
    for _ in range(2):  # the first run compiles
        start = time.perf_counter()
        report = verify(world.catalog, [log])
        seconds = time.perf_counter() - start
    if report.different or report.compared != 30 * report.vectors:
        raise RuntimeError(f"not every value is equal: {report.as_json()}")
    return {"vectors": report.vectors, "seconds": seconds, "rate": report.vectors / seconds}


if __name__ == "__main__":
    main()
