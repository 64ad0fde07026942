"""The stream's benchmark events: JSON of 150 bytes, their production, and what they amount to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

Int64 = npt.NDArray[np.int64]

PARTITIONS = 4
HOUR_US = 3_600_000_000
COUNTRIES = ("DE", "FR", "IT", "ES", "PL", "NL", "SE", "US")
DEVICES = ("phone", "tablet", "laptop", "screen")
#: The event as a `JsonFormat` schema.
SCHEMA = (
    "user_id bigint, amount double, quantity int, country string, device string, "
    "session string, at timestamp"
)
_JSON = (
    '{"user_id":%d,"amount":%d.%02d,"quantity":%d,"country":"%s","device":"%s",'
    '"session":"a7c3f2e9b4d8051693d1e07b52c48af%08x","at":%d}'
)
#: How far behind the newest event's time one may come.
DISORDER_MS = 30_000


class Events(NamedTuple):
    """n events in the order in which they are sent: arrays [n]. `at_ms` is the event time."""

    user: Int64
    cents: Int64
    quantity: Int64
    country: Int64
    device: Int64
    at_ms: Int64

    @property
    def n(self) -> int:
        return len(self.user)

    @property
    def amount(self) -> npt.NDArray[np.float64]:
        return self.cents / 100

    def partition(self) -> Int64:
        return self.user % PARTITIONS

    def of(self, users: Sequence[int]) -> dict[int, Events]:
        """The events of some users, by user, in the order in which they were sent."""
        at = np.flatnonzero(np.isin(self.user, np.array(users)))
        at = at[np.argsort(self.user[at], kind="stable")]
        ends = np.searchsorted(self.user[at], users, side="right")
        starts = np.searchsorted(self.user[at], users, side="left")
        columns = [column[at] for column in self]
        return {
            user: Events(*(column[start:end] for column in columns))
            for user, start, end in zip(users, starts.tolist(), ends.tolist(), strict=True)
        }


def make(n: int, *, users: int = 100_000, hours: float = 2.0, seed: int = 1) -> Events:
    """n events of `users` users over the last `hours`, in order of time but for some seconds."""
    chance = np.random.default_rng(seed)
    end_ms = time.time_ns() // 1_000_000 - 1_000
    spread = np.linspace(end_ms - hours * 3_600_000, end_ms, n)
    delay = chance.exponential(2_000, n).clip(max=DISORDER_MS - 1_000)
    return Events(
        chance.integers(0, users, n),
        chance.integers(100, 100_000, n),
        chance.integers(1, 10, n),
        chance.integers(0, len(COUNTRIES), n),
        chance.integers(0, len(DEVICES), n),
        (spread - delay).astype(np.int64),
    )


def encoded(events: Events, start: int, end: int) -> list[bytes]:
    """The JSON of events [start, end)."""
    part = [column[start:end].tolist() for column in events]
    return [
        (
            _JSON
            % (user, cents // 100, cents % 100, many, COUNTRIES[country], DEVICES[device], i, at)
        ).encode()
        for i, (user, cents, many, country, device, at) in enumerate(zip(*part, strict=True), start)
    ]


def fresh_topic(servers: str, topic: str) -> None:
    """An empty topic that keeps everything, whatever the events' times."""
    client = AdminClient({"bootstrap.servers": servers})
    if topic in client.list_topics(timeout=30).topics:
        client.delete_topics([topic])[topic].result(30)
    wanted = NewTopic(topic, PARTITIONS, 1, config={"retention.ms": "-1"})
    deadline = time.monotonic() + 30
    while True:  # a deleted topic's name is free a moment later
        try:
            client.create_topics([wanted])[topic].result(30)
        except KafkaException as error:
            taken = error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
            if not taken or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def producer(servers: str, linger_ms: int = 20) -> Producer:
    return Producer(
        {"bootstrap.servers": servers, "linger.ms": linger_ms, "enable.idempotence": True,
         "acks": "all", "queue.buffering.max.messages": 1_000_000,
         "queue.buffering.max.kbytes": 1 << 20}
    )  # fmt: skip


def send(client: Producer, topic: str, key: bytes, value: bytes, partition: int) -> None:
    """Hand one message over; waits where the client's queue is full."""
    while True:
        try:
            client.produce(topic, value, key, partition)
        except BufferError:
            client.poll(0.1)
        else:
            return


def produce(servers: str, topic: str, events: Events) -> float:
    """Fill a fresh topic with the events, keyed by user; mean bytes of a message's value."""
    fresh_topic(servers, topic)
    client, size = producer(servers), 0
    partitions = events.partition()
    for start in range(0, events.n, 100_000):
        end = min(start + 100_000, events.n)
        for value, user, partition in zip(
            encoded(events, start, end), events.user[start:end].tolist(),
            partitions[start:end].tolist(), strict=True,
        ):  # fmt: skip
            send(client, topic, str(user).encode(), value, partition)
            size += len(value)
        client.poll(0)
    left = client.flush(120)
    assert left == 0, f"{left} events were not delivered"
    return size / events.n


def windows(one: Events, lengths: dict[str, tuple[int, int]], now_us: int) -> dict[str, Any]:
    """count, sum, mean, min, max of one user's amounts, for windows {suffix: (length, hop) us}."""
    found: dict[str, Any] = {}
    at_us, amount = one.at_ms * 1000, one.amount
    for suffix, (length, hop) in lengths.items():
        low = (now_us - length) // hop * hop
        inside = amount[(at_us >= low) & (at_us <= now_us)]
        some = len(inside) > 0
        found |= {
            f"count_{suffix}": len(inside),
            f"sum_{suffix}": float(inside.sum()) if some else None,
            f"mean_{suffix}": float(inside.mean()) if some else None,
            f"min_{suffix}": float(inside.min()) if some else None,
            f"max_{suffix}": float(inside.max()) if some else None,
        }
    return found


def latest(one: Events) -> dict[str, Any]:
    """One user's row: the newest event time wins, of equals the later offset. None of none."""
    if not one.n:
        return dict.fromkeys(("amount", "quantity", "country", "device"))
    i = int(np.flatnonzero(one.at_ms == one.at_ms.max())[-1])
    return {
        "amount": float(one.amount[i]),
        "quantity": int(one.quantity[i]),
        "country": COUNTRIES[int(one.country[i])],
        "device": DEVICES[int(one.device[i])],
    }


class Tiles(NamedTuple):
    """Partial aggregates of each (user, tile) that has events: arrays [tiles], sorted by both."""

    user: Int64
    start_ms: Int64
    count: Int64
    total: npt.NDArray[np.float64]
    least: npt.NDArray[np.float64]
    most: npt.NDArray[np.float64]


def tiles(events: Events, length_ms: int) -> Tiles:
    start = events.at_ms // length_ms * length_ms
    order = np.lexsort((start, events.user))
    user, start, amount = events.user[order], start[order], events.amount[order]
    first = np.flatnonzero(np.r_[True, (user[1:] != user[:-1]) | (start[1:] != start[:-1])])
    return Tiles(
        user[first],
        start[first],
        np.diff(np.r_[first, len(user)]),
        np.add.reduceat(amount, first),
        np.minimum.reduceat(amount, first),
        np.maximum.reduceat(amount, first),
    )
