"""What the worker asks of a Kafka client, of both clients, on a real broker."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Consumer as NativeConsumer
from confluent_kafka import Producer
from confluent_kafka import TopicPartition as NativePartition
from confluent_kafka.admin import AdminClient, NewTopic
from kafka.admin import KafkaAdminClient, MemberToRemove

from headwater.errors import (
    FencedError,
    HeadwaterError,
    MessageTooLargeError,
    StoreUnavailableError,
)
from headwater.local import LocalKafka
from ingest.clients import open_consumer
from ingest.letters import bury, letter_of
from ingest.records import Committed, Consumer, DeadLetter, Original, Records, TopicPartition

DEADLINE_SECONDS = 30.0
Message = tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]


class Group:
    """A topic of one's own, a group that reads it, and what a test does to both."""

    def __init__(self, kind: str, servers: str) -> None:
        self.kind, self.servers = kind, servers
        self.topic, self.name = f"t-{uuid.uuid4()}", f"g-{uuid.uuid4()}"
        self.admin = AdminClient({"bootstrap.servers": servers})
        self._members: list[Consumer] = []

    def partition(self, number: int = 0) -> TopicPartition:
        return TopicPartition(self.topic, number)

    def make(self, partitions: int = 1, **config: str) -> None:
        settings = {name.replace("_", "."): value for name, value in config.items()}
        new = NewTopic(self.topic, partitions, config=settings)
        for made in self.admin.create_topics([new]).values():
            made.result()

    def member(self, *topics: str) -> Consumer:
        consumer = open_consumer(self.kind, self.servers, self.name)
        consumer.subscribe(topics or [self.topic])
        self._members.append(consumer)
        return consumer

    def producer(self, **config: Any) -> Producer:
        settings = {name.replace("_", "."): value for name, value in config.items()}
        return Producer({"bootstrap.servers": self.servers, "linger.ms": 5, **settings})

    def send(self, *values: bytes | None, partition: int = 0, **config: Any) -> None:
        producer = self.producer(**config)
        for value in values:
            producer.produce(self.topic, value, partition=partition)
        assert producer.flush(DEADLINE_SECONDS) == 0

    def transaction(self, name: str = "") -> Producer:
        producer = self.producer(transactional_id=f"{self.topic}{name}")
        producer.init_transactions(DEADLINE_SECONDS)
        producer.begin_transaction()
        return producer

    def expel(self) -> None:
        """Do to the group's members what the broker does when their session is over."""
        admin = KafkaAdminClient(bootstrap_servers=self.servers)
        members = admin.describe_groups([self.name])[self.name]["members"]
        assert members
        admin.remove_group_members(self.name, [MemberToRemove(m["member_id"]) for m in members])
        admin.close()

    def close(self) -> None:
        for member in self._members:
            member.close()


@pytest.fixture(params=["kafka-python", "confluent-kafka"])
def group(request: pytest.FixtureRequest, kafka: LocalKafka) -> Iterator[Group]:
    made = Group(request.param, kafka.bootstrap)
    yield made
    made.close()


def until(
    done: Callable[[list[Records]], bool], *members: Consumer, max_records: int = 10_000
) -> list[Records]:
    """Poll the members in turn until what came satisfies `done`."""
    found: list[Records] = []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not done(found):
        assert time.monotonic() < deadline, f"waited in vain: {len(found)} batches came"
        for member in members:
            found += member.poll(0.2, max_records)
    return found


def taken(consumer: Consumer, count: int, max_records: int = 10_000) -> list[Records]:
    return until(lambda f: sum(map(len, f)) >= count, consumer, max_records=max_records)


def assigned(*members: Consumer, partitions: int = 1) -> list[Records]:
    """Poll until the partitions are spread over the members."""
    return until(
        lambda _: (
            sum(len(m.assignment()) for m in members) == partitions
            and all(m.assignment() for m in members)
        ),
        *members,
    )


def messages(found: list[Records]) -> list[Message]:
    return [
        (int(r.offset[i]), o.key, o.value, list(o.headers))
        for r in found
        for i in range(len(r))
        for o in [r.original(i)]
    ]


def values(found: list[Records]) -> list[bytes | None]:
    return [r.value(i) for r in found for i in range(len(r))]


