"""Which views are whole for which partitions, and what to do where one is not.

A view is *live* for a partition when its state in Redis holds every event before the worker's
position. A new view, or one whose state Redis lost, is *pending*: its events wait in the offline
log until it was rebuilt from there, and the other views go on.
"""

from __future__ import annotations

from collections.abc import Mapping

from headwater.online.progress import Place, Progress
from ingest.records import TopicPartition

Moves = dict[Place, tuple[int | None, int | None]]


class Takeover:
    """What this worker believes of the progress of the views that it feeds."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._believed: dict[Place, int] = {}
        self._pending: set[Place] = set()
        self._epoch = b""

    def clear(self) -> None:
        """Believe nothing; every partition is begun again."""
        self._believed.clear()
        self._pending.clear()
        self._epoch = self._progress.epoch()

    def begin(self, places: Mapping[Place, int], position: int) -> None:
        """Start at a position of a partition. places: each view of it -> the end of its log."""
        if not self._epoch:
            self._epoch = self._progress.epoch()
        # Something must stand there for its loss to be seen.
        self._progress.move(dict.fromkeys(places, (None, 0)))
        held = self._progress.read(list(places))
        for place, log_end in places.items():
            at = held.get(place, 0)
            self._pending.discard(place)
            self._believed.pop(place, None)
            # Behind, and the log knows something of what is missing.
            if at < min(position, log_end):
                self._pending.add(place)
            else:
                self._believed[place] = at

    def end(self, tp: TopicPartition) -> None:
        """The partition is somebody else's now."""
        for place in [p for p in (*self._believed, *self._pending) if p[1:] == tp]:
            self._believed.pop(place, None)
            self._pending.discard(place)

    def live(self, prefix: bytes, tp: TopicPartition) -> bool:
        return Place(prefix, *tp) in self._believed

    @property
    def pending(self) -> frozenset[Place]:
        return frozenset(self._pending)

    def held(self) -> dict[Place, int]:
        """How far the pending views have been rebuilt."""
        return self._progress.read(list(self._pending))

    def basis(self) -> Basis:
        """What this worker builds on now."""
        return Basis(self._progress, self._epoch, dict(self._believed))

    def moves(self, positions: Mapping[TopicPartition, int]) -> Moves:
        """What `Progress.move` shall be told once everything before these positions is written."""
        return {
            place: (held, positions[tp])
            for place, held in self._believed.items()
            if (tp := TopicPartition(place.topic, place.partition)) in positions
            and positions[tp] > held
        }

    def moved(self, moves: Moves, differ: Mapping[Place, int | None]) -> bool:
        """Take note of what was moved; False where it turned out that state is gone."""
        for place, (believed, new) in moves.items():
            if place not in self._believed:
                continue
            held = differ.get(place, new)
            if held is None or held < (believed or 0):
                return False
            # Where it differs, another worker has moved it on from what we believed: one that
            # took over while this one was frozen, or a frozen one that we took over from.
            self._believed[place] = held
        return True


class Basis:
    """The state that a worker read and builds on.

    What was read after a loss is not the fold of a whole prefix. It must not be written: its
    offset would keep a rebuild from ever adding what it lacks. So this is asked between the reading
    and the writing.
    """

    def __init__(self, progress: Progress, epoch: bytes, believed: Mapping[Place, int]) -> None:
        self._progress, self._epoch, self._believed = progress, epoch, believed

    def stands(self) -> bool:
        """Whether Redis still holds it."""
        return self._progress.stands(self._epoch, self._believed)
