"""The service as it is, but that what it keeps besides answering can be switched while it runs.

So one process shows what metrics or the feature log cost: two processes of the same program differ
by more than that, by where their memory happens to lie, and a machine's speed drifts within
seconds. Started as `python switched.py --repo DIR`; SWITCHED names one of `_SWITCHES`, and
SWITCHED_INTO a file. From SIGUSR1 to SIGUSR2 the service takes turns of `TURN_SECONDS` in the ways
that the file lists (one way alone is held), and then writes there what each took (`Took`).
`serving/turns.py` does all that. Users have no such switch, since they need none.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from uvicorn.server import ServerState

from service.__main__ import main
from service.feature_log import Recorder
from service.metrics import Level, Metrics, Spread, Tally
from service.observed import Observed
from service.ui.history import History
from service.uses import Use

#: Not shorter: whenever a class is changed, the interpreter forgets what it knew of its attributes,
#: and what is switched on would pay for that.
TURN_SECONDS = 1.0


class _Nowhere(Spread):
    """Where a request's time is not counted."""

    def __init__(self) -> None:
        self.at = 0


_NOWHERE = _Nowhere()


def _nothing(*_: Any) -> None:
    pass


def _answered(*_: Any) -> Spread:
    return _NOWHERE


def _none(*_: Any) -> Sequence[int]:
    return ()


def _sampled(rate: float) -> Callable[[Recorder, int], Sequence[int]]:
    def sample(recorder: Recorder, n: int) -> Sequence[int]:
        recorder._rate = rate
        return _sample(recorder, n)

    return sample


_sample = Recorder.sample
_METRICS: dict[tuple[type, str], Any] = {
    **{(Tally, name): _nothing for name in ("count", "ended", "singles")},
    **{(Level, name): _nothing for name in ("add", "set")},
    (Spread, "observe"): _nothing,
    (Use, "count"): _nothing,
    (Metrics, "answered"): _answered,
    (Observed, "look"): _nothing,
    (History, "take"): _nothing,
}
#: What can be switched -> its ways, each with what it has in place of the service's own. A service
#: is in the first way where nothing is measured.
_SWITCHES: dict[str, dict[str, dict[tuple[type, str], Any]]] = {
    "metrics": {
        "on": {at: getattr(*at) for at in _METRICS},
        "off": _METRICS,
    },
    "log": {
        "off": {(Recorder, "sample"): _none},
        "1 %": {(Recorder, "sample"): _sampled(0.01)},
        "all": {(Recorder, "sample"): _sampled(1.0)},
    },
}


class Took(TypedDict):
    """One way's seconds, and in them the CPU seconds of the thread that answers requests and of
    the whole process, and the requests that were answered."""

    seconds: float
    loop_seconds: float
    cpu_seconds: float
    requests: int


class _Turns:
    """Takes turns, and keeps what they took."""

    def __init__(self, ways: dict[str, dict[tuple[type, str], Any]], file: Path) -> None:
        self._ways, self._file = ways, file
        self._taken: list[str] = []
        self._took: dict[str, Took] = {}
        self._since = (0.0, 0.0, 0.0, 0)
        self._states: list[ServerState] = []
        self._use(next(iter(ways)))

    def _use(self, way: str) -> None:
        self._way = way
        for (owner, name), made in self._ways[way].items():
            setattr(owner, name, made)

    def begin(self) -> None:
        self._taken = json.loads(self._file.read_text())
        self._took = {
            way: Took(seconds=0.0, loop_seconds=0.0, cpu_seconds=0.0, requests=0)
            for way in self._taken
        }
        self._use(self._taken[0])
        self._since = self._now()
        signal.setitimer(signal.ITIMER_REAL, TURN_SECONDS, TURN_SECONDS)

    def switch(self) -> None:
        if self._way not in self._taken:  # the alarm came with the end
            return
        now = self._now()
        seconds, loop, cpu, requests = (b - a for a, b in zip(self._since, now, strict=True))
        took = self._took[self._way]
        took["seconds"] += seconds
        took["loop_seconds"] += loop
        took["cpu_seconds"] += cpu
        took["requests"] += round(requests)
        self._use(self._taken[(self._taken.index(self._way) + 1) % len(self._taken)])
        self._since = self._now()

    def end(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        self.switch()
        self._taken = []
        self._use(next(iter(self._ways)))
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self._took))
        new.replace(self._file)

    def _now(self) -> tuple[float, float, float, int]:
        (state,) = self._states
        return time.perf_counter(), time.thread_time(), time.process_time(), state.total_requests

    def made(self, state: ServerState) -> None:
        """uvicorn makes one, and tells nobody else."""
        _make(state)
        self._states.append(state)


def _soon(work: Callable[[], None]) -> Callable[[int, Any], None]:
    """A signal comes in the middle of a request, of which the half would be done in another way."""

    def soon(*_: Any) -> None:
        asyncio.get_running_loop().call_soon_threadsafe(work)

    return soon


if __name__ == "__main__":
    _make = ServerState.__init__
    turns = _Turns(_SWITCHES[os.environ["SWITCHED"]], Path(os.environ["SWITCHED_INTO"]))
    ServerState.__init__ = lambda state: turns.made(state)  # type: ignore[method-assign]
    signal.signal(signal.SIGALRM, _soon(turns.switch))
    signal.signal(signal.SIGUSR1, _soon(turns.begin))
    signal.signal(signal.SIGUSR2, _soon(turns.end))
    sys.exit(main())