# -- messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_compression_is_read(group: Group, compression: str) -> None:
    group.make()
    sent = [b'{"n": %d, "text": "again and again and again"}' % i for i in range(3000)]
    group.send(*sent, compression_type=compression, batch_size=20_000)
    found = taken(group.member(), len(sent))
    assert values(found) == sent
    assert b"".join(r.data[1:-1] + b"," for r in found) == b"".join(v + b"," for v in sent)


def test_keys_headers_and_tombstones_come_whole(group: Group) -> None:
    group.make()
    producer = group.producer()
    sent: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]] = [
        (b"k", b"v", [("a", b"1"), ("a", b"2"), ("", None), ("ü", b"")]),
        (b"gone", None, []),
        (None, b"", []),
        (None, None, [("only", b"headers")]),
    ]
    for key, value, headers in sent:
        producer.produce(group.topic, value, key, headers=headers, timestamp=1_700_000_000_123)
    producer.flush()
    found = taken(group.member(), len(sent))
    assert [tuple(m[1:]) for m in messages(found)] == sent
    assert [s for r in found for s in r.value_size.tolist()] == [1, -1, 0, -1]
    assert {t for r in found for t in r.timestamp_ms.tolist()} == {1_700_000_000_123}
    assert b"".join(r.data[1:-1] + b"," for r in found) == b"v,null,,null,"
    with_headers = {int(r.offset[i]) for r in found for i in r.with_headers()}
    assert {0, 3} <= with_headers


def test_the_brokers_time_is_given_where_the_topic_says_so(group: Group) -> None:
    group.make(message_timestamp_type="LogAppendTime")
    before = int(time.time() * 1000)
    producer = group.producer()
    producer.produce(group.topic, b"v", timestamp=1)
    producer.flush()
    (record,) = taken(group.member(), 1)
    assert before - 1000 <= record.timestamp_ms[0] <= time.time() * 1000 + 1000


def test_partitions_come_each_in_order_and_batches_are_split(group: Group) -> None:
    group.make(partitions=3)
    for partition in range(3):
        group.send(*[b"%d" % i for i in range(500)], partition=partition)
    consumer = group.member()
    found = taken(consumer, 1500, max_records=70)
    assert max(map(len, found)) <= 70
    for partition in range(3):
        mine = [r for r in found if r.tp == group.partition(partition)]
        assert values(mine) == [b"%d" % i for i in range(500)]
        assert all(r.end_offset == 500 for r in mine)
        assert [r.next_offset for r in mine] == [int(r.offset[-1]) + 1 for r in mine]
        assert consumer.position(group.partition(partition)) == 500


def test_several_topics_are_told_apart(group: Group) -> None:
    other = Group(group.kind, group.servers)
    group.make()
    other.make()
    group.send(*[b"here"] * 50)
    other.send(*[b"there"] * 50)
    found = taken(group.member(group.topic, other.topic), 100)
    assert set(values([r for r in found if r.tp.topic == group.topic])) == {b"here"}
    assert set(values([r for r in found if r.tp.topic == other.topic])) == {b"there"}


def test_a_message_that_comes_late_is_given_at_once(group: Group) -> None:
    group.make()
    consumer = group.member()
    assigned(consumer)
    producer = group.producer(linger_ms=0)
    started = time.monotonic()
    for i in range(20):
        producer.produce(group.topic, b"%d" % i)
        producer.flush()
        taken(consumer, 1)
    assert time.monotonic() - started < 20  # no poll waits for its time-out, let alone for more


# -- transactions --------------------------------------------------------------------------------


def test_only_committed_transactions_are_given(group: Group) -> None:
    group.make()
    kept, dropped = group.transaction("kept"), group.transaction("dropped")
    for i in range(60):
        for producer, value in ((kept, b"kept %d"), (dropped, b"dropped %d")):
            producer.produce(group.topic, value % i)
            producer.flush()
    kept.commit_transaction()
    dropped.abort_transaction()
    group.send(b"plain")
    found = taken(group.member(), 61)
    assert values(found) == [*(b"kept %d" % i for i in range(60)), b"plain"]


def test_the_end_is_reached_past_markers_and_aborted_messages(group: Group) -> None:
    group.make()
    group.send(b"first")
    for end in ("commit_transaction", "abort_transaction"):
        producer = group.transaction(end)
        for _ in range(5):
            producer.produce(group.topic, end.encode())
        producer.flush()  # an abort drops what is not sent
        getattr(producer, end)()
    consumer, tp, end_offset = group.member(), group.partition(), 1 + 6 + 6
    # The markers are written after the producer has its answer.
    found = until(lambda f: bool(f) and f[-1].next_offset == end_offset, consumer)
    assert values(found) == [b"first", *[b"commit_transaction"] * 5]
    assert consumer.ends([tp])[tp] == consumer.position(tp) == end_offset == found[-1].end_offset


