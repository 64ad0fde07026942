"""What the drift job found last, in Redis, for the service to show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from headwater.online.connect import Client, store_errors


class Scored(msgspec.Struct, frozen=True):
    """A check that was made: an alarm where the score is over the limit (None: none)."""

    of: str
    feature_view: str
    feature: str
    check: str
    score: float
    limit: float | None


class Found(msgspec.Struct, frozen=True):
    """All checks of the last run, and when it ended (seconds; 0: never)."""

    at: float = 0.0
    checks: tuple[Scored, ...] = ()


def _key(project: str) -> str:
    """A hash: `at`, `checks`, and `report|<offline or served>`."""
    return f"headwater:{project}:drift"


def put(client: Client, project: str, at: float, reports: Mapping[str, Any]) -> None:
    """Keep the reports (of -> `headwater.offline.drift.report`). Raises StoreUnavailableError."""
    any_client: Any = client
    scored = [
        Scored(of, c["feature_view"], c["feature"], c["check"], c["score"], c["limit"])
        for of, report in reports.items()
        for view in report["views"]
        for c in (*view["checks"], *(c for f in view["features"] for c in f["checks"]))
    ]
    found = msgspec.json.encode(Found(at, tuple(scored)))
    fields = {f"report|{of}": json.dumps(report) for of, report in reports.items()}
    with store_errors():
        any_client.hset(_key(project), mapping={**fields, "checks": found, "at": repr(at)})


def read(client: Client, project: str, held: Found) -> Found:
    """The last run's checks; `held` where they are still those."""
    any_client: Any = client
    with store_errors():
        at = any_client.hget(_key(project), "at")
        if at is None:
            return Found()
        if float(at) == held.at:
            return held
        return msgspec.json.decode(any_client.hget(_key(project), "checks"), type=Found)


def report(client: Client, project: str, of: str) -> Any:
    """The whole report of the last run on what is offline, or was served; None before the first."""
    any_client: Any = client
    with store_errors():
        found = any_client.hget(_key(project), f"report|{of}")
    return None if found is None else json.loads(found)


def take_turn(client: Client, project: str, seconds: float) -> bool:
    """Whether it is the caller's turn to compare: once in so many seconds for the whole project."""
    any_client: Any = client
    with store_errors():
        lasts = max(1, round(seconds * 900))  # a little less, so that the next turn is not missed
        return bool(any_client.set(f"{_key(project)}:turn", "1", nx=True, px=lasts))
