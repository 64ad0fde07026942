"""Whether features still are what they were, as the last comparison found, for the pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from headwater.catalog import OnDemandPlan, ViewPlan
from headwater.online.drift_status import Found, Scored
from headwater.quality.feature_sketches import HOUR_US
from service.ui import drawings, texts

#: What is compared with its baseline.
_OF = ("offline", "served")
_WEEK_US = 7 * 24 * HOUR_US


class State(NamedTuple):
    """Of one feature: `look` good, bad or none, and what says so."""

    look: str
    text: str


#: Of what was not compared.
_UNKNOWN = State("none", "")


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

    def __init__(self, found: Callable[[], Found], report: Callable[[str], Any]) -> None:
        """`report` reads that of what is offline or was served; None before the first."""
        self._found, self._report = found, report
        self._states: tuple[Found, dict[tuple[str, str], State]] = (Found(), {})
        self._all: tuple[Any, Any, dict[tuple[str, str], State]] = (None, None, {})
        self._reports: tuple[float, dict[str, dict[tuple[str, str], list[Any]]]] = (0.0, {})

    @property
    def at(self) -> float:
        """When features were last compared, in seconds; 0: never."""
        return self._found().at

    def states(self) -> Mapping[tuple[str, str], State]:
        found = self._found()
        if self._states[0] is not found:
            self._states = (found, states(found))
        return self._states[1]

    def feature(self, view: ViewPlan | OnDemandPlan, name: str) -> State:
        """Of a feature; a windowed one drifts too where the column that it is made of does."""
        found = self.states()
        own = found.get((view.name, name), _UNKNOWN)
        column = column_of(view, name)
        if own.look == "bad" or not column:
            return own
        made_of = found.get((view.name, column), _UNKNOWN)
        if made_of.look == "bad":
            return State("bad", f"{column}: {made_of.text}")
        return own if own.text else made_of

    def features(self, views: Sequence[ViewPlan | OnDemandPlan]) -> Mapping[tuple[str, str], State]:
        """(view, feature) -> its state, of all of them; made once for each run and sequence."""
        states = self.states()
        if self._all[0] is not states or self._all[1] is not views:
            found = {
                (v.name, name): self.feature(v, name) for v in views for name in v.feature_names
            }
            self._all = (states, views, found)
        return self._all[2]

    def rows(self, view: str) -> State:
        """Of the rows of a view: whether they all came."""
        return self.states().get((view, ""), _UNKNOWN)

    def of(self, view: ViewPlan | OnDemandPlan, name: str) -> list[dict[str, Any]]:
        """What was found of a feature: offline (of a windowed one its column), and as it was
        served, through each service with a baseline of its own once more.

        Raises StoreUnavailableError.
        """
        if self._reports[0] != self.at:
            self._reports = (self.at, {of: self._read(of) for of in _OF})
        found = []
        for of, features in self._reports[1].items():
            column = column_of(view, name) if of == "offline" else ""
            for about in features.get((view.name, column or name), ()):
                title = f"{column}, before the windows, offline" if column else of.capitalize()
                if about["service"]:
                    title += f" through {about['service']}"
                found.append({**about, "of": of, "title": title, "bins": _bars(about["bins"])})
        return found

    def _read(self, of: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """The last report's features, with what their view says of the comparison."""
        report = self._report(of)
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for view in report["views"] if report else ():
            compared = {
                "from_us": report["from_us"], "until_us": report["until_us"],
                "service": view["service"], "against": _against(view["baseline"], report),
            }  # fmt: skip
            for feature in view["features"]:
                key = view["feature_view"], feature["feature"]
                found.setdefault(key, []).append({**feature, **compared})
        return found


def _against(baseline: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """What a baseline is."""
    if "manifest" in baseline:
        name = baseline["manifest"].rpartition("/")[2].removesuffix(".manifest.json")
        return f"the training set {name}"
    since, until = baseline["from_us"], baseline["until_us"]
    # Spans begin with whole hours.
    ends, lasts = until - report["from_us"], until - since
    if 0 <= ends < HOUR_US and 0 <= lasts - _WEEK_US < HOUR_US:
        return "the week before"
    return f"{texts.moment(since)} to {texts.moment(until)}"


def column_of(view: ViewPlan | OnDemandPlan, name: str) -> str:
    """The column that a windowed feature is made of; "" where it has none."""
    found = view.aggregations if isinstance(view, ViewPlan) else ()
    return next((a.column for a in found if a.name == name and a.column != "*"), "")


def _bars(bins: Mapping[str, Any] | None) -> list[tuple[str, float, float, Any]]:
    """Name, share of the baseline, share now, and both as bars, of each bin."""
    if not bins:
        return []
    names = [n if isinstance(n, str) else f"up to {n:,.4g}" for n in bins["names"]]
    most = max(*bins["baseline"], *bins["current"], 1e-9)
    return [
        (name, was, now, drawings.pair(was, now, most))
        for name, was, now in zip(names, bins["baseline"], bins["current"], strict=True)
    ]