def test_an_open_transaction_holds_the_end_back(group: Group) -> None:
    group.make()
    group.send(b"before")
    producer = group.transaction()
    producer.produce(group.topic, b"open")
    producer.flush()
    consumer, tp = group.member(), group.partition()
    (record,) = taken(consumer, 1)
    assert consumer.ends([tp])[tp] == 1 <= record.end_offset
    producer.commit_transaction()
    assert values(taken(consumer, 1)) == [b"open"]


# -- positions -----------------------------------------------------------------------------------


def test_a_seek_back_gives_the_messages_again(group: Group) -> None:
    group.make()
    group.send(*[b"%d" % i for i in range(100)])
    consumer, tp = group.member(), group.partition()
    taken(consumer, 100, max_records=30)
    for offset in (40, 0, 99):
        consumer.seek(tp, offset)
        assert consumer.position(tp) == offset
        assert values(taken(consumer, 100 - offset, 30)) == [b"%d" % i for i in range(offset, 100)]


def test_a_seek_before_the_first_poll_of_a_partition_holds(group: Group) -> None:
    group.make()
    group.send(*[b"%d" % i for i in range(10)])
    consumer = group.member()
    until(lambda _: bool(consumer.assignment()), consumer, max_records=1)
    consumer.seek(group.partition(), 7)
    assert values(taken(consumer, 3)) == [b"7", b"8", b"9"]


def test_a_commit_is_read_back_with_its_metadata_and_gone_on_from(group: Group) -> None:
    group.make(partitions=2)
    group.send(*[b"%d" % i for i in range(10)])
    consumer, tp, other = group.member(), group.partition(), group.partition(1)
    taken(consumer, 10)
    assert consumer.committed([tp, other]) == {tp: None, other: None}
    consumer.commit({tp: Committed(4, '{"watermark": 7}')})
    assert consumer.committed([tp, other]) == {tp: Committed(4, '{"watermark": 7}'), other: None}
    consumer.close()
    heir = group.member()
    assert values(taken(heir, 6)) == [b"%d" % i for i in range(4, 10)]


def test_a_partition_whose_offset_is_undecided_is_begun_when_it_is_known(group: Group) -> None:
    """A worker that was killed in a transaction leaves it so, for longer than anybody waits."""
    group.make(partitions=2)
    for partition in (0, 1):
        group.send(*[b"%d" % i for i in range(5)], partition=partition)
    undecided = group.transaction()
    outsider = NativeConsumer({"bootstrap.servers": group.servers, "group.id": group.name})
    undecided.send_offsets_to_transaction(
        [NativePartition(group.topic, 0, 2)], outsider.consumer_group_metadata(), DEADLINE_SECONDS
    )
    consumer = group.member()
    refused = time.monotonic() + 13
    while time.monotonic() < refused:
        with suppress(StoreUnavailableError):
            assert all(records.tp != group.partition() for records in consumer.poll(0.1, 10))
    undecided.commit_transaction()
    both = {group.partition(0), group.partition(1)}

    def begun(_: list[Records]) -> bool:
        return consumer.assignment() == both and consumer.position(group.partition()) == 5

    found = until(begun, consumer)
    assert values([r for r in found if r.tp == group.partition()]) == [b"2", b"3", b"4"]
    assert consumer.moved().assigned == both
    assert consumer.jumps == {}
    outsider.close()


def test_ends_beginnings_and_partitions_are_told(group: Group) -> None:
    consumer = group.member()
    assert consumer.partitions(group.topic) == []
    group.make(partitions=2)
    group.send(*[b"v"] * 5, partition=1)
    both = [group.partition(0), group.partition(1)]
    assert consumer.partitions(group.topic) == both
    assert consumer.ends(both) == dict(zip(both, (0, 5), strict=True))
    _delete(group, 1, 3)
    assert consumer.beginnings(both) == dict(zip(both, (0, 3), strict=True))


def _delete(group: Group, partition: int, before: int) -> None:
    for done in group.admin.delete_records(
        [NativePartition(group.topic, partition, before)]
    ).values():
        done.result()


