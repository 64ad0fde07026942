"""What the drift job found last, in Redis, for the service to show."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
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

    @property
    def over(self) -> float:
        """By how much the score is over the limit."""
        return -math.inf if self.limit is None else self.score - self.limit


#: Measures of models that have a series.
MEASURES = (
    "outcomes", "mae", "rmse", "bias", "auc", "log_loss", "brier", "calibration_error", "accuracy",
    "balanced_accuracy",
)  # fmt: skip


class Measured(msgspec.Struct, frozen=True):
    """How good a version of a model was, by one measure, on the last day with outcomes."""

    model: str
    version: str
    measure: str
    value: float


class Found(msgspec.Struct, frozen=True):
    """What the last run found, and when it ended (seconds; 0: never)."""

    at: float = 0.0
    checks: tuple[Scored, ...] = ()
    models: tuple[Measured, ...] = ()


def _key(project: str) -> str:
    """A hash: `at`, `checks`, and `report|<offline, served or predictions>`."""
    return f"headwater:{project}:drift"


def put(
    client: Client, project: str, at: float, reports: Mapping[str, Any],
    days: Sequence[Mapping[str, Any]] = (),
) -> None:  # fmt: skip
    """Keep the reports (of -> `headwater.offline.drift.report`), and of the days of models
    (`headwater.offline.predictions.quality`) the last. Raises StoreUnavailableError."""
    any_client: Any = client
    # Of what several services are compared by, the worst counts.
    worst: dict[tuple[str, ...], Scored] = {}
    for of, report in reports.items():
        for view in report["views"]:
            for c in (*view["checks"], *(c for f in view["features"] for c in f["checks"])):
                of_check = (of, c["feature_view"], c["feature"], c["check"])
                scored = Scored(*of_check, c["score"], c["limit"])
                held = worst.get(of_check)
                if held is None or scored.over > held.over:
                    worst[of_check] = scored
    found = msgspec.json.encode(Found(at, tuple(worst.values()), _last_days(days)))
    fields = {f"report|{of}": json.dumps(report) for of, report in reports.items()}
    with store_errors():
        any_client.hset(_key(project), mapping={**fields, "checks": found, "at": repr(at)})


def _last_days(days: Sequence[Mapping[str, Any]]) -> tuple[Measured, ...]:
    newest = {(day["model"], day["version"]): day for day in days if day["outcomes"]}
    return tuple(
        Measured(model, version, name, day[name])
        for (model, version), day in newest.items()
        for name in MEASURES
        if day.get(name) is not None
    )


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
    """The last run's whole report of what is offline, served or predicted; None before it."""
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
