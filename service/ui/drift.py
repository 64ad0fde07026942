"""Whether features still are what they were, as the last comparison found, for the pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from headwater.online import drift_status
from headwater.online.drift_status import Found, Scored
from service.ui import drawings
from service.ui.pages import Pages

#: What is compared with its baseline.
_OF = ("offline", "served")


class State(NamedTuple):
    """Of one feature: `look` good or bad, and what says so."""

    look: str
    text: str


def states(found: Found) -> dict[tuple[str, str], State]:
    """(view, feature) -> its state, of the features that were compared; "" is a view's rows."""
    by_feature: dict[tuple[str, str], list[Scored]] = {}
    for check in found.checks:
        by_feature.setdefault((check.feature_view, check.feature), []).append(check)
    return {key: _state(checks) for key, checks in by_feature.items()}


def _state(checks: list[Scored]) -> State:
    alarms = {c.check: None for c in checks if c.limit is not None and c.score > c.limit}
    if alarms:
        return State("bad", ", ".join(alarms).replace("_", " "))
    return (
        State("good", "steady") if any(c.limit is not None for c in checks) else State("none", "")
    )


class Drift:
    """The last comparison; what it says of all features is made once for each run."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._states: tuple[Found, dict[tuple[str, str], State]] = (Found(), {})
        self._reports: tuple[float, dict[str, dict[tuple[str, str], Any]]] = (0.0, {})

    @property
    def at(self) -> float:
        """When features were last compared, in seconds; 0: never."""
        return self._pages.observed.drift.at

    def states(self) -> Mapping[tuple[str, str], State]:
        found = self._pages.observed.drift
        if self._states[0] is not found:
            self._states = (found, states(found))
        return self._states[1]

    def of(self, view: str, feature: str) -> list[dict[str, Any]]:
        """What was found of a feature that is offline and that was served, each with its picture.

        Raises StoreUnavailableError.
        """
        if self._reports[0] != self.at:
            self._reports = (self.at, {of: self._read(of) for of in _OF})
        found = []
        for of, features in self._reports[1].items():
            about = features.get((view, feature))
            if about is not None:
                found.append({"of": of, "picture": _picture(of, about["bins"]), **about})
        return found

    def _read(self, of: str) -> dict[tuple[str, str], Any]:
        """The last report's features, with the times that they are of."""
        writer = self._pages.service.writer
        report = drift_status.report(writer.client, writer.project, of)
        if report is None:
            return {}
        times = {"from_us": report["from_us"], "until_us": report["until_us"]}
        return {
            (view["feature_view"], feature["feature"]): {**feature, **times}
            for view in report["views"]
            for feature in view["features"]
        }


def _picture(of: str, bins: Mapping[str, Any] | None) -> str:
    if not bins:
        return ""
    names = [n if isinstance(n, str) else f"up to {n:,.4g}" for n in bins["names"]]
    return drawings.shares(names, bins["baseline"], bins["current"], of)
