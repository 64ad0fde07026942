"""The service as it is, but that it counts and watches nothing every other fifth of a second.

So one process shows what metrics cost: two processes of the same program differ by more than that,
by where their memory happens to lie, and a machine's speed drifts within seconds. Started as
`python switched.py --repo DIR`; from SIGUSR1 to SIGUSR2 it takes turns, and then writes what either
way took (`Took`) to the file that SWITCHED_INTO names. Users have no such switch, since they
need none.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, TypedDict

from uvicorn.server import ServerState

from service.__main__ import main
from service.metrics import Level, Metrics, Spread, Tally
from service.observed import Observed
from service.ui.history import History
from service.uses import Use

TURN_SECONDS = 0.2


class _Nowhere(Spread):
    """Where a request's time is not counted."""

    def __init__(self) -> None:
        self.at = 0


_NOWHERE = _Nowhere()


def _nothing(*_: Any) -> None:
    pass


def _answered(*_: Any) -> Spread:
    return _NOWHERE


_OFF: dict[tuple[type, str], Any] = {
    **{(Tally, name): _nothing for name in ("count", "ended", "singles")},
    **{(Level, name): _nothing for name in ("add", "set")},
    (Spread, "observe"): _nothing,
    (Use, "count"): _nothing,
    (Metrics, "answered"): _answered,
    (Observed, "look"): _nothing,
    (History, "take"): _nothing,
}
_ON = {(owner, name): getattr(owner, name) for owner, name in _OFF}


class Took(TypedDict):
    """One way's seconds, the process's CPU time in them, and the requests that were answered."""

    seconds: float
    cpu_seconds: float
    requests: int


class _Turns:
    """Takes turns, and keeps what they took."""

    def __init__(self) -> None:
        self.took: dict[str, Took] = {}
        self._way = "on"
        self._since = (0.0, 0.0, 0)
        self._states: list[ServerState] = []

    def begin(self, *_: Any) -> None:
        self.took = {way: Took(seconds=0.0, cpu_seconds=0.0, requests=0) for way in ("on", "off")}
        self._since = self._now()
        signal.setitimer(signal.ITIMER_REAL, TURN_SECONDS, TURN_SECONDS)

    def switch(self, *_: Any) -> None:
        now = self._now()
        seconds, cpu, requests = (b - a for a, b in zip(self._since, now, strict=True))
        took = self.took[self._way]
        took["seconds"] += seconds
        took["cpu_seconds"] += cpu
        took["requests"] += round(requests)
        self._way = "off" if self._way == "on" else "on"
        for (owner, name), made in (_ON if self._way == "on" else _OFF).items():
            setattr(owner, name, made)
        self._since = self._now()

    def end(self, *_: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        self.switch()
        if self._way == "off":
            self.switch()
        new = Path(os.environ["SWITCHED_INTO"] + ".new")
        new.write_text(json.dumps(self.took))
        new.replace(os.environ["SWITCHED_INTO"])

    def _now(self) -> tuple[float, float, int]:
        (state,) = self._states
        return time.perf_counter(), time.process_time(), state.total_requests

    def made(self, state: ServerState) -> None:
        """uvicorn makes one, and tells nobody else."""
        _make(state)
        self._states.append(state)


if __name__ == "__main__":
    turns, _make = _Turns(), ServerState.__init__
    ServerState.__init__ = lambda state: turns.made(state)  # type: ignore[method-assign]
    signal.signal(signal.SIGALRM, turns.switch)
    signal.signal(signal.SIGUSR1, turns.begin)
    signal.signal(signal.SIGUSR2, turns.end)
    sys.exit(main())
