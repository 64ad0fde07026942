"""The alerts that are active, as an Alertmanager tells them (its API, version 2)."""

from __future__ import annotations

import base64
import urllib.error
import urllib.request
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

import orjson

from headwater.errors import StoreUnavailableError

_TIMEOUT_SECONDS = 2.0
_PATH = "/api/v2/alerts?active=true&silenced=false&inhibited=false"


class Alert(NamedTuple):
    """`runbook` is a URL or a path of the documentation; "" where the alert names none."""

    name: str
    severity: str
    summary: str
    runbook: str
    since: str
    labels: dict[str, str]


def active(url: str) -> list[Alert]:
    """The alerts that fire and are neither silenced nor inhibited, the gravest first.

    Raises StoreUnavailableError where it does not answer.
    """
    request = _request(url)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310 (the settings' own)
            found = orjson.loads(answer.read())
        alerts = [_alert(one) for one in found]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreUnavailableError(
            f"the Alertmanager at {request.host} does not tell its alerts ({_why(error)}); "
            "check HEADWATER_ALERTMANAGER_URL"
        ) from error
    grave = ("critical", "warning", "info")
    order = {severity: at for at, severity in enumerate(grave)}
    return sorted(alerts, key=lambda a: (order.get(a.severity, len(grave)), a.name, a.since))


def _alert(found: dict[str, Any]) -> Alert:
    labels, notes = dict(found["labels"]), found.get("annotations", {})
    return Alert(
        name=labels.pop("alertname", ""),
        severity=labels.pop("severity", ""),
        summary=notes.get("summary", "") or notes.get("description", ""),
        runbook=notes.get("runbook_url", ""),
        since=found["startsAt"],
        labels=labels,
    )


def _request(url: str) -> urllib.request.Request:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    headers = {}
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    plain = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
    return urllib.request.Request(plain + _PATH, headers=headers)  # noqa: S310 (http or https by the setting's check)


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"status {error.code}"
    return type(error).__name__
