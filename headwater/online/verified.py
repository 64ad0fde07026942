"""What `headwater verify` found, in Redis, for the service's metrics and pages to show."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson

from headwater.online.connect import Client, store_errors

#: The field that holds when the last run ended, seconds.
AT = b"at"
#: So many times the pause between two runs of `--every` may take until there is a new one.
PAUSES = 3
#: Reports that are kept.
KEPT = 20
#: What the list of reports says of each.
SUMMARY = (
    "id", "at", "seconds", "since", "until", "vectors", "compared", "different", "not_comparable",
)  # fmt: skip


def key(project: str) -> str:
    """A hash of `<view>|<feature>|<compared or different>` -> values of all runs."""
    return f"headwater:{project}:verified"


def reports_key(project: str) -> str:
    """A list of reports in JSON, the newest first."""
    return f"headwater:{project}:verifications"


def add(
    client: Client, project: str, counts: Mapping[str, int], at: float,
    report: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Take note of a run that ended at `at` (Unix seconds); `report` has what SUMMARY names.

    Raises StoreUnavailableError where Redis is down.
    """
    any_client: Any = client
    with store_errors():
        pipe = any_client.pipeline(transaction=False)
        for field, count in counts.items():
            pipe.hincrby(key(project), field, count)
        pipe.hset(key(project), AT, repr(at))
        if report is not None:
            pipe.lpush(reports_key(project), orjson.dumps(report, default=str))
            pipe.ltrim(reports_key(project), 0, KEPT - 1)
        pipe.execute()


def read(client: Client, project: str) -> tuple[dict[tuple[str, str, str], int], float]:
    """(view, feature, compared or different) -> values, and when the last run ended (0: never)."""
    any_client: Any = client
    with store_errors():
        found: dict[bytes, bytes] = any_client.hgetall(key(project))
    at = float(found.pop(AT, b"0"))
    counts: dict[tuple[str, str, str], int] = {}
    for field, count in found.items():
        view, feature, kind = field.decode().split("|")
        counts[view, feature, kind] = int(count)
    return counts, at


def reached(client: Client, project: str, scope: str) -> int | None:
    """The time up to which runs of one scope have verified, microseconds; None: there was none."""
    any_client: Any = client
    with store_errors():
        found = any_client.hget(f"{key(project)}-until", scope)
    return None if found is None else int(found)


def reach(client: Client, project: str, scope: str, until_us: int, turn_seconds: float) -> None:
    """Take note that a scope is verified up to a time, and by when it has to be again.

    turn_seconds: from the end of one run to the end of the next.
    """
    any_client: Any = client
    with store_errors():
        pipe = any_client.pipeline(transaction=False)
        pipe.hset(f"{key(project)}-until", scope, until_us)
        pipe.hset(_due_key(project), scope, repr(time.time() + PAUSES * turn_seconds))
        pipe.execute()


def promise(client: Client, project: str, scope: str, every_seconds: float) -> None:
    """A scope is verified again and again from now on. A promise that stands is not put off:
    a process that starts over and over is none that verifies."""
    any_client: Any = client
    with store_errors():
        any_client.hsetnx(_due_key(project), scope, repr(time.time() + PAUSES * every_seconds))


def withdraw(client: Client, project: str, scope: str) -> None:
    """Nobody waits for a scope to be verified any more."""
    any_client: Any = client
    with store_errors():
        any_client.hdel(_due_key(project), scope)


def due(client: Client, project: str) -> float | None:
    """By when one of the scopes has to be verified again, seconds; None: none is promised."""
    any_client: Any = client
    with store_errors():
        found: list[bytes] = any_client.hvals(_due_key(project))
    return min(map(float, found), default=None)


def _due_key(project: str) -> str:
    """A hash of scope -> by when it has to be verified again, seconds."""
    return f"{key(project)}-due"


def reports(client: Client, project: str) -> list[dict[str, Any]]:
    """The last reports, the newest first."""
    any_client: Any = client
    with store_errors():
        found: list[bytes] = any_client.lrange(reports_key(project), 0, KEPT - 1)
    return [orjson.loads(text) for text in found]


def summaries(client: Client, project: str) -> list[dict[str, Any]]:
    """The last reports without their features, the newest first."""
    return [{name: one.get(name) for name in SUMMARY} for one in reports(client, project)]


def report(client: Client, project: str, name: str) -> dict[str, Any] | None:
    """One of the last reports by its id; None where it is not kept (any more)."""
    return next((one for one in reports(client, project) if one["id"] == name), None)
