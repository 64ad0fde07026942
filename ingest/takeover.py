"""Which views are whole for which partitions, and what to do where one is not.

A view is *live* for a partition when its state in Redis holds every event before the worker's
position. A new view, or one whose state Redis lost, is *pending*: its events wait in the offline
log until it was rebuilt from there, and the other views go on.
"""

from __future__ import annotations

from collections.abc import Mapping

from headwater.online.progress import Place, Progress
from ingest.records import TopicPartition


class Takeover:
    """What this worker believes of the progress of the views that it feeds."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._believed: dict[Place, int | None] = {}
        self._pending: set[Place] = set()

    def begin(self, places: Mapping[Place, int], position: int) -> None:
        """Start at a position of a partition. places: each view of it -> the end of its log."""
        held = self._progress.read(list(places))
        for place, log_end in places.items():
            at = held.get(place)
            self._pending.discard(place)
            # Behind, and the log knows something of what is missing.
            if (at or 0) < min(position, log_end):
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

    def take(self, place: Place, held: int | None) -> None:
        """A pending view was brought up to the worker's position; Redis says `held` of it."""
        self._pending.discard(place)
        self._believed[place] = held

    def moves(
        self, positions: Mapping[TopicPartition, int]
    ) -> dict[Place, tuple[int | None, int | None]]:
        """What `Progress.move` shall be told once everything before these positions is written."""
        return {
            place: (held, positions[tp])
            for place, held in self._believed.items()
            if (tp := TopicPartition(place.topic, place.partition)) in positions
            and positions[tp] > (held or 0)
        }

    def moved(
        self, moves: Mapping[Place, tuple[int | None, int | None]],
        differ: Mapping[Place, int | None],
    ) -> list[Place]:  # fmt: skip
        """Take note of what was moved; returns the views whose state turned out to be gone."""
        lost = []
        for place, (believed, new) in moves.items():
            if place not in self._believed:
                continue
            held = differ.get(place, new)
            if held is None or held < (believed or 0):
                del self._believed[place]
                self._pending.add(place)
                lost.append(place)
            else:
                # Where it differs, another worker has moved it on from what we believed: one that
                # took over while this one was frozen, or a frozen one that we took over from.
                self._believed[place] = held
        return lost
