"""Sketches of a key by tile: folding, merging and reading what does not fit eight bytes. Pure.

A key's sketches are `tiles` (start -> one partial a sketch) and `heads` (events ahead of the
clock, [time, sequence, cells]); as bytes they are msgpack behind a section's words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from headwater import kernels, sketches

Cell = Any
Event = list[Any]


class Sketch(NamedTuple):
    function: str
    column: str
    parameter: float


class SketchTiles(msgspec.Struct):
    """The sketches of one key for one partition."""

    tiles: dict[int, list[Any]] = {}
    heads: list[Event] = []


class Sketches:
    """The sketches of one windowed view, over `levels` as `kernels.tile_start` reads them."""

    def __init__(self, wanted: Iterable[Sketch], levels: NDArray[np.int64]) -> None:
        self.wanted = sorted(set(wanted))
        self.columns = sorted({sketch.column for sketch in self.wanted})
        self._at = [self.columns.index(sketch.column) for sketch in self.wanted]
        self._levels = levels

    def __bool__(self) -> bool:
        return bool(self.wanted)

    def fold(self, state: SketchTiles, events: list[Event], watermark: int, now_us: int) -> None:
        """Add events, and the heads whose time has come, to a key's tiles; coarsen them."""
        ready = [event for event in state.heads if event[0] <= now_us]
        state.heads = [event for event in state.heads if event[0] > now_us]
        for event in events:
            (ready if event[0] <= now_us else state.heads).append(event)
        for event in ready:
            start = int(kernels.tile_start(event[0], watermark, self._levels))
            if start == kernels.I64_MAX:
                continue
            tile = state.tiles.get(start)
            if tile is None:
                tile = state.tiles[start] = self.empty()
            self._add(tile, event)
        state.tiles = self._coarsened(state.tiles, watermark)

    def empty(self) -> list[Any]:
        return [sketches.empty(sketch.function) for sketch in self.wanted]

    def _add(self, partials: list[Any], event: Event) -> None:
        ts, seq, cells = event
        for i, sketch in enumerate(self.wanted):
            value = cells[self._at[i]]
            if value is not None:
                sketches.add(sketch.function, sketch.parameter, partials[i], (ts, seq, value))

    def _coarsened(self, tiles: dict[int, list[Any]], watermark: int) -> dict[int, list[Any]]:
        kept: dict[int, list[Any]] = {}
        for start in sorted(tiles):
            to = start
            if start != kernels.I64_MIN:
                to = int(kernels.tile_start(start, watermark, self._levels))
            if to != kernels.I64_MAX:
                kept[to] = self.merge(kept[to], tiles[start]) if to in kept else tiles[start]
        return kept

    def merge(self, a: list[Any], b: list[Any]) -> list[Any]:
        return [
            sketches.merge(s.function, s.parameter, x, y)
            for s, x, y in zip(self.wanted, a, b, strict=True)
        ]

    def read(
        self, states: Sequence[SketchTiles], windows: Sequence[tuple[int, int]], t_us: int
    ) -> dict[tuple[Sketch, tuple[int, int]], Any]:
        """Merged partial of each (sketch, window) at time t, over a key's partitions."""
        merged: dict[tuple[Sketch, tuple[int, int]], Any] = {}
        for window in windows:
            low = kernels.I64_MIN if window[0] < 0 else (t_us - window[0]) // window[1] * window[1]
            total = self.empty()
            for state in states:
                for start, partials in state.tiles.items():
                    if low <= start <= t_us:
                        total = self.merge(total, partials)
                for event in state.heads:
                    if low <= event[0] <= t_us:
                        self._add(total, event)
            for sketch, partial in zip(self.wanted, total, strict=True):
                merged[sketch, window] = partial
        return merged


def encode(state: SketchTiles) -> bytes:
    """What stands behind a section's words: length 8, msgpack, padding to 8."""
    blob = msgspec.msgpack.encode((state.tiles, state.heads))
    return len(blob).to_bytes(8, "little") + blob + b"\0" * (-len(blob) % 8)


def decode(data: bytes) -> SketchTiles:
    """The inverse of `encode`; no bytes are no sketches."""
    if not data:
        return SketchTiles({}, [])
    size = int.from_bytes(data[:8], "little")
    tiles, heads = msgspec.msgpack.decode(
        data[8 : 8 + size], type=tuple[dict[int, list[Any]], list[Any]]
    )
    return SketchTiles(tiles, heads)
