"""The consumer on kafka-python: its network and its group protocol, our reading of the records."""

from __future__ import annotations

import logging
import socket
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer, OffsetAndMetadata
from kafka import TopicPartition as KafkaPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from kafka.net.compat import KafkaNetClient
from kafka.structs import MemberState

from headwater.errors import FencedError, StoreUnavailableError
from ingest.clients.dead_letters import TransactionalProducer
from ingest.clients.fetching import ColumnFetcher
from ingest.clients.options import for_kafka_python
from ingest.records import Committed, DeadLetter, Moved, Records, TopicPartition

logger = logging.getLogger("headwater.ingest")

#: Longest wait for the broker in one call.
TIMEOUT_MS = 10_000
#: Brokers that speak an old dialect only, such as librdkafka's mock cluster, want it said.
VERSIONS: tuple[dict[str, Any], ...] = ({}, {"api_version": (2, 3)})
_FENCED = (
    CommitFailedError,
    IllegalGenerationError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)


class _Listener(ConsumerRebalanceListener):
    """Takes note of what rebalances do; the client runs it inside its own event loop."""

    def __init__(self) -> None:
        self.assigned: set[TopicPartition] = set()
        self.revoked: set[TopicPartition] = set()

    def on_partitions_revoked(self, revoked: Any) -> None:
        gone = {TopicPartition(*tp) for tp in revoked}
        self.revoked |= gone - self.assigned
        self.assigned -= gone

    def on_partitions_assigned(self, assigned: Any) -> None:
        self.assigned |= {TopicPartition(*tp) for tp in assigned}

    def on_partitions_lost(self, lost: Any) -> None:
        self.on_partitions_revoked(lost)


class _Coordinator(ConsumerCoordinator):
    """Takes a join that ended between two polls for what it is.

    The library forgets its result and joins anew, so that a busy group rebalances without end.
    """

    _join_task: Any

    def need_rejoin(self) -> bool:
        # Else a join begun for new metadata, over which the leader has decided, is never taken.
        return self._join_task is not None or bool(super().need_rejoin())

    async def join_group_async(self, timeout_ms: Any = None) -> bool:
        task: Any = self._join_task
        if task is None or not task.is_done or not task.succeeded():
            return bool(await super().join_group_async(timeout_ms))
        self._join_task = None
        with self._lock:
            self.rejoining = self.rejoin_needed = False
            self.state = MemberState.STABLE
            self._enable_heartbeat()
        joined = self._generation
        await self._on_join_complete_async(
            joined.generation_id, joined.member_id, joined.protocol, task.value
        )
        return True


