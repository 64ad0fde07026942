"""What a consumer hands the worker: a partition's messages as columns, and how it is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Header = tuple[str, bytes | None]


class TopicPartition(NamedTuple):
    topic: str
    partition: int


class Committed(NamedTuple):
    """A group's position in a partition: the next offset to read, and what was saved beside it."""

    offset: int
    metadata: str


class Original(NamedTuple):
    """A message as it was produced, for the dead-letter topic."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


class DeadLetter(NamedTuple):
    """A message to be sent to `topic`, to a partition of it or where its key says."""

    topic: str
    original: Original
    partition: int | None = None


@dataclass(frozen=True)
class Records:
    """Some messages of one partition, in offset order. Arrays have length n.

    data: the values as the text of a JSON array, `[value,value,...]`, whatever the values are: one
    JSON decoder call reads them all, and any other decoder slices them out. value_at, value_size:
    where each value lies in `data`; size -1 is a tombstone, which stands there as `null`.
    timestamp_ms: the record's own time. next_offset: where to go on, past control batches and what
    an aborted transaction left; there may be no messages at all, and only this moves.
    end_offset: the end of the partition that the broker told last: the last stable offset, or with
    confluent-kafka the high watermark.
    """

    tp: TopicPartition
    data: bytes
    value_at: Int64
    value_size: Int64
    offset: Int64
    timestamp_ms: Int64
    next_offset: int
    end_offset: int

    def __len__(self) -> int:
        return len(self.offset)

    def value(self, i: int) -> bytes | None:
        """The bytes of one value; None for a tombstone."""
        size = int(self.value_size[i])
        at = int(self.value_at[i])
        return None if size < 0 else self.data[at : at + size]

    def original(self, i: int) -> Original:
        """Message i whole; may be slow, since few are asked for."""
        raise NotImplementedError

    def with_headers(self) -> Iterable[int]:
        """Messages among which are all that have headers."""
        return range(len(self))


class PackedRecords(Records):
    """Records of values that are at hand one by one, such as a client's own record objects."""

    @classmethod
    def of(
        cls, tp: TopicPartition, values: Sequence[bytes | None], offset: Int64, timestamp_ms: Int64
    ) -> PackedRecords:
        """offset, timestamp_ms: [n], in offset order."""
        texts = [b"null" if value is None else value for value in values]
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        at = np.cumsum(sizes + 1) - sizes
        for i, value in enumerate(values):
            if value is None:
                sizes[i] = -1
        after = int(offset[-1]) + 1 if len(offset) else 0
        data = b"[" + b",".join(texts) + b"]"
        return cls(tp, data, at, sizes, offset, timestamp_ms, after, after)


class Moved(NamedTuple):
    """Partitions that a rebalance gave and took since the last call."""

    assigned: frozenset[TopicPartition]
    revoked: frozenset[TopicPartition]


class Consumer(Protocol):
    """A member of a consumer group that commits only when told to.

    jumps: by partition, the times that messages were gone from Kafka before they were read.

    A newly assigned partition starts at its committed offset, or at the earliest. Every call is
    bounded in time and raises StoreUnavailableError where the broker does not answer.
    """

    jumps: Counter[TopicPartition]

    def subscribe(self, topics: Sequence[str]) -> None: ...

    def poll(self, timeout_seconds: float, max_records: int) -> list[Records]:
        """Messages that have come, of any assigned partitions; may be empty.

        Returns as soon as there are any: it never waits for more of them.
        """
        ...

    def moved(self) -> Moved:
        """What rebalances did since this was last asked; nothing between two polls."""
        ...

    def assignment(self) -> frozenset[TopicPartition]: ...

    def committed(
        self, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, Committed | None]: ...

    def position(self, partition: TopicPartition) -> int:
        """The next offset that `poll` will give."""
        ...

    def seek(self, partition: TopicPartition, offset: int) -> None: ...

    def beginnings(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]: ...

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]: ...

    def partitions(self, topic: str) -> list[TopicPartition]:
        """All partitions of a topic; none where there is no such topic."""
        ...

    def commit(
        self, positions: Mapping[TopicPartition, Committed], dead: Sequence[DeadLetter] = ()
    ) -> None:
        """Commit, with the dead letters of these events: both or neither (one transaction).

        Raises FencedError when the group has given the partitions to somebody else.
        """
        ...

    def close(self) -> None: ...
