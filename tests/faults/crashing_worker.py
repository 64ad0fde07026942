"""The real ingest worker, which kills itself (SIGKILL) at the n-th call of a step.

    FAULTS_CRASH=fold:3 FAULTS_CLOCK=/a/file python -P crashing_worker.py --repo DIR

Without FAULTS_CRASH it is the plain worker. FAULTS_CLOCK's content, if there is such a file, are
the seconds by which this process's wall clock is wrong; they may change while it runs.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Step -> (when, the functions that do it, as module:class.function).
STEPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "poll": ("after", ("kafka:KafkaConsumer.poll",)),
    "decode": ("after", ("ingest.decode:JsonDecoder.decode",)),
    "before-fold": ("before", ("headwater.windows:WindowProgram.fold",)),
    "after-fold": ("after", ("headwater.windows:WindowProgram.fold",)),
    "before-windows": ("before", ("headwater.online.writer:OnlineWriter.write_sections",)),
    "amid-windows": ("amid", ("headwater.online.writer:OnlineWriter.write_sections",)),
    "after-windows": ("after", ("headwater.online.writer:OnlineWriter.write_sections",)),
    "before-rows": ("before", ("headwater.online.writer:OnlineWriter.write_rows",)),
    "after-rows": ("after", ("headwater.online.writer:OnlineWriter.write_rows",)),
    "before-log": ("before", ("headwater.offline.log:EventLog.append",)),
    "amid-log": ("files", ("headwater.offline.log:write_deltalake",)),
    "after-log": ("after", ("headwater.offline.log:EventLog.append",)),
    "before-commit": ("before", ("kafka:KafkaConsumer.commit",)),
    "after-commit": ("after", ("kafka:KafkaConsumer.commit",)),
    "dead-letter": ("after", ("kafka:KafkaProducer.send",)),
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wrapped(function: Callable[..., Any], when: str, count: list[int]) -> Callable[..., Any]:
    """The function with a death before, amid or after the call that brings the count to 0."""

    def call(*args: Any, **kwargs: Any) -> Any:
        count[0] -= 1
        last = count[0] == 0
        if last and when == "before":
            die()
        if last and when == "amid":
            # Half of what was to be written in this call is.
            writer, keys, values = args
            function(writer, keys[: len(keys) // 2], values[: len(keys) // 2])
            die()
        if last and when == "files":
            threading.Thread(target=die_at_a_new_file, args=(args[0].table_uri,)).start()
        result = function(*args, **kwargs)
        if last and when in {"after", "files"}:
            die()
        return result

    return call


def die_at_a_new_file(uri: str) -> None:
    """Between an append's data file and the commit that names it."""
    folder = Path(uri.removeprefix("file://"))
    before = set(folder.glob("*.parquet"))
    while set(folder.glob("*.parquet")) == before:
        pass
    die()


def arm(crash: str) -> None:
    step, _, n = crash.partition(":")
    when, targets = STEPS[step]
    count = [int(n or 1)]
    for target in targets:
        module, _, path = target.partition(":")
        owner: Any = importlib.import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, wrapped(getattr(owner, name), when, count))


def bend_clock(file: Path) -> None:
    """`time.time` and `time.time_ns` are wrong by the seconds that the file says."""
    real, held = time.time_ns, [0.0, 0]

    def shift_ns() -> int:
        if time.monotonic() - held[0] > 0.05:
            held[0] = time.monotonic()
            held[1] = int(float(file.read_text() or 0) * 1e9) if file.exists() else 0
        return int(held[1])

    time.time_ns = lambda: real() + shift_ns()
    time.time = lambda: (real() + shift_ns()) / 1e9


if __name__ == "__main__":
    bend_clock(Path(os.environ["FAULTS_CLOCK"]))
    if os.environ["FAULTS_CRASH"]:
        arm(os.environ["FAULTS_CRASH"])
    from ingest.__main__ import main

    sys.exit(main())
