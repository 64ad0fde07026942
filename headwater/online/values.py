"""Features of many entities from the packed values that Redis holds for one view. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from headwater.catalog import ViewPlan
from headwater.codec import RowCodec, StaleSchemaError, key_prefix, redis_keys, split_sections
from headwater.windows import WindowProgram

PRESENT, NULL_VALUE, NOT_FOUND, OUTSIDE_MAX_AGE = (
    "PRESENT",
    "NULL_VALUE",
    "NOT_FOUND",
    "OUTSIDE_MAX_AGE",
)


class ViewValues(NamedTuple):
    """Columns of n entities: values and statuses [features][n], event times [n] (0: none)."""

    values: list[list[Any]]
    statuses: list[list[str]]
    event_us: list[int]


class ViewReader:
    """Knows the keys of one view and how to read its values at a time."""

    def __init__(self, project: str, view: ViewPlan) -> None:
        self.view = view
        self.prefix = key_prefix(project, view)
        self._codec = RowCodec.of(view) if view.kind == "row" else None
        self.program = WindowProgram.of(view) if view.kind == "window" else None

    def keys(self, columns: Sequence[Sequence[Any]], n: int) -> list[bytes]:
        """Redis keys of n entities; columns in the order of `view.join_keys`."""
        return redis_keys(self.prefix, columns, n)

    def values(self, data: Sequence[bytes | None], names: Sequence[str], now_us: int) -> ViewValues:
        """The named features of each value read, as of now."""
        wanted = [self.view.feature_names.index(name) for name in names]
        if self.program is not None:
            return self._windows(data, wanted, now_us)
        return self._rows(data, wanted, now_us)

    def _windows(
        self, data: Sequence[bytes | None], wanted: Sequence[int], now_us: int
    ) -> ViewValues:
        assert self.program is not None  # noqa: S101 (narrows the type for mypy)
        sections = [split_sections(value) for value in data]
        found = self.program.read(sections, now_us)
        values = [found[i] for i in wanted]
        statuses = [[NULL_VALUE if v is None else PRESENT for v in column] for column in values]
        # A section's third word is the newest event time that its partition had shown.
        newest = [
            max((int.from_bytes(s[16:24], "little", signed=True) for s in parts), default=0)
            for parts in sections
        ]
        return ViewValues(values, statuses, newest)

    def _rows(self, data: Sequence[bytes | None], wanted: Sequence[int], now_us: int) -> ViewValues:
        assert self._codec is not None  # noqa: S101 (narrows the type for mypy)
        values: list[list[Any]] = [[] for _ in wanted]
        statuses: list[list[str]] = [[] for _ in wanted]
        times: list[int] = []
        oldest = now_us - self.view.ttl_us if self.view.ttl_us else None
        for packed in data:
            row = self._unpack(packed)
            times.append(row.event_us if row else 0)
            gone = NOT_FOUND if row is None else OUTSIDE_MAX_AGE
            for at, i in enumerate(wanted):
                if row is None or (oldest is not None and row.event_us < oldest):
                    values[at].append(None)
                    statuses[at].append(gone)
                else:
                    value = row.values[i]
                    values[at].append(value)
                    statuses[at].append(NULL_VALUE if value is None else PRESENT)
        return ViewValues(values, statuses, times)

    def _unpack(self, packed: bytes | None) -> Any:
        assert self._codec is not None  # noqa: S101 (narrows the type for mypy)
        if packed is None:
            return None
        try:
            return self._codec.unpack(packed)
        except StaleSchemaError:
            # Another version of the schema wrote it: absent is true, a misread value is not.
            return None