def test_messages_lost_before_they_were_read_are_said(
    group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    group.make()
    group.send(*[b"%d" % i for i in range(10)])
    consumer, tp = group.member(), group.partition()
    taken(consumer, 10)
    consumer.commit({tp: Committed(2, "")})
    consumer.close()
    _delete(group, 0, 6)
    heir = group.member()
    with caplog.at_level(logging.WARNING, "headwater.ingest"):
        assert values(taken(heir, 4)) == [b"6", b"7", b"8", b"9"]
    assert heir.jumps == {tp: 1}
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "headwater.ingest"]
    assert f"{group.topic}-0" in warning
    assert "from 2 on" in warning
    assert "at 6" in warning


# -- the group -----------------------------------------------------------------------------------


def test_a_second_member_takes_half_and_gives_it_back(group: Group) -> None:
    group.make(partitions=4)
    all_of = frozenset(group.partition(i) for i in range(4))
    first = group.member()
    assigned(first, partitions=4)
    assert first.moved() == (all_of, frozenset())
    assert first.moved() == (frozenset(), frozenset())
    second = group.member()
    assigned(first, second, partitions=4)
    given, gone = second.moved(), first.moved()
    assert given.assigned == gone.revoked == second.assignment()
    assert not given.revoked
    assert not gone.assigned
    assert first.assignment() | second.assignment() == all_of
    for i in range(4):
        group.send(b"to %d" % i, partition=i)
    found = until(lambda f: sum(map(len, f)) >= 4, first, second)
    assert sorted(values(found)) == [b"to %d" % i for i in range(4)]  # type: ignore[type-var]
    second.close()
    assigned(first, partitions=4)
    assert first.moved() == (given.assigned, frozenset())


def test_a_topic_that_is_made_later_is_found(group: Group) -> None:
    consumer = group.member()
    assert consumer.poll(0.5, 10) == []
    group.make(partitions=2)
    group.send(b"late", partition=1)
    assert values(taken(consumer, 1)) == [b"late"]


def test_an_expelled_member_cannot_commit_and_comes_back(group: Group) -> None:
    group.make()
    group.send(b"a", b"b")
    consumer, tp = group.member(), group.partition()
    taken(consumer, 2)
    group.expel()
    with pytest.raises(FencedError):
        consumer.commit({tp: Committed(2, "")})
    found = until(lambda f: sum(map(len, f)) >= 2, consumer)
    assert values(found) == [b"a", b"b"]
    moved = consumer.moved()
    assert tp in moved.assigned
    consumer.commit({tp: Committed(2, "")})


def test_no_one_commits_for_a_partition_that_went_elsewhere(group: Group) -> None:
    group.make(partitions=2)
    first = group.member()
    assigned(first, partitions=2)
    second = group.member()
    assigned(first, second, partitions=2)
    (lost,) = second.assignment()
    with pytest.raises(FencedError, match="took"):
        first.commit({lost: Committed(0, "")})


# -- dead letters --------------------------------------------------------------------------------


def _letters(topic: str) -> list[DeadLetter]:
    return [
        DeadLetter(topic, Original(b"k", b"\xff broken", [("a", b"1"), ("a", None)])),
        DeadLetter(topic, Original(None, None, [("why", b"tombstone")])),
    ]


def _dead(group: Group, topic: str, count: int) -> list[Message]:
    reader = Group(group.kind, group.servers)
    consumer = reader.member(topic)
    try:
        return messages(taken(consumer, count))
    finally:
        consumer.close()
        reader._members.clear()


def test_dead_letters_and_offsets_are_committed_together(group: Group) -> None:
    group.make()
    group.send(b"a", b"b")
    consumer, tp, topic = group.member(), group.partition(), f"{group.topic}.dead-letter"
    taken(consumer, 2)
    for offset, metadata in ((1, "one"), (2, "two")):
        consumer.commit({tp: Committed(offset, metadata)}, _letters(topic))
        assert consumer.committed([tp]) == {tp: Committed(offset, metadata)}
    found = _dead(group, topic, 4)
    as_sent = [tuple(letter.original) for letter in _letters(topic)]
    assert sorted((m[1:] for m in found), key=repr) == sorted(as_sent * 2, key=repr)


