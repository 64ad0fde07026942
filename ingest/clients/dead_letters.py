"""kafka-python's transactional producer: dead letters and offsets, both or neither."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaProducer
from kafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    ProducerFencedError,
    RecordListTooLargeError,
)
from kafka.structs import TopicPartition as KafkaPartition

from headwater.errors import (
    FencedError,
    HeadwaterError,
    MessageTooLargeError,
    StoreUnavailableError,
)
from ingest.clients.options import COMPRESSION
from ingest.records import DeadLetter, Header

#: Longest wait for each step of a transaction.
TIMEOUT_SECONDS = 10.0
#: A transaction that a killed worker left open holds its partitions' offsets this long.
TRANSACTION_TIMEOUT_MS = 10_000
_TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)


class _Headers(list[Header]):
    """Headers that may have null values: false, for the library adds up the sizes of true ones."""

    def __bool__(self) -> bool:
        return False


class TransactionalProducer(KafkaProducer):
    """One transaction after the other. After an error it is of no more use.

    It reaches below the library's public calls for two things: those that end a transaction wait
    without end, and `send` refuses null header values and messages without key and value.
    """

    @classmethod
    def connected(
        cls, servers: str, transactional_id: str, options: Mapping[str, Any]
    ) -> TransactionalProducer:
        producer = cls(
            bootstrap_servers=servers.split(","),
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            max_block_ms=int(TIMEOUT_SECONDS * 1000),
            request_timeout_ms=int(TIMEOUT_SECONDS * 1000),
            delivery_timeout_ms=int(TIMEOUT_SECONDS * 1000) + 100,
            linger_ms=5,
            compression_type=COMPRESSION,
            bootstrap_timeout_ms=int(TIMEOUT_SECONDS * 1000),
            max_request_size=64 << 20,
            metrics_enabled=False,
            **options,
        )
        producer.init_transactions()
        return producer

    def commit(self, dead: Sequence[DeadLetter], offsets: Mapping[Any, Any], group: Any) -> None:
        """Raises FencedError where the group or another producer is ahead of this one."""
        transaction = self._transaction_manager
        self.begin_transaction()
        try:
            sent = [(letter.topic, self._put(letter)) for letter in dead]
            self._wait(transaction.send_offsets_to_transaction(offsets, group))
            self.flush(timeout=TIMEOUT_SECONDS)
            failed = [(topic, future.exception) for topic, future in sent if future.failed()]
            # One that is too large takes the others with it, whose errors say nothing.
            failed.sort(key=lambda one: not isinstance(one[1], _TOO_LARGE))
            if failed:
                raise _refused(*failed[0])
            self._wait(transaction.begin_commit())
        except ProducerFencedError as error:
            raise FencedError("another worker ended this worker's transaction") from error
        except Exception:
            self._abort()
            raise

    def _put(self, letter: DeadLetter) -> Any:
        topic, (key, value, headers) = letter.topic, letter.original
        try:
            self._wait_on_metadata(topic, TIMEOUT_SECONDS * 1000)
        except KafkaError as error:
            raise _refused(topic, error) from error
        partition = self._partition(topic, letter.partition, key, value, key, value)
        tp = KafkaPartition(topic, partition)
        self._transaction_manager.maybe_add_partition_to_transaction(tp)
        future, *_ = self._accumulator.append(tp, None, key, value, _Headers(headers))
        return future

    def _wait(self, result: Any) -> None:
        self._sender.wakeup()
        if not result.wait(timeout_ms=TIMEOUT_SECONDS * 1000):
            raise KafkaTimeoutError("the transaction's coordinator does not answer")

    def _abort(self) -> None:
        """As well as can be: the broker aborts it itself after the transaction's time-out."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        try:
            if not self._transaction_manager.has_fatal_error() and time.monotonic() < deadline:
                self._wait(self._transaction_manager.begin_abort())
        except KafkaError:
            pass


def _refused(topic: str, error: BaseException) -> HeadwaterError:
    if isinstance(error, KafkaTimeoutError):
        return StoreUnavailableError(
            f"the broker has no topic {topic} and does not make it; create it, for what cannot be "
            "applied goes there"
        )
    if isinstance(error, _TOO_LARGE):
        return MessageTooLargeError(topic)
    return StoreUnavailableError(
        f"the dead-letter topic {topic} takes nothing ({type(error).__name__}); see that it exists "
        "and that this worker may write to it"
    )
