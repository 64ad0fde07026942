"""The service under more load than it carries, and around an outage of its Redis."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from headwater.local import LocalRedis


class Overload(NamedTuple):
    """Answers a second, 200 and 503, and their latencies in milliseconds."""

    accepted: float
    accepted_p50_ms: float
    accepted_p99_ms: float
    refused: float
    refused_p99_ms: float


def overload(url: str, body: Any, connections: int, seconds: int) -> Overload:
    """So many connections, each with a request under way at all times. Needs h2load.

    Raises RuntimeError for an answer that is neither 200 nor 503.
    """
    with tempfile.TemporaryDirectory() as folder:
        data, log = Path(folder) / "body", Path(folder) / "log"
        data.write_text(json.dumps(body))
        done = subprocess.run(
            ["h2load", "--h1", "-t1", f"-c{connections}", f"-D{seconds}", f"-d{data}",
             "-Hcontent-type: application/json", f"--log-file={log}",
             f"{url}/get-online-features"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    times = {
        status: sorted(int(row[2]) / 1000 for row in rows if row[1] == status)
        for status in ("200", "503")
    }
    if not times["200"] or sum(map(len, times.values())) < len(rows):
        raise RuntimeError(done.stdout + done.stderr)
    accepted, refused = times["200"], times["503"] or [0.0]
    return Overload(
        len(accepted) / seconds, accepted[len(accepted) // 2], accepted[len(accepted) * 99 // 100],
        len(times["503"]) / seconds, refused[len(refused) * 99 // 100],
    )  # fmt: skip


class Outage(NamedTuple):
    """Milliseconds to a 503 while Redis is away, and from the start of its process to a vector."""

    refused_ms: float
    back_ms: float


def outage(url: str, body: bytes, server: LocalRedis) -> Outage:
    """Kill Redis, ask, start it again, ask until there is an answer."""
    server.kill()
    status, refused = _ask(url, body)
    for _ in range(10):  # the first request may be the one that finds it gone
        status, seconds = _ask(url, body)
        refused = max(refused, seconds)
    if status != 503:
        raise RuntimeError(f"without Redis the service answers {status}")
    returned = time.perf_counter()
    server.start()
    while (status := _ask(url, body)[0]) != 200:
        if time.perf_counter() - returned > 10:
            raise RuntimeError(f"ten seconds after Redis's return the service answers {status}")
        time.sleep(0.002)
    return Outage(refused * 1e3, (time.perf_counter() - returned) * 1e3)


def _ask(url: str, body: bytes) -> tuple[int, float]:
    start = time.perf_counter()
    request = urllib.request.Request(
        f"{url}/get-online-features", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
            return answer.status, time.perf_counter() - start
    except urllib.error.HTTPError as error:
        return error.code, time.perf_counter() - start
