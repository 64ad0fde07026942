"""What must come out, in slow and obvious Python, from what the topics hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition

from headwater.catalog import StreamSourcePlan, ViewPlan
from tests.oracle import Timed

MAX_FUTURE_US = 3_600_000_000
FIRST_TIME = -(2**62)


class Message(NamedTuple):
    """A record as the broker holds it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def place(self) -> tuple[str, int, int]:
        return self.topic, self.partition, self.offset


class Event(NamedTuple):
    """An accepted message: its event and created times, its fields by name."""

    message: Message
    ts: int
    created: int
    fields: dict[str, Any]

    @property
    def sequence(self) -> int:
        return self.message.partition << 48 | self.message.offset


class Verdict(NamedTuple):
    """What a source's messages are: events, and (message, kind of reason) of the others."""

    accepted: list[Event]
    rejected: list[tuple[Message, str]]


def read_topic(bootstrap: str, topic: str) -> list[Message]:
    """All committed records of a topic, in offset order within each partition."""
    found: list[Message] = []
    consumer = _consumer(bootstrap, "read_committed")
    try:
        parts = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
        ends = _ends(bootstrap, parts)
        consumer.assign(parts)
        consumer.seek_to_beginning()
        while any(consumer.position(tp) < end for tp, end in ends.items()):
            for records in consumer.poll(1000, 10_000).values():
                found += [
                    Message(
                        r.topic, r.partition, r.offset, r.timestamp, r.key, r.value,
                        tuple(r.headers or ()),
                    )
                    for r in records
                ]  # fmt: skip
    finally:
        consumer.close()
    return sorted(found, key=lambda m: m.place)


def _ends(bootstrap: str, parts: list[TopicPartition]) -> dict[TopicPartition, int]:
    """Past transactions that a killed worker left open too: the broker will abort them."""
    consumer = _consumer(bootstrap, "read_uncommitted")
    try:
        return consumer.end_offsets(parts) if parts else {}
    finally:
        consumer.close()


def _consumer(bootstrap: str, isolation: str) -> KafkaConsumer:
    return KafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level=isolation, enable_auto_commit=False
    )


def judge(stream: StreamSourcePlan, views: list[ViewPlan], messages: list[Message]) -> Verdict:
    """Which messages are events and why the others are not, by the definition of lateness."""
    verdict = Verdict([], [])
    watermarks: dict[tuple[str, int], int] = {}
    for message in messages:
        fields = decoded(stream, message.value)
        ts = None if fields is None else fields.get(stream.timestamp_field)
        if fields is None or ts is None:
            verdict.rejected.append((message, "invalid"))
            continue
        if ts > message.timestamp_ms * 1000 + MAX_FUTURE_US:
            verdict.rejected.append((message, "future"))
            continue
        place = message.topic, message.partition
        watermark = watermarks[place] = max(watermarks.get(place, FIRST_TIME), ts)
        if ts < oldest(stream, views, watermark):
            verdict.rejected.append((message, "late"))
            continue
        if keyless(views, fields):
            verdict.rejected.append((message, "invalid"))
            continue
        created = fields.get(stream.created_field) or 0
        verdict.accepted.append(Event(message, ts, created, fields))
    return verdict


def keyless(views: list[ViewPlan], fields: dict[str, Any]) -> bool:
    """No view can say whose event this is; a transformation may make the key."""
    return all(
        view.udf is None and any(fields[key.name] is None for key in view.join_keys)
        for view in views
    )


def oldest(stream: StreamSourcePlan, views: list[ViewPlan], watermark: int) -> int:
    """An event time before this one is late."""
    if stream.watermark_delay_us is not None:
        return watermark - stream.watermark_delay_us
    if any(view.kind == "row" for view in views):
        return FIRST_TIME
    starts = [
        FIRST_TIME if a.window_us is None else (watermark - a.window_us) // a.hop_us * a.hop_us
        for view in views
        for a in view.aggregations
    ]
    return min(starts, default=FIRST_TIME)


def decoded(stream: StreamSourcePlan, value: bytes | None) -> dict[str, Any] | None:
    """A message's fields, times in microseconds; None where it is no event of the source."""
    try:
        found = json.loads((value or b"").decode())
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    kinds: dict[str, type | tuple[type, ...]] = {
        "INT32": int, "INT64": int, "DOUBLE": (int, float), "STRING": str, "BOOL": bool,
        "UNIX_TIMESTAMP": (int, str),
    }  # fmt: skip
    fields: dict[str, Any] = {}
    for field in stream.fields:
        cell = found.get(field.name)
        if cell is not None and not isinstance(cell, kinds[field.type]):
            return None
        if field.type == "UNIX_TIMESTAMP" and cell is not None:
            try:
                cell = microseconds(cell)
            except ValueError:
                return None
        if field.type == "DOUBLE" and cell is not None:
            cell = float(cell)
        fields[field.name] = cell
    return fields


def microseconds(value: int | str) -> int:
    """Text is ISO 8601, naive is UTC; a number is an epoch in s, ms or us by its size."""
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        moment = moment.replace(tzinfo=moment.tzinfo or UTC)
        return round(moment.timestamp()) * 1_000_000 + moment.microsecond
    if value < 10**11:
        return value * 1_000_000
    return value * 1000 if value < 10**14 else value


def _doubled(fields: dict[str, Any]) -> dict[str, Any]:
    amount = fields["amount"]
    return {"user_id": fields["user_id"], "twice": None if amount is None else 2 * amount}


def _large(fields: dict[str, Any]) -> dict[str, Any] | None:
    amount = fields["amount"]
    if amount is None or amount < 10.0:
        return None
    return {"device_id": fields["device_id"], "rest": amount - 10.0}


def _halved(fields: dict[str, Any]) -> dict[str, Any]:
    quantity = fields["quantity"]
    return {"user_id": fields["user_id"], "half": None if quantity is None else quantity // 2}


#: What the definitions' transformations do to one event; None drops it.
TRANSFORMED: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
    "doubled_windows": _doubled,
    "large_windows": _large,
    "halved_windows": _halved,
}


def of_entities(view: ViewPlan, events: list[Event]) -> dict[tuple[Any, ...], list[Event]]:
    """A view's events by entity, its transformation applied; a null key belongs to nobody."""
    change = TRANSFORMED.get(view.name, lambda fields: fields)
    entities: dict[tuple[Any, ...], list[Event]] = {}
    for event in events:
        fields = change(event.fields)
        if fields is None:
            continue
        entity = tuple(fields[key.name] for key in view.join_keys)
        if None not in entity:
            entities.setdefault(entity, []).append(event._replace(fields=fields))
    return entities


def timed(events: list[Event], column: str) -> list[Timed]:
    """One column of events, as the oracle takes it."""
    return [(e.ts, e.sequence, e.fields[column]) for e in events]


def newest(events: list[Event]) -> Event:
    """The event whose row wins: greatest (event time, created time, partition, offset)."""
    return max(events, key=lambda e: (e.ts, e.created, e.message.partition, e.message.offset))
