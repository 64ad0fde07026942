"""Where the time of a request goes inside our own code, stage by stage, and what Redis takes."""

from __future__ import annotations

import json
import socket
import time
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hiredis
from redis.connection import parse_url

from headwater import catalog_cache
from headwater.settings import Settings
from service import answer
from service.access import ANONYMOUS
from service.feature_log import FeatureLogs
from service.metrics import Metrics
from service.on_demand import Computed
from service.prepared import One
from service.vectors import JSON, Vectors, parse

#: An on-demand view over one row view, asked for beside the features.
ON_DEMAND = "made:of_two"
#: Requests for one entity that are answered together.
TOGETHER = 8


def measure(repo: Path, url: str, features: Sequence[str], n: int) -> dict[str, float]:
    """Microseconds of each stage, the best of several runs."""
    metrics = Metrics()
    vectors = Vectors(Settings(), metrics, FeatureLogs(Settings(), metrics, url))
    vectors.use(catalog_cache.load(repo))
    vectors.warm()
    names, entities = list(features), {"customer_id": list(range(5, 5 + n))}
    body = json.dumps({"features": names, "entities": entities}).encode()
    plan, more = (vectors.prepared(None, asked, False) for asked in (names, [*names, ON_DEMAND]))
    computed = Computed(more.plan.on_demand[0], more.plan)
    command, now_us = plan.commands(entities, n)[0], time.time_ns() // 1000
    with _Connection(url) as redis:
        data, raw = redis.ask(command)
        more_columns = more.columns(redis.ask(more.commands(entities, n)[0])[0], n, now_us)
        columns = plan.columns(data, n, now_us)
        stages: dict[str, Callable[[], Any]] = {
            "parse": lambda: parse(body),
            "plan": lambda: vectors.prepared(None, names, False),
            "check": lambda: plan.check(entities),
            "command": lambda: plan.commands(entities, n),
            "Redis and back": lambda: redis.ask(command),
            "reply": lambda: _read(raw),
            "decode, windows": lambda: plan.columns(data, n, now_us),
            "an on-demand view": lambda: computed.columns(more_columns, entities, n),
            "encode": lambda: [
                answer.pieces(one, types, False)
                for one, types in zip(columns, plan.types, strict=True)
            ],
            "metrics": lambda: _count(metrics, plan, columns, data, n, now_us),
            "all after the reply": lambda: plan.answer(entities, data, n),
        }
        if n == 1:  # what a request for one entity takes instead
            vectors.understand(body, JSON)
            one = One(plan, plan.head(entities) or b"", entities, ANONYMOUS, (0.0, 0.0), print)
            one.data = data
            to = metrics.answered(JSON.route, JSON.method, 200)
            stages["known by its bytes"] = lambda: vectors.understand(body, JSON)
            stages[f"after the reply, {TOGETHER} at once"] = lambda: plan.answers(
                [one] * TOGETHER, 0.0, to
            )
        times = 500 if n == 1 else 50
        return {
            name: min(timeit.repeat(stage, number=times, repeat=7)) / times * 1e6
            for name, stage in stages.items()
        }


def _count(metrics: Metrics, plan: Any, columns: Any, data: Any, n: int, now_us: int) -> None:
    """What a request is counted in."""
    plan.tally.count([(view.event_us, view.status) for view in columns], n, now_us, data)
    answered = metrics.answered("/get-online-features", "POST", 200)
    plan.ended("", n, answered, 0.002, 0.001)


def _read(raw: bytes) -> Any:
    reader = hiredis.Reader()
    reader.feed(raw)
    return reader.gets()


class _Connection:
    """A plain socket to Redis."""

    def __init__(self, url: str) -> None:
        options = parse_url(url)
        self._socket = socket.create_connection((options["host"], options["port"]))

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, command: bytes) -> tuple[Any, bytes]:
        """The reply to a packed command, and its bytes."""
        self._socket.sendall(command)
        reader, parts = hiredis.Reader(), []
        while (reply := reader.gets()) is False:
            parts.append(self._socket.recv(1 << 20))
            reader.feed(parts[-1])
        return reply, b"".join(parts)
