"""Events for the fault tests: nulls, disorder, ties, duplicates, late, future, broken, aborted."""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, datetime
from typing import Any

import confluent_kafka
from kafka import KafkaProducer

from tests.faults.project import PARTITIONS

SECOND, MINUTE, HOUR = 1_000_000, 60_000_000, 3_600_000_000
USERS, DEVICES = 60, 25
LABELS = ["a", "b", "cc", "ü", ""]
BROKEN: list[bytes | None] = [
    b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", None,
    b'{"user_id": 1, "amount": 2.0}',
    b'{"user_id": 1, "at": "yesterday"}',
    b'{"user_id": "one", "at": 1700000000}',
    b'{"user_id": 1, "at": null}',
    b'{"user_id": 1, "at": 1700000000} {"user_id": 1, "at": 1700000000}',
    b'{"user_id": 1, "at": 1700000000},{"user_id": 1, "at": 1700000000}',
]  # fmt: skip


class Feed:
    """Sends seeded events that lead up to now, some at a time.

    Cross-topic ties are left out: the topic's number is in the last digit of each event time, for
    which of two events with one time, partition and offset in two topics is newer is undefined.
    """

    def __init__(self, bootstrap: str, run: str, seed: int, span_us: int = 5 * HOUR) -> None:
        self._chance = random.Random(seed)
        self._topics = [f"{run}-actions-a", f"{run}-actions-b", f"{run}-visits"]
        # A killed broker takes no events for a while: they wait, once each.
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap, enable_idempotence=True, acks="all",
            compression_type=self._chance.choice([None, "gzip"]), linger_ms=5,
            delivery_timeout_ms=400_000, max_block_ms=400_000, reconnect_backoff_max_ms=1000,
        )  # fmt: skip
        for topic in self._topics:
            self._producer.partitions_for(topic)
        self._undecided = confluent_kafka.Producer(
            {
                "bootstrap.servers": bootstrap,
                "transactional.id": f"{run}-undecided",
                "transaction.timeout.ms": 10_000,
                "log_level": 0,
            }
        )
        self._undecided.init_transactions(60)
        self._start = time.time_ns() // 1000 - span_us
        self._recent: list[tuple[int, bytes]] = []
        self.sent = 0

    def send(self, events: int) -> None:
        """Blocks until the broker has them all. Their times lead from the last ones to now."""
        now = time.time_ns() // 1000
        step = max(1, (now - self._start) // (3 * events))
        futures = []
        self._abort()
        for _ in range(events):
            self._start = min(now, self._start + self._chance.randrange(6 * step + 1))
            futures.append(self._one())
        self._producer.flush()
        for future in futures:
            future.get(400)
        self.sent += events

    def _abort(self) -> None:
        """Events of a transaction that is aborted: they take offsets, and nobody may see them."""
        self._undecided.begin_transaction()
        for number in (0, 1, 2):
            self._undecided.produce(
                self._topics[number], json.dumps(self._body(number)).encode(),
                partition=self._chance.randrange(PARTITIONS),
            )  # fmt: skip
        self._undecided.flush()
        self._undecided.abort_transaction(60)

    def close(self) -> None:
        self._producer.close()

    def _one(self) -> Any:
        chance = self._chance
        number = chance.randrange(3)
        value: bytes | None
        if self._recent and chance.random() < 0.03:
            number, value = chance.choice(self._recent)
        elif chance.random() < 0.02:
            value = chance.choice(BROKEN)
        else:
            value = json.dumps(self._body(number)).encode()
            self._recent = [*self._recent[-50:], (number, value)]
        key = chance.choice([None, b"", b"k%d" % chance.randrange(9)])
        headers = [("trace", b"%d" % chance.randrange(99)), ("trace", b"\x00\xff")]
        return self._producer.send(
            self._topics[number],
            value,
            b"gone" if value is None else key,
            headers=headers if chance.random() < 0.3 else None,
            partition=chance.randrange(PARTITIONS),
        )

    def _body(self, number: int) -> dict[str, Any]:
        chance = self._chance
        body: dict[str, Any] = {"at": self._time(number)}
        if chance.random() < 0.98:
            body["user_id"] = chance.randrange(USERS)
        if number == 2:
            values = {"seconds": chance.randrange(4000) / 4, "page": f"p{chance.randrange(40)}"}
        else:
            values = {
                "device_id": f"d{chance.randrange(DEVICES)}",
                "amount": chance.choice([0.0, -0.25, 1e9, chance.randrange(400) / 4]),
                "quantity": chance.choice([0, -(2**31), 2**31 - 1, chance.randrange(50)]),
                "label": chance.choice(LABELS),
                "ok": chance.random() < 0.5,
                "made": self._start + chance.randrange(3) * SECOND,
            }
        for name, value in values.items():
            if (kind := chance.random()) > 0.1:
                body[name] = value
            elif kind > 0.05:
                body[name] = None
        return body

    def _time(self, number: int) -> int | str:
        """Mostly in disorder by minutes; some on a hop's edge, some late, some ahead."""
        chance, at = self._chance, self._start
        kind = chance.random()
        if kind < 0.70:
            at -= chance.randrange(10 * MINUTE)
        elif kind < 0.80:
            at = (at - chance.randrange(10 * MINUTE)) // MINUTE * MINUTE
        elif kind < 0.90:
            at -= chance.randrange(3 * HOUR)
        elif kind < 0.95:
            at -= chance.randrange(12 * HOUR)
        elif kind < 0.97:
            at = time.time_ns() // 1000 + chance.randrange(40 * MINUTE)
        elif kind < 0.98:
            at = time.time_ns() // 1000 + 2 * HOUR + chance.randrange(100 * HOUR)
        at = at // 4 * 4 + number
        if number == 0 and chance.random() < 0.2:
            moment = datetime.fromtimestamp(at // SECOND, UTC)
            return chance.choice(
                [at // SECOND, at // SECOND * 1000, moment.isoformat(),
                 moment.strftime("%Y-%m-%d %H:%M:%S")]
            )  # fmt: skip
        return at
