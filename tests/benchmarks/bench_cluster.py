"""Writes and reads of packed values: a Redis Cluster of three primaries against one server.

Keys a second, the best of several runs, all servers and the client on this machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from headwater.interning import Texts, texts
from headwater.local import LocalRedis
from headwater.online.connect import connect
from headwater.online.progress import Place, Progress
from headwater.online.writer import OnlineWriter
from tests.redis_cluster import Cluster

KEYS, ROUNDS = 50_000, 5
PREFIX = b"bench000"


def rate(work: Callable[[], object], keys: int = KEYS) -> float:
    best = 0.0
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        best = max(best, keys / (time.perf_counter() - start))
    return best


def measure(url: str) -> dict[str, float]:
    with connect(url, 10.0) as client:
        writer, progress = OnlineWriter(client, "bench"), Progress(client, "bench")
        keys = texts([b"%d" % i for i in range(KEYS)])
        values = [rows(time_us) for time_us in range(ROUNDS)]
        newest = iter(values)
        found = {"rows written": rate(lambda: writer.run(writer.rows(PREFIX, keys, next(newest))))}
        found["rows read"] = rate(lambda: writer.read_texts(PREFIX, keys))
        place, epoch = Place(PREFIX, "t", 0), progress.epoch()
        progress.move({place: (None, 0)})
        at = iter(range(10_000))

        def step() -> None:
            for _ in range(20):
                held = next(at)
                progress.move({place: (held, held + 1)})
                progress.stands(epoch, {place: held})

        found["progress moved and checked, ms"] = 1000 / rate(step, 20)
    return found


def rows(time_us: int) -> Texts:
    """88 bytes each: a row's header and ten floats."""
    head = b"\0" * 4 + time_us.to_bytes(8, "little")
    return texts([head + b"%076d" % i for i in range(KEYS)])


def main() -> None:
    server, cluster = LocalRedis(), Cluster()
    try:
        server.start()
        cluster.start()
        one, many = measure(server.url), measure(cluster.url)
    finally:
        server.close()
        cluster.close()
    print(f"{'':34}{'one server':>14}{'cluster':>14}")
    for name in one:
        print(f"{name:34}{one[name]:>14,.1f}{many[name]:>14,.1f}")


if __name__ == "__main__":
    main()
