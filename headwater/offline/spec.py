"""What a training set is asked for, and how far it is. Light: what makes it is elsewhere."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from headwater.catalog import Catalog, FeatureRefPlan
from headwater.errors import HeadwaterError
from headwater.offline.checks import feature_names, references, service_features

#: What Feast calls the time of a label.
TIME_COLUMN = "event_timestamp"
#: What a label knows: what had happened by its time, or only what had also arrived.
AsOf = Literal["event", "arrival"]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_FUNCTIONS = {"count", "sum", "mean", "min", "max", "std", "var", "first", "last", "count_distinct"}


@dataclass(frozen=True)
class LabelWindow:
    """A label: at label time t, `function` of `column` over the view's events in (t, t + window].

    It is null where that window has not closed: where it ends after the newest event of the
    view's source, since what is still to come may change it. Times are microseconds.
    """

    name: str
    view: str
    function: str
    column: str
    window_us: int

    @classmethod
    def parse(cls, text: str) -> LabelWindow:
        """`name=view:function(column):window`, such as `spent=purchases:sum(amount):7d`."""
        found = re.fullmatch(r"(\w+)=([^:]+):(\w+)\((\w*|\*)\):(\d+)([smhd])", text.strip())
        if found is None or found[3] not in _FUNCTIONS:
            raise HeadwaterError(
                f"{text!r} is no label window: it is name=view:function(column):window, such as "
                f"spent=purchases:sum(amount):7d; functions are {', '.join(sorted(_FUNCTIONS))}"
            )
        window = int(found[5]) * _UNITS[found[6]] * 1_000_000
        return cls(found[1], found[2], found[3], found[4], window)


@dataclass(frozen=True)
class Request:
    """What a training set holds beside its labels.

    bootstrap: a Parquet file or folder of features that were logged when they were served; what
    it holds for a label is used as it is, and only the rest is computed.
    """

    features: tuple[FeatureRefPlan, ...]
    full_feature_names: bool = False
    label_windows: tuple[LabelWindow, ...] = ()
    bootstrap: str = ""


class Spec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a job is to make. Paths are absolute; `rows_per_file` 0 is one file; `sample` is at most
    so many of the labels, evenly spaced, for a look at what the whole would be (0: all).

    Label windows are texts as `LabelWindow.parse` reads them; a service or features, not both.
    """

    entities: str
    out: str
    service: str = ""
    features: tuple[str, ...] = ()
    as_of: AsOf = "event"
    full_feature_names: bool = False
    label_windows: tuple[str, ...] = ()
    bootstrap: str = ""
    rows_per_file: int = 0
    sample: int = 0

    def request(self, catalog: Catalog) -> Request:
        if bool(self.service) == bool(self.features):
            raise HeadwaterError("give a feature service or features, one of them")
        wanted = (
            service_features(catalog, self.service)
            if self.service
            else tuple(references(catalog, self.features))
        )
        windows = tuple(LabelWindow.parse(text) for text in self.label_windows)
        for window in windows:
            feature_names(catalog, window.view)
        return Request(wanted, self.full_feature_names, windows, self.bootstrap)

    @property
    def identity(self) -> str:
        """Names the work, so that what an earlier run left is only taken up for the same."""
        return hashlib.blake2b(msgspec.json.encode(self), digest_size=8).hexdigest()


@dataclass
class Status:
    """How far a job is. `done` of `total` are rows read or written; seconds since its start."""

    id: str
    state: str = "running"
    step: str = ""
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    error: str = ""

    @property
    def estimate_seconds(self) -> float | None:
        """Seconds that are left, at the pace so far."""
        if not self.done or self.done >= self.total:
            return None
        return self.seconds * (self.total - self.done) / self.done

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, "estimate_seconds": self.estimate_seconds}
