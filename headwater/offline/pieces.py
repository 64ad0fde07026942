"""Where a view's rows come from: datasets, read file by file and row group by row group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from headwater.arrow import TIMESTAMP
from headwater.catalog import BatchSourcePlan, StreamSourcePlan
from headwater.offline.files import open_delta, open_source
from headwater.offline.log import log_schema
from headwater.times import epoch_us

#: Rows that are read at once, where row groups are smaller.
_GROUP_ROWS = 1 << 18


@dataclass
class Piece:
    """A dataset that rows come from: a view's batch source, a stream's history, or its log."""

    data: ds.Dataset
    source_of: dict[str, str]  # name in the view -> name in the dataset
    event: str
    created: str = ""
    kind: str = "batch"  # or "history", "log"
    before_us: int | None = None  # history counts before the log's first event time
    fragments: list[Any] | None = None

    def limit(self, low_us: int | None, high_us: int | None) -> None:
        """Leave out row groups whose statistics say that no event time is within the bounds."""
        kind = self.data.schema.field(self.event).type
        if not pa.types.is_timestamp(kind) or not isinstance(self.data, ds.FileSystemDataset):
            return
        name, within = ds.field(self.event), None
        for us, compare in ((low_us, name.__ge__), (high_us, name.__le__)):
            if us is None:
                continue
            try:
                bound = pa.scalar(us, TIMESTAMP).cast(pa.timestamp("us"))
                bound = bound.cast(pa.timestamp(kind.unit)) if kind.unit != "s" else bound
                bound = pa.scalar(bound.value, pa.timestamp(bound.type.unit, kind.tz))
            except (pa.ArrowInvalid, OverflowError):
                continue  # a bound that the unit cannot hold bounds nothing
            within = compare(bound) if within is None else within & compare(bound)
        if within is None:
            return
        kept = self.data.get_fragments(filter=within)
        self.fragments = [f.subset(filter=within) if hasattr(f, "subset") else f for f in kept]

    def times(self) -> tuple[int, int] | None:
        """The first and the last event time (us) by the files' statistics; None without them."""
        if not isinstance(self.data, ds.FileSystemDataset):
            return None
        found = []
        for fragment in self.data.get_fragments():
            if not isinstance(fragment, ds.ParquetFileFragment):
                return None
            for group in fragment.row_groups:
                held = (group.statistics or {}).get(self.event, {})
                if not isinstance(held.get("min"), datetime):
                    return None
                found.append((held["min"], held["max"]))
        if not found:
            return None
        return epoch_us(min(low for low, _ in found)), epoch_us(max(high for _, high in found))

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The dataset's columns, file by file and group by group."""
        fragments = self.fragments
        if fragments is None and isinstance(self.data, ds.FileSystemDataset):
            fragments = list(self.data.get_fragments())
        if fragments is None:
            yield from self.data.scanner(columns=list(columns), batch_size=_GROUP_ROWS).to_batches()
            return
        for fragment in fragments:
            if self._is_plain(fragment, columns):
                yield from _row_groups(fragment, list(columns))
            else:
                yield from fragment.scanner(
                    schema=self.data.schema, columns=list(columns), batch_size=_GROUP_ROWS,
                    batch_readahead=2,
                ).to_batches()  # fmt: skip

    def _is_plain(self, fragment: Any, columns: Sequence[str]) -> bool:
        """Whether a file holds the columns as the dataset does: then it is read three times faster
        and in half the memory without the dataset's scanner."""
        if not isinstance(fragment, ds.ParquetFileFragment):
            return False
        held, wanted = fragment.physical_schema, self.data.schema
        return all(
            "." not in name and held.names.count(name) == 1
            and held.field(name).type == wanted.field(name).type
            for name in columns
        )  # fmt: skip


def _row_groups(fragment: Any, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Row groups one by one, small ones together; the next is read while one is worked on."""
    with pq.ParquetFile(
        fragment.path, filesystem=fragment.filesystem, metadata=fragment.metadata
    ) as file:
        together: list[list[int]] = [[]]
        rows = 0
        for group in fragment.row_groups:
            together[-1].append(group.id)
            rows += file.metadata.row_group(group.id).num_rows
            if rows >= _GROUP_ROWS:
                together.append([])
                rows = 0

        def read(groups: list[int]) -> list[pa.RecordBatch]:
            table = file.read_row_groups(groups, columns=columns)
            # The reader's order of columns is the file's.
            found: list[pa.RecordBatch] = table.select(columns).combine_chunks().to_batches()
            return found

        for batches in _ahead(read, [groups for groups in together if groups]):
            yield from batches


def _ahead(
    read: Callable[[list[int]], list[pa.RecordBatch]], parts: list[list[int]]
) -> Iterator[list[pa.RecordBatch]]:
    if not parts:
        return
    with ThreadPoolExecutor(1) as reader:
        waiting = reader.submit(read, parts[0])
        for part in parts[1:]:
            found = waiting.result()
            waiting = reader.submit(read, part)
            yield found
        yield waiting.result()


def batch_piece(source: BatchSourcePlan, data: ds.Dataset, kind: str = "batch") -> Piece:
    names = {source.field_mapping.get(n, n): n for n in data.schema.names}
    created = source.created_field
    inverse = {v: k for k, v in source.field_mapping.items()}
    event = source.timestamp_field
    event = event if event in data.schema.names else inverse.get(event, event)
    created = created if created in data.schema.names else inverse.get(created, "")
    return Piece(data, names, event, created, kind)


def stream_pieces(stream: StreamSourcePlan, versions: Mapping[str, int]) -> list[Piece]:
    event = stream.field_mapping.get(stream.timestamp_field, stream.timestamp_field)
    created = stream.field_mapping.get(stream.created_field, stream.created_field)
    data = open_delta(stream.log_path, versions.get(stream.log_path))
    pieces = []
    if data is None:
        data = ds.dataset(log_schema(stream).empty_table())
    log = Piece(data, {n: n for n in data.schema.names}, event,
                created if created in data.schema.names else "", "log")  # fmt: skip
    if stream.history is not None:
        past = open_source(stream.history, versions.get(stream.history.path))
        history = batch_piece(stream.history, past, "history")
        if history.event not in past.schema.names and event in past.schema.names:
            history.event = event
        if history.event in past.schema.names:
            history.before_us = _first_time(log)
        pieces.append(history)
    return [*pieces, log]


def _first_time(log: Piece) -> int | None:
    known = log.times()
    if known is not None:
        return known[0]
    firsts = [pc.min(b.column(0)) for b in log.batches([log.event]) if b.num_rows]
    times = [f.cast(TIMESTAMP).value for f in firsts if f.is_valid]
    return min(times) if times else None
