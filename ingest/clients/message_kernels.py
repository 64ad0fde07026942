"""Compiled loops over librdkafka's messages, which lie somewhere in memory."""

# Numba compiles a subset of Python: explicit loops and int indices are the idiom here.
from __future__ import annotations

import ctypes

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from ingest.clients.record_batch import pack

#: Rows of `read`: librdkafka's error code, or 0; where the value lies in memory; its size, or -1.
ERROR, OFFSET, TIMESTAMP, AT, SIZE = range(5)


class Message(ctypes.Structure):
    """rd_kafka_message_t, part of the public interface."""

    _fields_ = [
        ("error", ctypes.c_int),
        ("topic", ctypes.c_void_p),
        ("partition", ctypes.c_int32),
        ("value", ctypes.c_void_p),
        ("value_size", ctypes.c_size_t),
        ("key", ctypes.c_void_p),
        ("key_size", ctypes.c_size_t),
        ("offset", ctypes.c_int64),
        ("private", ctypes.c_void_p),
    ]


_MESSAGE = np.dtype(Message)


@intrinsic
def _pointer(_, address):
    """An address as a pointer."""

    def build(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), build


@intrinsic
def _timestamp(_, function, message):
    """Calls int64_t function(const rd_kafka_message_t *, rd_kafka_timestamp_type_t *)."""

    def build(context, builder, signature, arguments):
        word = ir.IntType(64)
        kind = ir.FunctionType(word, [word, word]).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], kind), [arguments[1], word(0)])

    return types.int64(types.int64, types.int64), build


@intrinsic
def _give_back(_, function, message):
    """Calls void function(rd_kafka_message_t *)."""

    def build(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)]).as_pointer()
        builder.call(builder.inttoptr(arguments[0], kind), [arguments[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), build


@njit(cache=True, nogil=True)
def read(addresses, timestamp):
    """The messages at these addresses as columns (int64, 5 x messages).

    `timestamp` is the address of rd_kafka_message_timestamp.
    """
    columns = np.empty((5, addresses.size), np.int64)
    for i in range(addresses.size):
        message = carray(_pointer(addresses[i]), 1, _MESSAGE)[0]
        columns[ERROR, i] = message["error"]
        columns[OFFSET, i] = message["offset"]
        columns[TIMESTAMP, i] = _timestamp(timestamp, addresses[i])
        columns[AT, i] = message["value"]
        columns[SIZE, i] = message["value_size"] if message["value"] else -1
    return columns


@njit(cache=True, nogil=True)
def destroy(addresses, function):
    """Give messages back to librdkafka; `function` is the address of rd_kafka_message_destroy."""
    for i in range(addresses.size):
        _give_back(function, addresses[i])


@njit(cache=True, nogil=True)
def packed(value_at, value_size):
    """See `record_batch.pack`; here the values lie at addresses."""
    low, high = np.iinfo(np.int64).max, np.int64(0)
    for i in range(value_at.size):
        if value_size[i] >= 0:
            low = min(low, value_at[i])
            high = max(high, value_at[i] + value_size[i])
    low = min(low, high)
    return pack(carray(_pointer(low), high - low, np.uint8), value_at - low, value_size)
