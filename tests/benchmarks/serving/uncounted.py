"""The service as it is, but that it counts and watches nothing: so it shows what metrics cost.

Started as `python uncounted.py --repo DIR`. Users have no such switch, since they need none.
"""

from __future__ import annotations

import sys
from typing import Any

import service.app
import service.prepared
import service.running
import service.uses
from service.__main__ import main
from service.metrics import Metrics
from service.ui.history import History


class Nothing:
    """Every count and histogram, in place of those that are kept."""

    def __init__(self, *_: Any) -> None:
        pass

    def labels(self, *_: str) -> Nothing:
        return self

    def count(self, *_: Any) -> None:
        pass

    singles = ended = observe = set = add = inc = count


class Uncounted(Metrics):
    """The registry stays, for /metrics; what a request counts is not."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.in_flight = Nothing()  # type: ignore[assignment]

    def answered(self, *_: Any) -> Any:
        return Nothing()


class Unobserved(service.app.Observed):
    """Looks at nothing once a second."""

    async def keep_looking(self, *_: Any) -> None:
        pass


async def _take_nothing(*_: Any) -> None:
    pass


if __name__ == "__main__":
    service.running.Metrics = Uncounted  # type: ignore[misc]
    service.prepared.Tally = Nothing  # type: ignore[misc,assignment]
    service.app.Observed = Unobserved  # type: ignore[misc]
    service.uses.Use.count = Nothing.count  # type: ignore[method-assign]
    History.keep_taking = _take_nothing  # type: ignore[method-assign]
    sys.exit(main())
