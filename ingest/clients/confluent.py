"""The consumer on confluent-kafka: librdkafka fetches in the background, in threads of its own."""

from __future__ import annotations

import atexit
import logging
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import confluent_kafka
import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message

from headwater.errors import (
    FencedError,
    HeadwaterError,
    MessageTooLargeError,
    StoreUnavailableError,
)
from ingest.clients.librdkafka import Fetched, Messages, Queues
from ingest.clients.message_kernels import ERROR, OFFSET, SIZE, TIMESTAMP
from ingest.clients.options import COMPRESSION, for_confluent
from ingest.records import Committed, DeadLetter, Int64, Moved, Original, Records, TopicPartition

logger = logging.getLogger("headwater.ingest")

#: Longest wait for the broker in one call.
TIMEOUT_SECONDS = 10.0
#: A transaction that a killed worker left open holds its partitions' offsets this long.
TRANSACTION_TIMEOUT_MS = 10_000
#: Wait for where partitions begin, for which the others wait as well; asked again after as long.
BEGIN_SECONDS = 1.0
_FENCED = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.PRODUCER_FENCED,
    KafkaError._FENCED,
    KafkaError._ASSIGNMENT_LOST,
}
#: What passes by itself while librdkafka goes on trying.
_PASSING = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._MAX_POLL_EXCEEDED,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}


@dataclass(frozen=True)
class MessageRecords(Records):
    """Records whose keys and headers librdkafka's messages hold. places: which of them, [n]."""

    messages: Messages
    places: Int64

    def original(self, i: int) -> Original:
        return self.messages.original(int(self.places[i]))


