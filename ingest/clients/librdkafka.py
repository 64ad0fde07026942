"""librdkafka's messages as columns, by its C functions in the library that confluent-kafka carries.

confluent-kafka makes an object of each message, which costs more than to decode it. librdkafka
gives an array of pointers; compiled loops read what they point to. All else (groups, offsets,
commits) goes through confluent-kafka.
"""

from __future__ import annotations

import ctypes
import os
import select
from collections.abc import Iterator
from typing import Any, NamedTuple
from weakref import WeakSet

import numpy as np
from confluent_kafka import Consumer, cimpl
from numpy.typing import NDArray

from headwater.errors import HeadwaterError
from ingest.clients import message_kernels as mk
from ingest.records import Header, Int64, Original, TopicPartition

_POINTER, _TEXT = ctypes.c_void_p, ctypes.c_char_p
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "queue_get_partition": (_POINTER, [_POINTER, _TEXT, ctypes.c_int32]),
    "queue_forward": (None, [_POINTER, _POINTER]),
    "queue_io_event_enable": (None, [_POINTER, ctypes.c_int, _TEXT, ctypes.c_size_t]),
    "queue_destroy": (None, [_POINTER]),
    "consume_batch_queue": (
        ctypes.c_ssize_t,
        [_POINTER, ctypes.c_int, _POINTER, ctypes.c_size_t],
    ),
    "message_timestamp": (ctypes.c_int64, [_POINTER, _POINTER]),
    "message_destroy": (None, [_POINTER]),
    "message_errstr": (_TEXT, [_POINTER]),
    "message_headers": (ctypes.c_int, [_POINTER, ctypes.POINTER(_POINTER)]),
    "header_get_all": (
        ctypes.c_int,
        [
            _POINTER, ctypes.c_size_t, ctypes.POINTER(_TEXT), ctypes.POINTER(_POINTER),
            ctypes.POINTER(ctypes.c_size_t),
        ],
    ),
}  # fmt: skip


def _library() -> Any:
    """Raises HeadwaterError where the client's build hides librdkafka."""
    # A lookup in an extension finds what the libraries have that it was linked with.
    library = ctypes.CDLL(cimpl.__file__)
    try:
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, f"rd_kafka_{name}")
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise HeadwaterError(
            f"this build of confluent-kafka hides its librdkafka ({error}); install its wheel from "
            "PyPI, or set HEADWATER_KAFKA_CLIENT=kafka-python"
        ) from error
    return library


class Fetched(NamedTuple):
    """A partition's messages, with what the client says between them.

    columns: int64 [5, n], as `message_kernels.read` gives them. data, value_at: as `Records` has
    them, of the messages without an error.
    """

    tp: TopicPartition
    columns: Int64
    data: bytes
    value_at: Int64
    messages: Messages


class Messages:
    """Messages that librdkafka has lent; it has them back when nobody refers to this any more."""

    def __init__(self, library: Any, addresses: NDArray[np.int64]) -> None:
        self._library, self._addresses = library, addresses

    def error(self, i: int) -> str:
        return str(self._library.rd_kafka_message_errstr(self._address(i)).decode())

    def original(self, i: int) -> Original:
        message = mk.Message.from_address(self._address(i))
        return Original(
            _bytes(message.key, message.key_size),
            _bytes(message.value, message.value_size),
            list(self._headers(i)),
        )

    def _headers(self, i: int) -> Iterator[Header]:
        headers, name = _POINTER(), _TEXT()
        value, size = _POINTER(), ctypes.c_size_t()
        if self._library.rd_kafka_message_headers(self._address(i), ctypes.byref(headers)):
            return
        into = (ctypes.byref(name), ctypes.byref(value), ctypes.byref(size))
        at = 0
        while not self._library.rd_kafka_header_get_all(headers, at, *into):
            yield (name.value or b"").decode("utf-8", "replace"), _bytes(value.value, size.value)
            at += 1

    def _address(self, i: int) -> int:
        if i >= len(self._addresses):
            raise RuntimeError("the consumer of these messages is closed")
        return int(self._addresses[i])

    def give_back(self) -> None:
        addresses, self._addresses = self._addresses, np.empty(0, np.int64)
        if len(addresses):
            mk.destroy(addresses, _place(self._library.rd_kafka_message_destroy))

    __del__ = give_back


