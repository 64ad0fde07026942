"""What the tests of the decoders share: sources, records, and what a decoder said as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from headwater.catalog import FieldPlan, StreamSourcePlan
from headwater.settings import Settings
from ingest.decoders import Decoder, make_decoder
from ingest.records import PackedRecords, TopicPartition


def source(fields: str, **changes: Any) -> StreamSourcePlan:
    """A JSON source with "name TYPE, ..." fields whose event time is `at`."""
    planned = tuple(FieldPlan(*field.split()) for field in fields.split(","))
    plan = StreamSourcePlan("clicks", ("clicks",), "", "json", planned, "at")
    return msgspec.structs.replace(plan, **changes)


def decoder(fields: str, **changes: Any) -> Decoder:
    return make_decoder(source(fields, **changes), Settings())


def records(values: Sequence[bytes | None]) -> PackedRecords:
    places = np.arange(len(values), dtype=np.int64)
    return PackedRecords.of(TopicPartition("clicks", 0), values, places, places)


def said(found: Decoder, values: Sequence[bytes | None]) -> list[Any]:
    """For each message its event as a dict, or the reason why it is none."""
    decoded = found.decode(records(values))
    out: list[Any] = [None] * len(values)
    assert decoded.kept.tolist() == sorted(decoded.kept.tolist())
    assert decoded.rejected == sorted(decoded.rejected)
    events = decoded.columns.to_pylist()
    pairs = [*zip(decoded.kept.tolist(), events, strict=True), *decoded.rejected]
    assert sorted(at for at, _ in pairs) == list(range(len(values)))
    for at, what in pairs:
        out[at] = what
    return out
