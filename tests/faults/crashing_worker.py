"""The real ingest worker, which kills itself (SIGKILL) at the n-th call of a step.

Or which the n-th call of a step fails, and which is asked to stop (SIGTERM) as soon as it says so.

It runs in a process of its own, forked off one that has imported everything once: an interpreter's
start and its imports would be most of a fault test.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headwater.errors import (
    FencedError,
    HeadwaterError,
    LogConflictError,
    StoreUnavailableError,
)
from ingest.__main__ import main
from ingest.clients import dead_letters

_CONSUMERS = {
    "kafka-python": "ingest.clients.kafka_python:KafkaPythonConsumer",
    "confluent-kafka": "ingest.clients.confluent:ConfluentConsumer",
}
_PRODUCER = "ingest.clients.dead_letters:TransactionalProducer"
#: Step -> (when, the function that does it, as module:class.function).
STEPS: dict[str, tuple[str, str]] = {
    "poll": ("after-some", "CONSUMER.poll"),
    "decode": ("after", "ingest.decoders.json:JsonDecoder.decode"),
    "before-fold": ("before", "headwater.online.sinks:WindowSink.apply"),
    "after-fold": ("after", "headwater.online.sinks:WindowSink.apply"),
    "before-redis": ("before", "headwater.online.writer:OnlineWriter._run"),
    "amid-redis": ("amid", "redis.connection:AbstractConnection.send_packed_command"),
    "after-redis": ("after", "headwater.online.writer:OnlineWriter._run"),
    "before-progress": ("before", "headwater.online.progress:Progress.move"),
    "after-progress": ("after", "headwater.online.progress:Progress.move"),
    "before-log": ("before", "headwater.offline.log:EventLog.append"),
    "amid-log": ("before", "headwater.offline.log:commit"),  # between the file and what names it
    "after-log": ("after", "headwater.offline.log:EventLog.append"),
    "before-commit": ("before", "CONSUMER.commit"),
    "after-commit": ("after", "CONSUMER.commit"),
    "before-dead-letters": ("before", f"{_PRODUCER}.commit"),
    "amid-dead-letters": (
        "before", "kafka.producer.transaction_manager:TransactionManager.begin_commit"
    ),
    "after-dead-letters": ("after", f"{_PRODUCER}.commit"),
}  # fmt: skip
#: The same steps where confluent-kafka has them.
CONFLUENT_STEPS = {
    "before-dead-letters": ("before", "CONSUMER._transact"),
    "amid-dead-letters": ("after", "CONSUMER._send"),
    "after-dead-letters": ("after", "CONSUMER._transact"),
}
#: Step -> (the function that fails, as above, and with what).
FAILURES: dict[str, tuple[str, type[HeadwaterError]]] = {
    "redis-fails": ("headwater.online.writer:OnlineWriter._run", StoreUnavailableError),
    "log-fails": ("headwater.offline.log:EventLog.append", LogConflictError),
    "commit-fails": ("CONSUMER.commit", FencedError),
}


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


def failing(function: Callable[..., Any], error: type[HeadwaterError], n: int) -> Any:
    """The function with a failure instead of its n-th call."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == n:
            logging.getLogger("headwater.ingest").addHandler(_Stop())
            raise error(f"call {n} fails")
        return function(*args, **kwargs)

    return call


class _Stop(logging.Handler):
    """Whoever stops a worker does it at no better moment than when it has something to say."""

    def emit(self, record: logging.LogRecord) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def arm(crash: str, client: str) -> None:
    step, _, n = crash.partition(":")
    if step in FAILURES:
        target, error = FAILURES[step]
        _replace(target, client, lambda function: failing(function, error, int(n)))
    else:
        steps = {**STEPS, **(CONFLUENT_STEPS if client == "confluent-kafka" else {})}
        when, target = steps[step]
        _replace(target, client, lambda function: wrapped(function, when, int(n)))


def _replace(target: str, client: str, by: Callable[[Any], Any]) -> None:
    module, _, path = target.replace("CONSUMER", _CONSUMERS[client]).partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, by(getattr(owner, name)))


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


def run(words: Sequence[str], env: Mapping[str, str], crash: str, clock: Path) -> None:
    """`headwater ingest` with these words and this environment, as the whole of a process.

    crash: a step and the number of the call that is its end, as "before-fold:3"; "" for none.
    clock: the seconds by which this process's wall clock is wrong, if there is such a file; they
    may change while it runs.
    """
    os.environ.clear()
    os.environ.update(env)
    # What a killed worker left open is aborted sooner, so that the next one need not wait.
    dead_letters.TRANSACTION_TIMEOUT_MS = 3000
    bend_clock(clock)
    if crash:
        arm(crash, env.get("HEADWATER_KAFKA_CLIENT", "kafka-python"))
    sys.argv[1:] = words
    sys.exit(main())