class ConfluentConsumer:
    """See `Consumer`. `jumps` counts, by partition, the times that unread messages were gone."""

    def __init__(self, servers: str, group: str, options: Mapping[str, str]) -> None:
        """Raises StoreUnavailableError where no broker answers."""
        self.jumps: Counter[TopicPartition] = Counter()
        self._servers, self._group, self._options = servers, group, options
        self._client = confluent_kafka.Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": group,
                "enable.auto.commit": False,
                "partition.assignment.strategy": "cooperative-sticky",
                # A killed worker's partitions are free again after this long.
                "session.timeout.ms": 10_000,
                "heartbeat.interval.ms": 1_000,  # how soon it hears of a rebalance
                # Told as an error, for what is lost has to be said; `_reset` goes on from there.
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                # The end of a partition tells where to go on past markers and aborted messages.
                "enable.partition.eof": True,
                "topic.metadata.refresh.interval.ms": 5_000,  # how soon a new topic is found
                "socket.timeout.ms": int(TIMEOUT_SECONDS * 1000),
                "fetch.wait.max.ms": 100,
                # Its default of a second leaves the consumer idle half the time.
                "fetch.queue.backoff.ms": 2,
                "queued.max.messages.kbytes": 32 << 10,
                **for_confluent(options),
            },
            logger=logging.getLogger("headwater.kafka"),
        )
        self._queues = Queues(self._client)
        self._assigned: set[TopicPartition] = set()
        self._revoked: set[TopicPartition] = set()
        self._owned: set[TopicPartition] = set()
        #: Given by the group, and not begun yet: not owned so far.
        self._given: set[TopicPartition] = set()
        self._asked = -BEGIN_SECONDS
        self._next: dict[TopicPartition, int] = {}
        self._producer: Any = None
        self._closing = False
        # Left open at the interpreter's end, librdkafka would wait without end for our callbacks.
        atexit.register(self.close)
        try:
            cluster = self._client.list_topics(timeout=TIMEOUT_SECONDS).cluster_id or ""
        except KafkaException as error:
            self.close()
            raise StoreUnavailableError(
                f"no Kafka broker answers at {servers} ({error.args[0].str()}); "
                "check KAFKA_BOOTSTRAP_SERVERS and HEADWATER_KAFKA_CONFIG"
            ) from error

        self._is_mock = cluster.startswith("mockCluster")

    # -- the group -------------------------------------------------------------------------------

    def subscribe(self, topics: Sequence[str]) -> None:
        self._client.subscribe(
            list(topics), on_assign=self._gave, on_revoke=self._took, on_lost=self._took
        )

    def _gave(self, _: Any, partitions: Any) -> None:
        """Takes note only: the broker may be slow to say where a partition begins."""
        if self._closing:
            return
        # librdkafka waits for an answer, and without one begins what it gave by itself.
        self._client.incremental_assign([])
        self._given |= {TopicPartition(tp.topic, tp.partition) for tp in partitions}

    def _begin(self) -> None:
        """Begin what the group gave where it has been committed.

        That is not decided while the transaction of a worker that was killed is open. The other
        partitions go on meanwhile.
        """
        given = sorted(self._given)
        try:
            held = self.committed(given, BEGIN_SECONDS)
            fresh = self.beginnings([tp for tp in given if held[tp] is None])
        except StoreUnavailableError as error:
            logger.warning("%s; asking again where %s begin", error, given)
            return
        finally:
            self._asked = time.monotonic()
        self._assign({tp: at.offset if (at := held[tp]) else fresh[tp] for tp in given})
        self._given.clear()
        self._assigned |= set(given)
        self._owned |= set(given)

    def _assign(self, starts: Mapping[TopicPartition, int]) -> None:
        for tp in starts:
            self._queues.open(tp)
        self._client.incremental_assign([_native(tp, offset) for tp, offset in starts.items()])
        self._next.update(starts)

    def _took(self, _: Any, partitions: Any) -> None:
        gone = {TopicPartition(tp.topic, tp.partition) for tp in partitions}
        self._client.incremental_unassign([_native(tp) for tp in gone - self._given])
        self._revoked |= gone - self._assigned - self._given
        self._assigned -= gone
        self._owned -= gone
        self._given -= gone
        for tp in gone:
            self._next.pop(tp, None)
            self._queues.shut(tp)

    def moved(self) -> Moved:
        moved = Moved(frozenset(self._assigned), frozenset(self._revoked))
        self._assigned, self._revoked = set(), set()
        return moved

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._owned)

    # -- messages --------------------------------------------------------------------------------

    def poll(self, timeout_seconds: float, max_records: int) -> list[Records]:
        # What the client says of no partition, and the rebalances, for which it calls us.
        while (message := self._client.poll(0)) is not None:
            self._general(message.error())
        if self._given and time.monotonic() - self._asked >= BEGIN_SECONDS:
            self._begin()
        found = list(self._queues.take(max_records))
        if not found:
            self._queues.wait(timeout_seconds)
            found = list(self._queues.take(max_records))
        return [records for fetched in found for records in self._records(fetched)]

    def _general(self, error: KafkaError) -> None:
        if error.code() not in _PASSING:
            raise StoreUnavailableError(f"Kafka at {self._servers}: {error.str()}")
        logger.debug("Kafka: %s", error.str())

    def _records(self, fetched: Fetched) -> Iterator[Records]:
        """A partition's messages; none of them where only the position moves, or not even that."""
        tp, columns = fetched.tp, fetched.columns
        if tp not in self._owned:
            return
        before = self._next.get(tp, -1)
        places = np.flatnonzero(columns[ERROR] == 0)
        if len(places):
            self._next[tp] = int(columns[OFFSET, places[-1]]) + 1
        for place in np.flatnonzero(columns[ERROR]).tolist():
            self._told(fetched, place)
        if self._next.get(tp, -1) == before:
            return
        chosen = columns if len(places) == columns.shape[1] else columns[:, places]
        yield MessageRecords(
            tp, fetched.data, fetched.value_at, chosen[SIZE], chosen[OFFSET], chosen[TIMESTAMP],
            self._next[tp], self._end(tp), fetched.messages, places,
        )  # fmt: skip

    def _end(self, tp: TopicPartition) -> int:
        known = self._client.get_watermark_offsets(_native(tp), cached=True)
        return max(known[1] if known else -1, self._next[tp])

    def _told(self, fetched: Fetched, place: int) -> None:
        """What the client says between a partition's messages."""
        tp, offset = fetched.tp, int(fetched.columns[OFFSET, place])
        code = int(fetched.columns[ERROR, place])
        if code == KafkaError._PARTITION_EOF:
            self._next[tp] = max(self._next.get(tp, -1), offset)
        elif code == KafkaError._AUTO_OFFSET_RESET:
            self._reset(tp, offset)
        elif code in _PASSING:
            logger.debug("Kafka: %s: %s", tp, fetched.messages.error(place))
        else:
            raise StoreUnavailableError(
                f"Kafka at {self._servers}: {tp}: {fetched.messages.error(place)}"
            )

    def _reset(self, tp: TopicPartition, before: int | None) -> None:
        """Go on at the earliest message, for what was wanted is gone."""
        if tp not in self._owned:
            return
        start = self.beginnings([tp])[tp]
        before = self._next[tp] if before is None else before
        self.seek(tp, start)
        self.jumps[tp] += 1
        logger.warning(
            "%s-%d: messages from %d on are gone before they were read; going on at %d",
            tp.topic, tp.partition, before, start,
        )  # fmt: skip

    # -- positions -------------------------------------------------------------------------------

    def committed(
        self, partitions: Sequence[TopicPartition], timeout_seconds: float = TIMEOUT_SECONDS
    ) -> dict[TopicPartition, Committed | None]:
        if not partitions:
            return {}
        with _answering(self._servers):
            held = self._client.committed([_native(tp) for tp in partitions], timeout_seconds)
        for tp in held:
            if tp.error is not None:
                raise StoreUnavailableError(f"Kafka at {self._servers}: {tp.error.str()}")
        return {
            TopicPartition(tp.topic, tp.partition): (
                Committed(tp.offset, _metadata(tp)) if tp.offset >= 0 else None
            )
            for tp in held
        }

    def position(self, partition: TopicPartition) -> int:
        return self._next[partition]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        # librdkafka's own seek lets messages that were fetched before it pass after it.
        with _answering(self._servers):
            self._client.incremental_unassign([_native(partition)])
            self._assign({partition: offset})

    def beginnings(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: low for tp, (low, _) in self._bounds(partitions).items()}

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: high for tp, (_, high) in self._bounds(partitions).items()}

    def _bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Any]:
        with _answering(self._servers):
            return {
                tp: self._client.get_watermark_offsets(_native(tp), TIMEOUT_SECONDS)
                for tp in partitions
            }

    def partitions(self, topic: str) -> list[TopicPartition]:
        with _answering(self._servers):
            known = self._client.list_topics(topic, TIMEOUT_SECONDS).topics.get(topic)
        return [TopicPartition(topic, p) for p in sorted(known.partitions)] if known else []

    # -- commits ---------------------------------------------------------------------------------

    def commit(
        self, positions: Mapping[TopicPartition, Committed], dead: Sequence[DeadLetter] = ()
    ) -> None:
        taken = set(positions) - self._owned
        if taken:
            raise FencedError(f"the group took {sorted(taken)} away from this worker")
        offsets = [
            confluent_kafka.TopicPartition(tp.topic, tp.partition, at.offset, at.metadata)
            for tp, at in positions.items()
        ]
        with _answering(self._servers):
            if dead:
                self._transact(offsets, dead)
            # librdkafka's mock cluster forgets the offsets of transactions: there, at least once.
            if offsets and (not dead or self._is_mock):
                for tp in self._client.commit(offsets=offsets, asynchronous=False):
                    if tp.error is not None:
                        raise KafkaException(tp.error)

    def _transact(self, offsets: Sequence[Any], dead: Sequence[DeadLetter]) -> None:
        if self._producer is None:
            self._producer = confluent_kafka.Producer(
                {
                    "bootstrap.servers": self._servers,
                    "transactional.id": f"{self._group}-{uuid.uuid4()}",
                    "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                    "delivery.timeout.ms": int(TIMEOUT_SECONDS * 1000),
                    "message.max.bytes": 64 << 20,
                    "compression.type": COMPRESSION,
                    # A topic's limit holds for batches: none is larger for its many messages.
                    "batch.size": 16 << 10,
                    **for_confluent(self._options, producer=True),
                },
                logger=logging.getLogger("headwater.kafka"),
            )
            self._producer.init_transactions(TIMEOUT_SECONDS)
        try:
            self._send(dead)
            self._producer.send_offsets_to_transaction(offsets, self._member(), TIMEOUT_SECONDS)
            self._producer.commit_transaction(TIMEOUT_SECONDS)
        except Exception:
            # It cannot be used again; what it leaves open the broker ends after its time-out.
            producer, self._producer = self._producer, None
            try:
                producer.abort_transaction(TIMEOUT_SECONDS)
            except KafkaException:
                logger.debug("the transaction ends with its time-out", exc_info=True)
            raise

    def _member(self) -> Any:
        """This member of the group, for the broker to fence. Raises FencedError where it is none:
        the broker takes offsets of such a one, which passes for a client without a group.
        """
        member = self._client.memberid()
        found = self._client.consumer_group_metadata()
        if not member or self._client.memberid() != member:
            raise FencedError("the group moved on without this worker (its session is over)")
        return found

    def _send(self, dead: Sequence[DeadLetter]) -> None:
        refused: list[tuple[str, KafkaError]] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                refused.append((message.topic(), error))

        self._producer.begin_transaction()
        for topic, (key, value, headers), partition in dead:
            while True:
                try:
                    self._producer.produce(
                        topic, value, key, -1 if partition is None else partition,
                        headers=list(headers), on_delivery=delivered,
                    )  # fmt: skip
                    break
                except BufferError:
                    self._producer.poll(0.1)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while self._producer.flush(0.1) and not refused and time.monotonic() < deadline:
            pass
        # One that is too large takes the others with it, whose errors say nothing.
        refused.sort(key=lambda one: one[1].code() != KafkaError.MSG_SIZE_TOO_LARGE)
        if refused:
            raise _refused(*refused[0])

    def close(self) -> None:
        atexit.unregister(self.close)
        if not self._closing:
            self._producer, self._closing = None, True
            self._queues.close()
            self._client.close()