def test_a_fenced_commit_leaves_no_dead_letters(group: Group) -> None:
    group.make()
    group.send(b"a", b"b")
    consumer, tp, topic = group.member(), group.partition(), f"{group.topic}.dead-letter"
    taken(consumer, 2)
    consumer.commit({tp: Committed(1, "")}, _letters(topic)[:1])
    group.expel()
    with pytest.raises(FencedError):
        consumer.commit({tp: Committed(2, "")}, [DeadLetter(topic, Original(b"zombie", b"", []))])

    assert consumer.committed([tp]) == {tp: Committed(1, "")}
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            consumer.commit(
                {tp: Committed(2, "")}, [DeadLetter(topic, Original(b"later", b"", []))]
            )
            break
        except FencedError:
            assert time.monotonic() < deadline, "it does not join again"
            consumer.poll(0.2, 10)
    assert sorted(str(m[1]) for m in _dead(group, topic, 2)) == ["b'k'", "b'later'"]


def test_one_that_knows_its_session_is_over_leaves_no_dead_letters(group: Group) -> None:
    """The broker would take them: so does a client commit that is in no group."""
    group.make()
    group.send(b"a", b"b")
    consumer, tp, topic = group.member(), group.partition(), f"{group.topic}.dead-letter"
    taken(consumer, 2)
    consumer.commit({tp: Committed(1, "")}, _letters(topic)[:1])
    client: Any = consumer._client  # type: ignore[attr-defined]
    group.expel()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (
        client.memberid()
        if group.kind == "confluent-kafka"
        else (client.group_metadata().generation_id >= 0)
    ):
        assert time.monotonic() < deadline, "no heartbeat told of it"
        time.sleep(0.05)
    for dead in ([], [DeadLetter(topic, Original(b"zombie", b"", []))]):
        with pytest.raises(FencedError, match="the group moved on"):
            consumer.commit({tp: Committed(2, "")}, dead)
    assert consumer.committed([tp]) == {tp: Committed(1, "")}


def test_many_dead_letters_at_once(group: Group) -> None:
    group.make()
    group.send(b"a")
    consumer, tp, topic = group.member(), group.partition(), f"{group.topic}.dead-letter"
    taken(consumer, 1)
    consumer.commit(
        {tp: Committed(1, "")},
        [DeadLetter(topic, Original(b"%d" % i, b"v" * 100, [])) for i in range(5000)],
    )
    assert len(_dead(group, topic, 5000)) == 5000


@pytest.mark.parametrize("most", [1_000_000, 50_000])
def test_letters_larger_than_their_topic_takes_are_cut(group: Group, most: int) -> None:
    """A message as large as its topic takes has no room for the headers that a letter needs."""
    large, own = np.random.default_rng(7).bytes(1_100_000), [("headwater-reason", b"invalid: x")]
    group.make()
    group.send(b"a")
    letters = Group(group.kind, group.servers)
    if most < 1_000_000:
        letters.make(max_message_bytes="60000")
    consumer, tp = group.member(), group.partition()
    taken(consumer, 1)
    originals = [
        Original(b"small", b"v", [("trace", b"7"), *own]),
        Original(b"compresses", bytes(900_000), own),
        Original(b"large", large, [("trace", b"7"), *own]),
        Original(large, None, own),
    ]
    dead = [DeadLetter(letters.topic, original) for original in originals]
    with pytest.raises(MessageTooLargeError, match=letters.topic):
        consumer.commit({tp: Committed(1, "")}, dead)
    sent = bury(consumer, {tp: Committed(1, "")}, dead)

    assert consumer.committed([tp]) == {tp: Committed(1, "")}
    found = {m[1] or b"": m for m in _dead(group, letters.topic, 4)}
    assert [tuple(one.original) for one in sent] == [found[o.original.key or b""][1:] for o in sent]
    assert found[b"small"][1:] == tuple(originals[0])
    assert (found[b"compresses"][2] == bytes(900_000)) == (most == 1_000_000)
    assert found[b"large"][2:] == (large[: most - 5], [*own, ("headwater-cut", b"1100000")])
    assert found[large[: most // 2]][2:] == (None, [*own, ("headwater-cut", b"0")])
    assert letter_of(sent[2].original, 0).bytes == 1_100_000


def test_a_broker_that_does_not_answer_is_named_and_nobody_looks_for_it_afterwards() -> None:
    before = set(threading.enumerate())
    with pytest.raises(HeadwaterError, match="no Kafka broker answers"):
        open_consumer("kafka-python", "127.0.0.1:1", "g")
    assert set(threading.enumerate()) <= before
