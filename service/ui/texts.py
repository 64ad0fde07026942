"""How the pages write times, lengths of time, sizes and values. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from headwater.amounts import lasting, size, some


def ago(seconds: float) -> str:
    """How long something is past: "just now", "12 s ago"."""
    return "just now" if seconds < 5 else f"{lasting(round(seconds))} ago"


def ratio(value: float | None) -> str:
    """A share as percent: "0", "0.04 %", "12 %", "100 %"; "" for none."""
    if value is None:
        return ""
    return f"{value * 100:.2g} %" if 0 < value < 0.995 else "0" if not value else "100 %"


def count(number: float | None) -> str:
    """A whole number with its thousands apart; "" for none."""
    return "" if number is None else f"{number:,.0f}"


def moment(us: int | None) -> str:
    """Microseconds since 1970 as "2026-01-05 12:00:00" (UTC); "" for none."""
    return "" if not us else datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")


def iso(text: str) -> str:
    """An ISO 8601 time as `moment` writes times; without a zone it is UTC."""
    found = datetime.fromisoformat(text)
    return moment(round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1e6))


def value(found: Any) -> str:
    """A feature's value as a page shows it, cut where it is long."""
    if found is None:
        return "null"
    if isinstance(found, float):
        return f"{found:,.6g}" if abs(found) < 1e15 else f"{found:g}"
    if isinstance(found, str):
        return found if len(found) < 120 else found[:118] + "…"
    text = orjson.dumps(found, default=str, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    return text if len(text) < 120 else text[:118] + "…"


def sentence(text: str) -> str:
    """An error's text as a sentence."""
    whole = text[:1].upper() + text[1:]
    return whole if whole.endswith((".", "!", "?")) else whole + "."


FILTERS: dict[str, Callable[..., str]] = {
    "lasting": lasting,
    "ago": ago,
    "size": size,
    "some": some,
    "ratio": ratio,
    "number": count,
    "moment": moment,
    "iso": iso,
    "value": value,
}
