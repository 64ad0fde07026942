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
from headwater.offline.log_segments import Turn as TurnRecord
from headwater.online.columns import ViewColumns
from headwater.online.provenance import Provenance
from service.arrow import texts_of
from service.found import Found
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
        #: No view is read twice, so that all that was read is logged.
        self.takes_turns = len(self._places) == len(plan.reads)
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

    def turn(self, now_us: int, entities: dict[str, list[Any]], turn: Turn) -> bytes:
        """Requests for one entity each, as `log_segments` keeps them; only where `takes_turns`.

        entities: of all of them. Raises TypeError, ValueError or OverflowError where they are
        such as cannot be written.
        """
        words, status, event_us, nulls, _ = turn.words
        if len(turn.joined) == len(self._provenance):
            origins: Any = [
                reader.origins((), joined)
                for reader, joined in zip(self._provenance, turn.joined, strict=True)
            ]
        else:
            origins = [(turn.joined[0].data.data, turn.sizes.data)]
        return packed(
            TurnRecord(
                now_us, words.shape[1], entities, words.T.tobytes(),
                status.T.tobytes() if nulls[0] else None, event_us.T.tobytes(), origins,
            )
        )  # fmt: skip

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
