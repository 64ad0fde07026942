"""Kafka's four compressions, all decompressed by cramjam."""

from __future__ import annotations

from collections.abc import Callable

import cramjam

#: What snappy's Java library, and so Kafka's, puts before its blocks.
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16


def decompress(codec: int, data: memoryview) -> bytes:
    """The records of a batch. `codec`: 1 gzip, 2 snappy, 3 lz4, 4 zstd.

    Raises ValueError where there is no such codec or the data is broken.
    """
    if codec not in _DECOMPRESS:
        raise ValueError(f"there is no compression {codec}")
    try:
        return _DECOMPRESS[codec](data)
    except cramjam.DecompressionError as error:
        raise ValueError(f"broken compressed data: {error}") from error


def _snappy(data: memoryview) -> bytes:
    if data[: len(_XERIAL)] != _XERIAL:
        return bytes(cramjam.snappy.decompress_raw(data))
    blocks = []
    at = _XERIAL_HEADER_BYTES
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        blocks.append(bytes(cramjam.snappy.decompress_raw(data[at + 4 : at + 4 + size])))
        at += 4 + size
    return b"".join(blocks)


_DECOMPRESS: dict[int, Callable[[memoryview], bytes]] = {
    1: lambda data: bytes(cramjam.gzip.decompress(data)),
    2: _snappy,
    3: lambda data: bytes(cramjam.lz4.decompress(data)),
    4: lambda data: bytes(cramjam.zstd.decompress(data)),
}
