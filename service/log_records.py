"""What a request leaves to the feature log, and the provenance that its answer may carry. Pure."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from headwater.arrow import arrow_type
from headwater.catalog import Catalog
from headwater.codec import FIXED_TYPES
from headwater.offline.feature_log import LoggedRead, LogPlan, log_plan
from headwater.offline.log_segments import Many, One, ReadRecord, packed
from headwater.online.columns import ViewColumns
from headwater.online.provenance import Provenance
from service.arrow import texts_of
from service.found import Found
from service.requests import FeaturePlan

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
        sizes = [_cells_size([f.type for f in read.reader.view.features]) for read in plan.reads]
        ends = np.cumsum(sizes).tolist()
        #: Where the cells of each read are among those of one entity.
        self._cells = [slice(ends[p] - sizes[p], ends[p]) for p in self._places]
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

    def record(
        self, now_us: int, n: int, entities: Mapping[str, Sequence[Any]],
        data: Sequence[bytes | None], served: bytes | Found, apart: bool,
    ) -> bytes:  # fmt: skip
        """A request, or n of one entity each where they are `apart`, as `log_segments` keeps it.

        data: what Redis held. served: the cells of one entity's rows (see `service.single`), or
        what was made of them. Raises TypeError, ValueError or OverflowError where it holds what
        cannot be written.
        """
        given: dict[str, Any] = dict(entities)
        if isinstance(served, bytes):
            rows: Any = data
            if len(data) > len(self._places):
                rows = [data[place] for place in self._places]
                served = b"".join([served[cells] for cells in self._cells])
            return packed(One(now_us, given, served, rows))
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
        return packed(Many(now_us, n, given, reads, computed, replaced, apart))

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


def _cells_size(types: Sequence[str]) -> int:
    return sum(struct.calcsize("<" + FIXED_TYPES.get(kind, "q")) for kind in types)


def _odd(kind: str) -> bool:
    """Whether Arrow has no type for the values."""
    target = arrow_type(kind)
    inner = target.value_type if pa.types.is_list(target) else target
    return bool(inner == pa.string()) and kind not in _TEXTS
