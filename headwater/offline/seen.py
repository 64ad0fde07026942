"""Which events the state of logged vectors held: the events of their entities, by provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from headwater import verify_kernels
from headwater.arrow import arrow_type
from headwater.offline.keys import LabelKeys
from headwater.offline.scan import SOURCE, Scan
from headwater.offline.sources import CREATED, EVENT, SEQUENCE
from headwater.online.provenance import HISTORY
from headwater.windows import Bool, Int64, source_id

_NONE: Int64 = np.zeros(0, np.int64)
_OFFSETS = (1 << 48) - 1
HISTORY_SOURCE = source_id(*HISTORY)


@dataclass
class Bounds:
    """How far the state of each vector went: `state` by its provenance, `whole` by its progress.

    Both [vectors, sources], the last offset, -1 for none; `sources` are `windows.source_id`s.
    """

    sources: list[int]
    state: Int64
    whole: Int64

    def column(self, source: Int64) -> Int64:
        """The place of each event's source; -1 for history, -2 for one that no vector knows."""
        known = np.array(self.sources, np.int64)
        if not len(known):
            return np.where(source == HISTORY_SOURCE, -1, -2)
        order = np.argsort(known)
        place = order[np.minimum(np.searchsorted(known[order], source), len(known) - 1)]
        return np.where(source == HISTORY_SOURCE, -1, np.where(known[place] == source, place, -2))


@dataclass
class Held:
    """Events of the vectors' keys, in the order of the scan; times in microseconds."""

    code: Int64
    ts: Int64
    created: Int64
    sequence: Int64
    source: Int64
    row: Int64
    columns: dict[str, pa.Array]

    @classmethod
    def read(cls, scan: Scan, keys: LabelKeys, used: Sequence[str]) -> Held:
        names = [k.name for k in scan.view.join_keys]
        own = [EVENT, SEQUENCE, SOURCE, *([CREATED] if scan.has_created else [])]
        parts: list[list[Int64]] = [[] for _ in range(2 + len(own))]
        columns: dict[str, list[pa.Array]] = {name: [] for name in used}
        base = 0
        for batch in scan.batches([*names, *own, *used]):
            code = keys.of([batch.column(i) for i in range(len(names))], batch.num_rows)
            times = batch.column(len(names))
            kept = np.flatnonzero((code >= 0) & np.asarray(times.is_valid()))
            rows = pa.array(kept)
            parts[0].append(code[kept])
            parts[1].append(kept + base)
            for i in range(len(own)):
                number = batch.column(len(names) + i).take(rows).cast(pa.int64()).fill_null(0)
                parts[2 + i].append(number.to_numpy())
            for i, name in enumerate(used, len(names) + len(own)):
                columns[name].append(batch.column(i).take(rows))
            base += batch.num_rows
        code, row, ts, sequence, source, *created = (
            np.concatenate(p) if p else _NONE for p in parts
        )
        kinds = {a.column: arrow_type(a.column_type) for a in scan.view.aggregations}
        arrays = {
            n: pa.chunked_array(c).combine_chunks() if c else pa.nulls(0, kinds[n])
            for n, c in columns.items()
        }
        return cls(code, ts, created[0] if created else _NONE, sequence, source, row, arrays)

    def topic_of(
        self, topics: Sequence[str], partition: Int64, offset: Int64, ts: Int64, wanted: Bool
    ) -> Int64:
        """The source of rows that are named without their topic: where such an event is."""
        found = np.full(len(ts), -1, np.int64)
        for topic in topics:
            number = source_id(topic, 0) >> 16
            mine = np.flatnonzero(self.source >> 16 == number)
            names = (self.source[mine] & 0xFFFF) << 48 | self.sequence[mine] & _OFFSETS
            order = np.argsort(names)
            wants = partition << 48 | offset
            at = np.minimum(np.searchsorted(names[order], wants), max(len(order) - 1, 0))
            if not len(order):
                continue
            event = mine[order[at]]
            same = wanted & (names[order[at]] == wants) & (self.ts[event] == ts)
            found[same & (found < 0)] = self.source[event][same & (found < 0)]
        return found


@dataclass
class Grouped:
    """Vectors by key and time, in groups whose bounds never go back."""

    order: Int64
    t: Int64
    bound: Int64
    at: Int64
    key_at: Int64

    @classmethod
    def of(cls, codes: Int64, t: Int64, bound: Int64) -> Grouped:
        """Vectors with a null key (code -1) come first, as a key without events."""
        order = np.lexsort((*bound.T, t, codes))
        code, t, bound = codes[order], t[order], np.ascontiguousarray(bound[order])
        group = np.empty(len(order), np.int64)
        count = verify_kernels.groups(code, t, bound, group)
        at = np.searchsorted(group, np.arange(count + 1))
        group_code = code[at[:-1]]
        key_at = np.searchsorted(group_code, np.arange(int(code.max(initial=-1)) + 2))
        return cls(order, t, bound, at, key_at)

    def seen(self, held: Held, source: Int64) -> tuple[Int64, Int64, Int64]:
        """(event, group, time from which the group's vectors see it) of all that are seen."""
        given = (
            held.code, source, held.sequence & _OFFSETS, self.key_at, self.at, self.t, self.bound,
        )  # fmt: skip
        count = verify_kernels.arrivals(*given, _NONE, _NONE, _NONE, False)
        event, group, arrived = (np.empty(count, np.int64) for _ in range(3))
        verify_kernels.arrivals(*given, event, group, arrived, True)
        return event, group, arrived
