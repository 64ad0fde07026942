"""What `headwater verify` found, in Redis, for the service's metrics to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.online.connect import Client, store_errors

#: The field that holds when the last run ended, seconds.
AT = b"at"


def key(project: str) -> str:
    """A hash of `<view>|<feature>|<compared or different>` -> values of all runs."""
    return f"headwater:{project}:verified"


def add(client: Client, project: str, counts: Mapping[str, int], at: float) -> None:
    """Raises StoreUnavailableError where Redis is down."""
    any_client: Any = client
    with store_errors():
        pipe = any_client.pipeline(transaction=False)
        for field, count in counts.items():
            pipe.hincrby(key(project), field, count)
        pipe.hset(key(project), AT, repr(at))
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
