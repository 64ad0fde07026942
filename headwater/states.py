"""The state of many keys of one windowed view, for one partition, in memory. Pure.

The worker, a rebuild from the log and `WindowProgram.fold` all fold through here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headwater import arena, sketch_tiles
from headwater.codec import WINDOW_HEADER, pack_sections
from headwater.interning import KeyTable, Texts, texts
from headwater.sketch_tiles import SketchTiles

if TYPE_CHECKING:
    from headwater.windows import EventBatch, WindowProgram

Int64 = NDArray[np.int64]
_NO_HEADER = np.empty(0, np.int64)
#: A value's header, and the place of its section's size.
_VALUE_HEADER = np.frombuffer(WINDOW_HEADER + bytes(8), np.int64)


class WindowStates:
    """Numbers keys and folds events into their tiles; gives the sections of those that changed.

    A key that `intern` meets for the first time has no state until `load` gives it one.
    """

    def __init__(self, program: WindowProgram, source: int) -> None:
        self.program, self.source = program, source
        self._keys = KeyTable()
        self._stride = 1 + program.width
        self._head_words = 4 + program.slot_columns
        self._generation = 0
        # No watermark lies in an empty range: every cut is computed when it is first used.
        self._cuts = np.tile(np.array([0, 1, 0]), (len(program.levels), 1))
        self._clear()

    def _clear(self) -> None:
        self._slots = np.empty((0, arena.SLOT_FIELDS), np.int64)
        self._words = np.empty(0, np.int64)
        self._top = np.zeros(1, np.int64)
        self._free = np.full(len(arena.CAPACITY), -1, np.int64)
        self._heads = np.empty((0, self._head_words), np.int64)
        self._n_heads = np.zeros(1, np.int64)
        self._dirty = np.empty(0, np.int64)
        self._n_dirty = np.zeros(1, np.int64)
        self._sketched: dict[int, SketchTiles] = {}

    def clear(self) -> None:
        """Forget every key."""
        self._keys.clear()
        self._clear()

    def __len__(self) -> int:
        return self._keys.size

    @property
    def nbytes(self) -> int:
        """Bytes in use, without those of sketches."""
        words = int(self._top[0]) + self._slots.size + self._heads.size
        return 8 * words + self._keys.nbytes

    def intern(self, keys: Texts) -> tuple[Int64, Int64]:
        """The number of each key [n], and the numbers that are new."""
        before = self._keys.size
        numbers = self._keys.intern(keys)
        after = self._keys.size
        if after > len(self._slots):
            room = max(after, len(self._slots) * 3 // 2)
            slots = np.empty((room, arena.SLOT_FIELDS), np.int64)
            slots[:before] = self._slots[:before]
            dirty = np.empty(room, np.int64)
            dirty[: self._n_dirty[0]] = self._dirty[: self._n_dirty[0]]
            self._slots, self._dirty = slots, dirty
        arena.new_slots(self._slots, before, after - before)
        return numbers, np.arange(before, after)

    def texts(self, which: Int64) -> Texts:
        """The texts of some keys."""
        return _taken(self._keys.texts, which)

    def load(self, which: Int64, sections: Sequence[bytes | None]) -> None:
        """Give new keys the sections that were stored for them; None leaves a key empty."""
        held = [(k, s) for k, s in zip(which.tolist(), sections, strict=True) if s]
        if not held:
            return
        sizes = np.zeros(len(held) + 1, np.int64)
        np.cumsum([len(section) >> 3 for _, section in held], out=sizes[1:])
        data = np.frombuffer(b"".join(section for _, section in held), np.int64)
        heads = int(data[sizes[:-1] + 4].sum())
        self._room_for_heads(heads)
        keys, first = np.array([k for k, _ in held], np.int64), 0
        while first < len(held):
            first = arena.load(
                self.program.width, self._words, self._free, self._top, self._slots, self._heads,
                self._n_heads, keys, data, sizes, first,
            )  # fmt: skip
            if first < len(held):
                self._more_room()
        if self.program.sketches:
            for k, section in held:
                self._sketched[k] = self.program.sketches_of(section)

    def fold(self, key: Int64, batch: EventBatch, now_us: int) -> None:
        """Fold events, in offset order, into the keys numbered `key` [n]."""
        program = self.program
        self._generation += 1
        if program.sketches:
            self._fold_sketches(key, batch, now_us)
        self._settle(now_us)
        values, valid = program.matrix(batch)
        seq = (batch.source & 0xFFFF) << 48 | batch.offset
        ahead = int((batch.ts > now_us).sum())
        self._room_for_heads(ahead)
        done, n = 0, len(batch)
        while done < n:
            done = arena.fold(
                program.ops, program.levels, self._cuts, program.width, self._words, self._free,
                self._top, self._slots, self._heads, self._n_heads, self._dirty, self._n_dirty,
                done, self._generation, key, batch.ts, seq, batch.offset, batch.watermark, values,
                valid, now_us,
            )  # fmt: skip
            if done < n:
                self._more_room()

    def _settle(self, now_us: int) -> None:
        program = self.program
        while self._n_heads[0] and not arena.settle(
            program.ops, program.levels, self._cuts, program.width, self._words, self._free,
            self._top, self._slots, self._heads, self._n_heads, now_us,
        ):  # fmt: skip
            self._more_room()

    def _fold_sketches(self, key: Int64, batch: EventBatch, now_us: int) -> None:
        folder = self.program.sketches
        columns = [batch.columns[name] for name in folder.columns]
        fresh = np.flatnonzero(batch.offset > self._slots[key, arena.APPLIED])
        if not len(fresh):
            return
        order = fresh[np.argsort(key[fresh], kind="stable")]
        keys, starts = np.unique(key[order], return_index=True)
        seq = (batch.source & 0xFFFF) << 48 | batch.offset
        for k, begin, end in zip(
            keys.tolist(), starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True
        ):
            rows = order[begin:end].tolist()
            events = [
                [int(batch.ts[e]), int(seq[e]), [column.cell(e) for column in columns]]
                for e in rows
            ]
            mark = max(int(batch.watermark[rows[-1]]), int(self._slots[k, arena.MARK]))
            state = self._sketched.setdefault(k, SketchTiles({}, []))
            folder.fold(state, events, mark, now_us)

    def take_dirty(self) -> Int64:
        """The keys that changed since this was last asked."""
        which = self._dirty[: self._n_dirty[0]].copy()
        self._slots[which, arena.DIRTY] = 0
        self._n_dirty[0] = 0
        return which

    @property
    def dirty(self) -> int:
        return int(self._n_dirty[0])

    def values(self, which: Int64) -> Texts:
        """What Redis shall hold for some keys, as `codec.pack_sections` of their one section."""
        if self.program.sketches:
            return texts([pack_sections([one]) for one in self.section_bytes(which)])
        words, at = self._sections(which, _VALUE_HEADER)
        return Texts(words.view(np.uint8), at * 8)

    def _sections(self, which: Int64, header: Int64) -> tuple[Int64, Int64]:
        """Sections of some keys behind a header each, as words, and where each begins [n + 1].

        Their sketches are not in them: see `section_bytes`.
        """
        program = self.program
        sizes = np.zeros(len(which), np.int64)
        arena.section_sizes(
            program.ops, program.levels, self._cuts, program.width, program.slot_columns,
            self._words, self._slots, which, sizes,
        )  # fmt: skip
        at = np.zeros(len(which) + 1, np.int64)
        np.cumsum(sizes + len(header), out=at[1:])
        out = np.empty(at[-1], np.int64)
        owners = self._heads[: self._n_heads[0], 0]
        order = np.argsort(owners, kind="stable")
        heads_at = np.searchsorted(owners[order], which)
        arena.sections(
            program.width, self._words, self._slots, which, self.source, self._heads, order,
            heads_at, header, out, at,
        )  # fmt: skip
        return out, at

    def section_bytes(self, which: Int64) -> list[bytes]:
        """Sections of some keys with their sketches, as Redis holds them."""
        words, at = self._sections(which, _NO_HEADER)
        data, ends = words.tobytes(), (at * 8).tolist()
        plain = [data[a:b] for a, b in pairwise(ends)]
        if not self.program.sketches:
            return plain
        return [
            section + sketch_tiles.encode(self._sketched.get(k) or SketchTiles({}, []))
            for section, k in zip(plain, which.tolist(), strict=True)
        ]

    def shrink(self) -> None:
        """Forget the half of the keys that was not used for longest; none may be dirty."""
        if not self._keys.size:
            return
        used = self._slots[: self._keys.size, arena.USED]
        kept = np.flatnonzero(used > np.median(used))
        sections, names = self.section_bytes(kept), self.texts(kept)
        self.clear()
        numbers, _ = self.intern(names)
        self.load(numbers, sections)

    def _room_for_heads(self, more: int) -> None:
        used = int(self._n_heads[0])
        if used + more > len(self._heads):
            heads = np.empty((max(used + more, 2 * used), self._head_words), np.int64)
            heads[:used] = self._heads[:used]
            self._heads = heads

    def _more_room(self) -> None:
        """A larger arena; blocks that were outgrown are left behind where they are many."""
        size, used = self._keys.size, int(self._top[0])
        blocks = self._slots[:size, arena.BLOCK]
        live = int(arena.CAPACITY[blocks].sum()) * self._stride
        if live < used * 2 // 3:
            self.tidy(live * 3 // 2 + 4096 * self._stride)
            return
        words = np.empty(used * 3 // 2 + 4096 * self._stride, np.int64)
        words[:used] = self._words[:used]
        self._words = words

    def tidy(self, room: int) -> None:
        """Move all blocks into an arena of `room` words, without gaps; it must hold them."""
        words = np.empty(room, np.int64)
        self._top[0] = arena.relocate(
            self.program.width, self._words, self._slots, self._keys.size, words
        )
        self._free[:] = -1
        self._words = words


def _taken(held: Texts, which: Int64) -> Texts:
    sizes = held.at[which + 1] - held.at[which]
    at = np.zeros(len(which) + 1, np.int64)
    np.cumsum(sizes, out=at[1:])
    places = np.repeat(held.at[which] - at[:-1], sizes) + np.arange(at[-1])
    return Texts(held.data[places], at)


def fold_sections(
    program: WindowProgram, states: Sequence[bytes | None], batch: EventBatch, now_us: int
) -> list[bytes]:
    """Fold a partition's events into the sections of its keys.

    states: [keys], the section of each key or None. batch: its `key` indexes `states`; offsets
    ascend. Returns the new sections [keys].
    """
    held = WindowStates(program, int(batch.source[0]) if len(batch) else 0)
    names = np.arange(len(states), dtype=np.int64)
    numbers, _ = held.intern(Texts(names.view(np.uint8), np.arange(len(states) + 1) * 8))
    held.load(numbers, states)
    held.fold(batch.key, batch, now_us)
    return held.section_bytes(numbers)