class Queues:
    """The queues into which librdkafka fetches, one for each partition that is read.

    `client.poll` still has to be called for what is not of a partition: rebalances, errors.
    """

    def __init__(self, client: Consumer) -> None:
        """Raises HeadwaterError, see `_library`."""
        self._library = _library()
        # The handle is the first thing in the object, behind what every Python object has.
        self._handle = _POINTER.from_address(id(client) + object.__basicsize__).value
        self._queues: dict[TopicPartition, int] = {}
        self._lent: WeakSet[Messages] = WeakSet()
        self._addresses = np.empty(0, np.int64)
        # librdkafka writes a byte when something comes into an empty queue.
        self._bell, self._ring = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._ring, False)
        self._waiting = select.poll()
        self._waiting.register(self._bell, select.POLLIN)
        # No message at all loads (the first time ever: compiles) what the first would wait for.
        nothing = np.empty(0, np.int64)
        self._fetched(TopicPartition("", 0), nothing)
        mk.destroy(nothing, _place(self._library.rd_kafka_message_destroy))

    def open(self, tp: TopicPartition) -> None:
        """To be called before the partition is assigned, each time."""
        self.shut(tp)
        queue = self._library.rd_kafka_queue_get_partition(
            self._handle, tp.topic.encode(), tp.partition
        )
        # Not into the client's common queue, which mixes the partitions and has rebalances as well.
        self._library.rd_kafka_queue_forward(queue, None)
        self._library.rd_kafka_queue_io_event_enable(queue, self._ring, b"!", 1)
        self._queues[tp] = queue

    def shut(self, tp: TopicPartition) -> None:
        queue = self._queues.pop(tp, None)
        if queue is not None:
            self._library.rd_kafka_queue_io_event_enable(queue, -1, None, 0)
            self._library.rd_kafka_queue_destroy(queue)

    def wait(self, seconds: float) -> None:
        """Until something has come since the last `wait`, or the time is over."""
        if self._waiting.poll(seconds * 1000):
            os.read(self._bell, 1 << 16)

    def take(self, most: int) -> Iterator[Fetched]:
        """What has come, at most so many messages of all partitions together; does not wait."""
        for tp, queue in list(self._queues.items()):
            if len(self._addresses) < most:
                self._addresses = np.empty(most, np.int64)
            n = self._library.rd_kafka_consume_batch_queue(
                queue, 0, self._addresses.ctypes.data, most
            )
            if n <= 0:
                continue
            most -= n
            # The next call begins with the other partitions.
            self._queues[tp] = self._queues.pop(tp)
            yield self._fetched(tp, self._addresses[:n].copy())
            if not most:
                break

    def _fetched(self, tp: TopicPartition, addresses: NDArray[np.int64]) -> Fetched:
        messages = Messages(self._library, addresses)
        self._lent.add(messages)
        columns = mk.read(addresses, _place(self._library.rd_kafka_message_timestamp))
        plain = columns[mk.ERROR] == 0
        at, size = columns[mk.AT], columns[mk.SIZE]
        if not plain.all():
            at, size = at[plain], size[plain]
        text, places = mk.packed(at, size)
        return Fetched(tp, columns, text.tobytes(), places, messages)

    def close(self) -> None:
        """Before the client is closed, which waits for what it has lent."""
        for tp in list(self._queues):
            self.shut(tp)
        for messages in self._lent:
            messages.give_back()
        os.close(self._bell)
        os.close(self._ring)


def _bytes(address: int | None, size: int) -> bytes | None:
    return None if address is None else ctypes.string_at(address, size)


def _place(function: Any) -> int:
    """Where a C function lies in memory."""
    return ctypes.cast(function, _POINTER).value or 0
