"""What it costs a service to keep something besides answering: `switched.py` under load."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.benchmarks.serving import load, servers
from tests.benchmarks.serving.switched import Took
from tests.waiting import until

_PROGRAM = Path(__file__).with_name("switched.py")


def service(
    repo: Path, redis: str, what: str, file: Path, **settings: str
) -> AbstractContextManager[servers.Running]:
    """A service of which something can be switched (`switched._SWITCHES`), for `measured`."""
    more = {"SWITCHED": what, "SWITCHED_INTO": str(file)}
    return servers.headwater(repo, redis, (str(_PROGRAM),), **more, **settings)


class Measured(NamedTuple):
    """What each way took, and the CPU seconds of the feature log's writer before the load and at
    the end of what was measured of it."""

    took: dict[str, Took]
    writer: tuple[float, float]


def measured(
    running: servers.Running, file: Path, ways: Sequence[str], asked: Any, seconds: int, **more: Any
) -> Measured:
    """So many seconds within a load, not while that comes up or ends.

    asked: features, entities a request, entities, connections. more: other members of the requests.
    """
    text = json.dumps(list(ways))
    file.write_text(text)
    before = writer_seconds(running.pid)
    with ThreadPoolExecutor(1) as pool:
        loaded = pool.submit(load.run, running.url, *asked, seconds + 2, **more)
        time.sleep(1)
        os.kill(running.pid, signal.SIGUSR1)
        time.sleep(seconds)
        os.kill(running.pid, signal.SIGUSR2)
        writer = writer_seconds(running.pid)
        until(lambda: file.read_text() != text)
        loaded.result()
    took: dict[str, Took] = json.loads(file.read_text())
    return Measured(took, (before, writer))


def writer_seconds(pid: int) -> float:
    """CPU seconds that the feature log's writer of a service has used so far."""
    children = psutil.Process(pid).children()
    times = [c.cpu_times() for c in children if "headwater.offline.log_writer" in c.cmdline()]
    return sum(float(t.user + t.system) for t in times)