def _native(tp: TopicPartition, offset: int | None = None) -> Any:
    if offset is None:
        return confluent_kafka.TopicPartition(tp.topic, tp.partition)
    return confluent_kafka.TopicPartition(tp.topic, tp.partition, offset)


def _refused(topic: str, error: KafkaError) -> HeadwaterError:
    if error.code() in (KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART):
        return StoreUnavailableError(
            f"the broker has no topic {topic} and does not make it; create it, for what cannot be "
            "applied goes there"
        )
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return MessageTooLargeError(topic)
    return StoreUnavailableError(
        f"the dead-letter topic {topic} takes nothing ({error.str()}); see that it exists and "
        "that this worker may write to it"
    )


@contextmanager
def _answering(servers: str) -> Iterator[None]:
    """Turns the client's errors into ours."""
    try:
        yield
    except KafkaException as error:
        told: KafkaError = error.args[0]
        if told.code() in _FENCED:
            raise FencedError(f"the group moved on without this worker ({told.str()})") from error
        raise StoreUnavailableError(
            f"Kafka at {servers} does not answer as it should ({told.name()}: {told.str()})"
        ) from error


def _metadata(committed: Any) -> str:
    """What was saved beside an offset, and whatever lies behind it in memory (`worker._read`), as
    far as that is a text."""
    try:
        return committed.metadata or ""
    except UnicodeDecodeError as error:
        return error.object[: error.start].decode()
