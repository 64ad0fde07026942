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
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CONFLUENT = os.environ.get("HEADWATER_KAFKA_CLIENT") == "confluent-kafka"
_CONSUMER = (
    "ingest.clients.confluent:ConfluentConsumer"
    if _CONFLUENT
    else "ingest.clients.kafka_python:KafkaPythonConsumer"
)
_TRANSACT = (
    f"{_CONSUMER}._transact"
    if _CONFLUENT
    else "ingest.clients.dead_letters:TransactionalProducer.commit"
)
#: Step -> (when, the function that does it, as module:class.function).
STEPS: dict[str, tuple[str, str]] = {
    "poll": ("after-some", f"{_CONSUMER}.poll"),
    "decode": ("after", "ingest.decoders.json:JsonDecoder.decode"),
    "before-fold": ("before", "headwater.states:WindowStates.fold"),
    "after-fold": ("after", "headwater.states:WindowStates.fold"),
    "before-redis": ("before", "headwater.online.writer:OnlineWriter._run"),
    "amid-redis": ("amid", "redis.connection:AbstractConnection.send_packed_command"),
    "after-redis": ("after", "headwater.online.writer:OnlineWriter._run"),
    "before-progress": ("before", "headwater.online.progress:Progress.move"),
    "after-progress": ("after", "headwater.online.progress:Progress.move"),
    "before-log": ("before", "headwater.offline.log:EventLog.append"),
    "amid-log": ("before", "headwater.offline.log:commit"),  # between the file and what names it
    "after-log": ("after", "headwater.offline.log:EventLog.append"),
    "before-commit": ("before", f"{_CONSUMER}.commit"),
    "after-commit": ("after", f"{_CONSUMER}.commit"),
    "before-dead-letters": ("before", _TRANSACT),
    "amid-dead-letters": (
        ("after", f"{_CONSUMER}._send")
        if _CONFLUENT
        else ("before", "kafka.producer.transaction_manager:TransactionManager.begin_commit")
    ),
    "after-dead-letters": ("after", _TRANSACT),
}  # fmt: skip


def die() -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def wrapped(function: Callable[..., Any], when: str, n: int) -> Callable[..., Any]:
    """The function with a death before, amid or after its n-th call (that returns something)."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if when == "after-some":
            result = function(*args, **kwargs)
            calls += bool(result)
            return die() if calls == n else result
        calls += 1
        if calls == n:
            if when == "before":
                die()
            if when == "amid":
                send_half(function, *args)
            function(*args, **kwargs)
            die()
        return function(*args, **kwargs)

    return call


def send_half(send: Callable[..., Any], connection: Any, command: Any, *rest: Any) -> None:
    """Half of what was to be sent to Redis in one go is, and was done."""
    parts = [command] if isinstance(command, bytes | str) else list(command)
    data = b"".join(part.encode() if isinstance(part, str) else bytes(part) for part in parts)
    send(connection, [data[: len(data) // 2]], *rest)
    time.sleep(0.05)
    die()


def arm(crash: str) -> None:
    step, _, n = crash.partition(":")
    when, target = STEPS[step]
    module, _, path = target.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, wrapped(getattr(owner, name), when, int(n)))


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
