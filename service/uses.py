"""Counts who asks for which features, without waiting: numbers in the workers' shared blocks.

A request costs three additions. What was counted goes to Redis once a minute, and with the
process's end; how much of it has gone is a number in the same block, so that the worker that takes
a dead one's place tells the rest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from headwater.online.usage import Counts, User
from headwater.usage import SOME, with_views
from service.slots import Slots

NAME = "uses"
#: Sets of features that callers named one by one and that have numbers of their own; of more it is
#: counted that some of the views' features were asked for.
_SETS = 512
#: Requests, entities, time of the last (Unix seconds), requests told, entities told.
_NUMBERS = 5


class Use:
    """One caller's requests for one set of features."""

    __slots__ = ("_whole", "at")

    def __init__(self, slots: Slots, at: int) -> None:
        self._whole = slots.whole
        #: Where its numbers begin: requests, entities, time of the last.
        self.at = at

    def count(self, requests: int, entities: int) -> None:
        whole, at = self._whole, self.at
        whole[at] += requests
        whole[at + 1] += entities
        whole[at + 2] = int(time.time())


class Uses:
    """The counts of this worker, and with `untold` those of its fellows."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._sets: set[tuple[str, ...]] = set()

    def of(self, caller: str, service: str, features: Sequence[str]) -> Use:
        """Where requests are counted; `features` are "view:feature" texts."""
        wanted = tuple(features)
        if not service:
            if len(self._sets) < _SETS:
                self._sets.add(wanted)
            if wanted not in self._sets:
                views = {text.partition(":")[0] for text in wanted}
                wanted = tuple(f"{view}:{SOME}" for view in sorted(views))
        labels = (caller, service, *wanted)
        return Use(self._slots, self._slots.place(NAME, labels, _NUMBERS))

    def untold(self) -> dict[User, Counts]:
        """What no worker of this service has told Redis yet."""
        found: dict[User, Counts] = {}
        for name, labels, numbers in self._slots.sums():
            if name == NAME:
                _add(found, labels, numbers.tolist())
        return found

    def take(self) -> dict[User, Counts]:
        """What this worker has not told yet; from now on it counts as told."""
        found: dict[User, Counts] = {}
        for labels, at in self._slots.own(NAME):
            numbers = self._slots.array[at : at + _NUMBERS].tolist()
            _add(found, labels, numbers)
            self._slots.array[at + 3 : at + 5] = numbers[:2]
        return found


def _add(found: dict[User, Counts], labels: tuple[str, ...], numbers: list[int]) -> None:
    requests, entities, last, told, told_entities = numbers
    if requests == told:
        return
    caller, service, *features = labels
    more = Counts(requests - told, entities - told_entities, float(last))
    for feature in with_views(features):
        user = User(feature, service, caller)
        found[user] = found.get(user, Counts()).plus(more)
