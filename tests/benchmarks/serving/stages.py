"""Where the time of a request goes inside our own code, stage by stage, without the sockets."""

from __future__ import annotations

import json
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hiredis
import redis

from headwater import catalog_cache
from headwater.settings import Settings
from service import answer
from service.feature_log import FeatureLogs
from service.metrics import Metrics
from service.vectors import Vectors, parse


def measure(repo: Path, url: str, features: Sequence[str], n: int) -> dict[str, float]:
    """Microseconds of each stage, the best of several runs."""
    metrics = Metrics()
    vectors = Vectors(Settings(), metrics, FeatureLogs(Settings(), metrics, url))
    vectors.use(catalog_cache.load(repo))
    names = list(features)
    entities = {"customer_id": list(range(5, 5 + n))}
    body = json.dumps({"features": names, "entities": entities}).encode()
    plan = vectors.prepared(None, names, False)
    prefixes = [read.reader.prefix for read in plan.plan.reads]
    keys = [b"%b{%d}" % (prefix, i) for prefix in prefixes for i in entities["customer_id"]]
    with redis.Redis.from_url(url) as client:
        data: Any = client.mget(keys)
    raw = b"*%d\r\n" % len(data) + b"".join(b"$%d\r\n%b\r\n" % (len(d), d) for d in data)
    now_us = 2_000_000_000_000_000
    columns = plan.columns(data, n, now_us)
    kinds = [["DOUBLE"] * len(read.features) for read in plan.plan.reads]

    def replies() -> Any:
        reader = hiredis.Reader()
        reader.feed(raw)
        return reader.gets()

    stages: dict[str, Callable[[], Any]] = {
        "parse": lambda: parse(body),
        "plan": lambda: vectors.prepared(None, names, False),
        "check": lambda: plan.check(entities),
        "command": lambda: plan.commands(entities, n),
        "reply": replies,
        "decode, windows": lambda: plan.columns(data, n, now_us),
        "encode": lambda: [
            answer.pieces(one, kind, False) for one, kind in zip(columns, kinds, strict=True)
        ],
        "all after the reply, metrics too": lambda: plan.answer(entities, data, n),
    }
    times = 500 if n == 1 else 50
    return {
        name: min(timeit.repeat(stage, number=times, repeat=7)) / times * 1e6
        for name, stage in stages.items()
    }