class KafkaPythonConsumer:
    """See `Consumer`. `jumps` counts, by partition, the times that unread messages were gone."""

    def __init__(self, servers: str, group: str, options: Mapping[str, str]) -> None:
        """Raises StoreUnavailableError where no broker answers."""
        self.jumps: Counter[TopicPartition] = Counter()
        self._servers, self._group, self._options = servers, group, options
        self._client, self._version = _connected(servers, group, options)
        self._fetcher = ColumnFetcher(
            self._client._client, self._client._subscription, self._jumped, **self._client.config
        )
        self._client._fetcher = self._fetcher
        self._client._coordinator.__class__ = _Coordinator
        self._listener = _Listener()
        self._producer: TransactionalProducer | None = None

    def subscribe(self, topics: Sequence[str]) -> None:
        # A leader that does not know a topic's partitions yet hands out none of them.
        for topic in topics:
            self.partitions(topic)
        self._client.subscribe(list(topics), listener=self._listener)

    def poll(self, timeout_seconds: float, max_records: int) -> list[Records]:
        with _answering(self._servers):
            polled = self._client.poll(int(timeout_seconds * 1000), max_records)
        return [records for found in polled.values() for records in found]

    def moved(self) -> Moved:
        listener = self._listener
        moved = Moved(frozenset(listener.assigned), frozenset(listener.revoked))
        listener.assigned, listener.revoked = set(), set()
        return moved

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(TopicPartition(*tp) for tp in self._client.assignment())

    def committed(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, Committed | None]:
        with _answering(self._servers):
            held = self._client._coordinator.fetch_committed_offsets(
                [KafkaPartition(*tp) for tp in partitions], timeout_ms=TIMEOUT_MS
            )
        return {
            tp: Committed(held[tp].offset, held[tp].metadata or "") if tp in held else None
            for tp in partitions
        }

    def position(self, partition: TopicPartition) -> int:
        with _answering(self._servers):
            at = self._client.position(KafkaPartition(*partition), timeout_ms=TIMEOUT_MS)
        if at is None:
            raise StoreUnavailableError(f"Kafka does not tell where {partition} begins; try again")
        return int(at)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._client.seek(KafkaPartition(*partition), offset)

    def beginnings(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return self._offsets(self._client.beginning_offsets, partitions)

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return self._offsets(self._client.end_offsets, partitions)

    def _offsets(self, ask: Any, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        if not partitions:
            return {}
        with _answering(self._servers):
            found = ask([KafkaPartition(*tp) for tp in partitions], timeout_ms=TIMEOUT_MS)
        return {tp: int(found[tp]) for tp in partitions}

    def partitions(self, topic: str) -> list[TopicPartition]:
        cluster = self._client._cluster
        found = cluster.partitions_for_topic(topic)
        if not found:
            # The library's own refresh for a topic not subscribed to waits without end.
            with _answering(self._servers):
                before, cluster.need_all_topic_metadata = cluster.need_all_topic_metadata, True
                try:
                    refreshed = cluster.request_update()
                    self._client._net.run(self._client._manager.wait_for, refreshed, TIMEOUT_MS)
                finally:
                    cluster.need_all_topic_metadata = before
            found = cluster.partitions_for_topic(topic)
        return [TopicPartition(topic, partition) for partition in sorted(found or ())]

    def commit(
        self, positions: Mapping[TopicPartition, Committed], dead: Sequence[DeadLetter] = ()
    ) -> None:
        taken = set(positions) - self.assignment()
        if taken:
            raise FencedError(f"the group took {sorted(taken)} away from this worker")
        offsets = {
            KafkaPartition(*tp): OffsetAndMetadata(at.offset, at.metadata, -1)
            for tp, at in positions.items()
        }
        with _answering(self._servers):
            if not dead:
                self._client.commit(offsets, timeout_ms=TIMEOUT_MS)
                return
            if self._producer is None:
                self._producer = TransactionalProducer.connected(
                    self._servers, f"{self._group}-{uuid.uuid4()}",
                    {**self._version, **for_kafka_python(self._options, producer=True)},
                )  # fmt: skip
            group = self._client.group_metadata()
            if group.generation_id < 0:
                # The broker takes offsets of such a one: it passes for a client without a group.
                raise FencedError("the group moved on without this worker (its session is over)")
            try:
                self._producer.commit(dead, offsets, group)
            except Exception:
                # It cannot be used again; what it leaves open the broker ends after its time-out.
                self._producer.close(timeout=1)
                self._producer = None
                raise
            if self._version:
                # librdkafka's mock cluster forgets the offsets of transactions, and brokers before
                # 2.5 do not fence by the group: there, dead letters come at least once.
                self._client.commit(offsets, timeout_ms=TIMEOUT_MS)

    def close(self) -> None:
        if self._producer is not None:
            self._producer.close(timeout=1)
        self._client.close(autocommit=False, timeout_ms=TIMEOUT_MS)

    def _jumped(self, tp: TopicPartition, before: int, after: int) -> None:
        self.jumps[tp] += 1
        logger.warning(
            "%s-%d: messages from %d on are gone before they were read; going on at %d",
            tp.topic, tp.partition, before, after,
        )  # fmt: skip


def _remembered(opened: list[KafkaNetClient], config: dict[str, Any]) -> KafkaNetClient:
    """The library forgets its network thread when a consumer cannot be made; this does not."""
    opened.append(KafkaNetClient(**config))
    return opened[-1]


def _connected(
    servers: str, group: str, options: Mapping[str, str]
) -> tuple[KafkaConsumer, dict[str, Any]]:
    """A client, and what must be said of the broker's version."""
    failure: Exception | None = None
    for version in VERSIONS:
        opened: list[KafkaNetClient] = []
        try:
            client = KafkaConsumer(
                bootstrap_servers=servers.split(","),
                group_id=group,
                enable_auto_commit=False,
                partition_assignment_strategy=[CooperativeStickyAssignor],
                # A killed worker's partitions are free again after this long.
                session_timeout_ms=10_000,
                heartbeat_interval_ms=1_000,  # how soon it hears of a rebalance
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                metadata_max_age_ms=5_000,  # how soon a new topic is found
                reconnect_backoff_max_ms=2_000,  # how soon a broker that comes back is
                bootstrap_timeout_ms=TIMEOUT_MS // 2,
                request_timeout_ms=30_000,
                fetch_max_wait_ms=100,
                fetch_max_bytes=16 << 20,
                max_partition_fetch_bytes=4 << 20,
                metrics_enabled=False,
                kafka_client=lambda opened=opened, **config: _remembered(opened, config),
                **version,
                **for_kafka_python(options),
            )
            # The library forgets to hand this on; a topic made by asking has the wrong partitions.
            client._cluster.config["allow_auto_create_topics"] = False
            manager = client._manager
            client._net.run(manager.wait_for, manager.bootstrap_async(refresh=False), TIMEOUT_MS)
        except (KafkaError, AssertionError, ValueError) as error:
            failure = error
            for net in opened:  # else its thread would look for the broker for ever
                net.close()
            if not any(map(_listens, servers.split(","))):
                break  # it is not for want of another dialect
        else:
            return client, version
    raise StoreUnavailableError(
        f"no Kafka broker answers at {servers} ({type(failure).__name__}); "
        "check KAFKA_BOOTSTRAP_SERVERS and HEADWATER_KAFKA_CONFIG"
    )


def _listens(server: str) -> bool:
    """Whether anything takes connections at HOST:PORT; without a port that is not known."""
    host, _, port = server.rpartition(":")
    if not port.isdigit():
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), 1.0).close()
    except OSError:
        return False
    return True


@contextmanager
def _answering(servers: str) -> Iterator[None]:
    """Turns the client's errors into ours."""
    try:
        yield
    except _FENCED as error:
        raise FencedError(f"the group moved on without this worker ({error})") from error
    except KafkaError as error:
        raise StoreUnavailableError(
            f"Kafka at {servers} does not answer as it should ({type(error).__name__}: {error})"
        ) from error
