"""What a request leaves to the feature log, and the provenance that its answer may carry. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from headwater.arrow import arrow_type
from headwater.catalog import Catalog
from headwater.offline.feature_log import LoggedRead, LogPlan, log_plan
from headwater.offline.log_segments import Many, ReadRecord, packed
from headwater.online.columns import Joined, ViewColumns, columns_of
from headwater.online.provenance import Provenance, window_origins
from service.arrow import texts_of
from service.found import Found
from service.log_blocks import Layout, Part, RowsPart
from service.requests import FeaturePlan
from service.single import Turn

_TEXTS = {"STRING", "STRING_LIST", "STRING_SET"}


class LogRecords:
    """Makes the records of one plan's requests."""

    def __init__(self, catalog: Catalog, service: str, plan: FeaturePlan) -> None:
        # A view that is read twice under one name has one set of columns.
        places: dict[str, int] = {}
        for place, read in enumerate(plan.reads):
            places.setdefault(read.alias, place)
        self._places = list(places.values())
        reads = [plan.reads[place] for place in self._places]
        self._aliases = [read.alias for read in reads]
        logged = [LoggedRead(r.reader.view.name, r.alias, r.features, r.columns) for r in reads]
        self.log_plan: LogPlan = log_plan(
            catalog, service, logged, [view.name for view in plan.on_demand]
        )
        self._provenance = [Provenance(read.reader.view, catalog.streams) for read in reads]
        types = [{f.name: f.type for f in read.reader.view.features} for read in reads]
        self._odd = [
            {at: kind for at, f in enumerate(read.features) if _odd(kind := own[f])}
            for read, own in zip(reads, types, strict=True)
        ]
        #: What parts hold; None where vectors hold what parts do not, or a view is read twice, so
        #: that not all that was read is logged.
        self.layout: Layout | None = None
        readers = [columns_of(read.reader, read.features) for read in reads]
        fits = len(reads) == len(plan.reads) and not plan.on_demand
        if fits and all(reader.word_rows is not None for reader in readers):
            self.layout = Layout(plan.key_types, tuple(len(read.features) for read in reads))
        self._windows = [read.reader.view.kind == "window" for read in reads]
        self._request_types = plan.request_types
        self._computed = [{f.name: f.type for f in view.features} for view in plan.on_demand]

    @property
    def version(self) -> str:
        return self.log_plan.catalog.version

    def provenances(self, data: Sequence[bytes | None], n: int) -> dict[str, pa.Array]:
        """View -> the provenance of one request's values."""
        return {
            alias: reader.column(data[place * n : (place + 1) * n])
            for alias, reader, place in self._of_each()
        }

    def described(self, data: Sequence[bytes | None], n: int) -> dict[str, Any]:
        """The same for an answer in JSON."""
        return {
            alias: reader.describe(data[place * n : (place + 1) * n])
            for alias, reader, place in self._of_each()
        }

    def _of_each(self) -> Any:
        return zip(self._aliases, self._provenance, self._places, strict=True)

    def part_of_turn(
        self, now_us: int, entities: Sequence[Mapping[str, Sequence[Any]]], turn: Turn
    ) -> Part:
        """What is kept of requests for one entity each; only where there is a `layout`."""
        words, status, event_us, nulls, _ = turn.words
        codes, n = status if nulls[0] else None, len(entities)
        origins = [self._kept(i, joined) for i, joined in enumerate(turn.joined)]
        return Part(now_us, n, True, entities, (words,), (codes,), (event_us,), origins)

    def part(
        self, now_us: int, n: int, entities: Mapping[str, Sequence[Any]], served: Found
    ) -> Part | RowsPart | None:
        """What is kept of a request of numbers alone, as Redis held them; None for any other."""
        reads = served.columns
        if self.layout is None or served.replaced:
            return None
        rows = [c.joined for c in reads if c.status is None and c.joined]
        sizes = tuple([each.sizes for each in rows if isinstance(each.sizes, int)])
        # Of wide rows of which little was asked for, the values are less.
        if len(sizes) == len(reads) and sum(sizes) <= self.layout.vector_bytes:
            return RowsPart(now_us, n, entities, [each.data for each in rows], sizes)
        if any(c.lists for c in reads):
            return None
        origins = [self._kept(i, c.joined) for i, c in enumerate(reads) if c.joined is not None]
        return Part(
            now_us, n, False, (entities,), [block.numbers for c in reads for block in c.blocks],
            [c.status for c in reads], [np.asarray(c.event_us) for c in reads], origins,
        )  # fmt: skip

    def _kept(self, read: int, joined: Joined) -> Joined | bytes:
        """Rows are kept as they are. Windows are many times what they were made of."""
        if not self._windows[read]:
            return joined
        return window_origins(*joined)

    def record(
        self, now_us: int, n: int, entities: Mapping[str, Sequence[Any]],
        data: Sequence[bytes | None], served: Found,
    ) -> bytes:  # fmt: skip
        """A request, as `log_segments` keeps it.

        data: what Redis held. Raises TypeError, ValueError or OverflowError where it holds what
        cannot be written.
        """
        given: dict[str, Any] = dict(entities)
        for name, kind in self._request_types.items():
            given[name] = texts_of(given[name], kind)
        reads = [
            self._read(i, served.columns[place], data[place * n : (place + 1) * n])
            for i, place in enumerate(self._places)
        ]
        computed = [
            {name: texts_of(made[name], kind) for name, kind in kinds.items()}
            for kinds, made in zip(self._computed, served.computed, strict=True)
        ]
        replaced: Any = {
            i: served.replaced[place].rows.tobytes()
            for i, place in enumerate(self._places) if place in served.replaced
        }  # fmt: skip
        return packed(Many(now_us, n, given, reads, computed, replaced))

    def _read(self, i: int, columns: ViewColumns, data: Sequence[bytes | None]) -> ReadRecord:
        blocks: Any = [
            (at, numbers.dtype.str, np.ascontiguousarray(numbers).data)
            for at, numbers in columns.blocks
        ]
        lists = columns.lists
        if self._odd[i]:
            odd = self._odd[i]
            lists = {at: texts_of(v, odd[at]) if at in odd else v for at, v in lists.items()}
        status: Any = columns.status
        if status is not None:
            status = np.ascontiguousarray(status).data
        times: Any = np.ascontiguousarray(columns.event_us, np.int64).data
        origins: Any = self._provenance[i].origins(data, columns.joined)
        return ReadRecord(blocks, lists, status, times, origins)


def _odd(kind: str) -> bool:
    """Whether Arrow has no type for the values."""
    target = arrow_type(kind)
    inner = target.value_type if pa.types.is_list(target) else target
    return bool(inner == pa.string()) and kind not in _TEXTS
