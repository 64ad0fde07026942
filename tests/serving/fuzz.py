"""Requests of every kind of wrong, and of almost right."""

from __future__ import annotations

import http.client
import json
import random
from typing import Any

from tests.serving import project
from tests.serving.server import Running

PATHS = ["/get-online-features", "/push", "/write-to-online-store", "/materialize"]
WORDS = [
    "entities", "features", "feature_service", "full_feature_names", "df", "to", "user_id",
    "push_source_name", "feature_view_name", "numbers_push", "numbers", "doubles:d0", "texts:word",
    "pairs:score", "everywhere:rate", "by_frame:total", "by_lists:ratio", "session_id", "amount",
    "everything", "renamed", "event_timestamp", "online", "offline", "", ":", "a:b:c", "\0",
    "\ud83d",
    "i32", "i64", "f32", "f64", "flag", "seen_at", "word", "raw", "labels", "feature_views",
]  # fmt: skip


def value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(9 if depth < 4 else 6)
    if kind == 0:
        return chance.choice(WORDS)
    if kind == 1:
        return chance.choice([0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63)])
    if kind == 2:
        return chance.choice([0.5, -0.0, 1e308, 1e-320, 12345678901.5])
    if kind in {3, 4}:
        return chance.choice([None, True, False])
    if kind == 5:
        return chance.choice(["2024-01-01", "2024-01-01T00:00:00Z", "NaN", "é{}", "9" * 400])
    if kind == 6:
        return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(WORDS): value(chance, depth + 1) for _ in range(chance.randrange(4))}


def near(chance: random.Random) -> Any:
    """A request that is almost right: some parts of a right one are replaced."""
    right = chance.choice(
        [
            {"features": ["numbers:i32", "doubles:d0"], "entities": {"user_id": [1, 2]}},
            {"features": ["texts:word", "texts:labels"], "entities": {"session_id": ["s1"]}},
            {"features": ["by_frame:total"], "entities": {"user_id": [1], "amount": [2.0]}},
            {"feature_service": "everything", "full_feature_names": True,
             "entities": {"user_id": [1], "session_id": ["s1"]}},
            {"push_source_name": "numbers_push", "to": "online", "df": project.frames()["numbers"]},
            {"feature_view_name": "texts", "df": project.frames()["texts"]},
        ]
    )  # fmt: skip
    body = json.loads(json.dumps(right))
    for _ in range(chance.randint(1, 2)):
        at: Any = body
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(at[key], dict | list) and at[key] and chance.random() < 0.8:
                at = at[key]
                continue
            at[key] = value(chance, 2)
            break
    return body


def garbled(chance: random.Random, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if found:
            found[chance.randrange(len(found))] = chance.randrange(256)
    return bytes(found[: chance.randint(0, len(found))]) if chance.random() < 0.3 else bytes(found)


def fuzz(running: Running, seed: int, tries: int) -> None:
    """Send so many bodies; each must get what is right or a 4xx that says what is wrong."""
    chance = random.Random(seed)
    host, port = running.url.split("//")[1].split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    for _ in range(tries):
        body = value(chance) if chance.random() < 0.3 else near(chance)
        data = json.dumps(body).encode()
        if chance.random() < 0.2:
            data = garbled(chance, data)
        path = chance.choice(PATHS)
        connection.request("POST", path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status < 500, (path, data, text)
        if answer.status >= 400:
            assert text.startswith((b'{"detail":', b'"{')), (path, data, text)
        else:
            json.loads(text)
    connection.close()
