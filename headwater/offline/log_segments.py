"""Segments of the feature log: vectors as they were answered, on disk at once and at little cost.

A service appends what requests left to a segment, locked as long as it is written;
`headwater.offline.log_writer` makes a Parquet file of each and removes it. A segment is frames,
each its length, its kind and its bytes: first the head, then looks at the progress of the state and
records of requests, as they came. What a killed service left unfinished at the end is left out.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import re
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from headwater.offline.feature_log import TIME_FORMAT, LogPlan, Whole, new_name

#: In the folder of a feature log; readers of Parquet pass over names with a dot.
FOLDER = ".segments"
_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}-[0-9a-f]+\.segment")
_FRAME = struct.Struct("<IB")
_HEAD, _LOOK, _RECORDS = range(3)
#: msgpack's array of so many, and its bytes.
_ARRAY = _BYTES = struct.Struct(">BI")
#: What the kernel takes at once.
_MOST_PARTS = os.sysconf("SC_IOV_MAX")


class Head(msgspec.Struct, frozen=True):
    """What a segment's vectors are, and the log that they go to.

    read_us: the longest time between a read of the state and the answer.
    """

    plan: LogPlan
    path: str
    endpoint: str
    read_us: int


class Look(msgspec.Struct, frozen=True):
    """What Redis said about the plan's views at a time (wall clock, microseconds).

    epoch: None where it did not answer.
    """

    at_us: int
    epoch: bytes | None
    whole: Whole


class ReadRecord(msgspec.Struct, frozen=True, array_like=True):
    """The columns of one read: `online.columns.ViewColumns` by its bytes.

    blocks: positions, numpy's type, numbers. origins: `online.provenance.Origins`.
    """

    blocks: list[tuple[tuple[int, ...], str, bytes]]
    lists: dict[int, list[Any]]
    status: bytes | None
    event_us: bytes
    origins: tuple[bytes, int | bytes]


#: A key column: its values, or numbers of 64 bits by their bytes.
Keys = list[Any] | bytes


class Block(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Vectors of several requests by columns, of numbers and truths alone; arrays by their bytes.

    now_us [n] int64; request [n] int32: which of the block's requests. words [features, n] and
    status [features, n] uint8 (empty where all are PRESENT), event_us [reads, n]:
    `online.columns.Words`. origins: of each read what its values were made of, as
    `headwater.log_kernels` puts it, read by read; counts [reads, n] int32 says how much each has.
    """

    n: int
    entities: dict[str, Keys]
    now_us: memoryview
    request: memoryview
    words: memoryview
    status: memoryview
    event_us: memoryview
    counts: memoryview
    origins: memoryview


class Rows(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Vectors of several requests that were answered from packed rows of fixed size without a null.

    now_us, request: as in `Block`. sizes: bytes of a row of each read; rows: n of the first read,
    n of the next one, and so on.
    """

    n: int
    entities: dict[str, Keys]
    sizes: list[int]
    now_us: memoryview
    request: memoryview
    rows: memoryview


class Many(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Any other request.

    reads: of each read of the plan. computed: the features of each on-demand view. replaced: by
    read, of which entities a budget replaced the values.
    """

    now_us: int
    n: int
    entities: dict[str, list[Any]]
    reads: list[ReadRecord]
    computed: list[dict[str, list[Any]]]
    replaced: dict[int, bytes]


Record = Block | Rows | Many


def _plain(value: Any) -> Any:
    """numpy's and pandas' values, which on-demand views may give, as Python's."""
    for name in ("tolist", "isoformat"):
        if hasattr(value, name):
            return getattr(value, name)()
    raise NotImplementedError(f"{type(value).__name__} cannot be logged")


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode
_records = msgspec.msgpack.Decoder(list[Record])
_looks = msgspec.msgpack.Decoder(Look)
_head = msgspec.json.Decoder(Head)


def packed(record: Many) -> bytes:
    """A record for `Segment.append`. Raises TypeError, ValueError or OverflowError where it holds
    what cannot be written."""
    return _encode(record)


def packed_arrays(tag: int, fields: Sequence[Any], arrays: Sequence[Sequence[Any]]) -> list[Any]:
    """A `Block` (1) or `Rows` (3) for `Segment.append`: its first fields, then its arrays where
    they lie, each in parts, contiguous buffers of bytes. Raises as `packed`."""
    head = bytes((0x90 | (1 + len(fields) + len(arrays)),))
    whole: list[Any] = [head + b"".join(map(_encode, (tag, *fields)))]
    for parts in arrays:
        whole += [_BYTES.pack(0xC6, sum(map(len, parts))), *parts]
    return whole


class Segment:
    """A segment that is written. Raises OSError where the disk does not take it."""

    def __init__(self, folder: Path, first_us: int, head: Head) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{new_name(first_us)}.segment"
        # It has its name only when it is locked, so that nobody takes it for left over.
        new = self.path.with_suffix(".new")
        self._file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        self.bytes = 0
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._add(_HEAD, msgspec.json.encode(head))
            new.replace(self.path)
        except OSError:
            os.close(self._file)
            new.unlink(missing_ok=True)
            raise

    def append(self, records: Sequence[Sequence[Any]]) -> None:
        """records: each the buffers that together are its bytes."""
        parts = [part for record in records for part in record]
        self._add(_RECORDS, _ARRAY.pack(0xDD, len(records)), *parts)

    def look(self, look: Look) -> None:
        self._add(_LOOK, _encode(look))

    def _add(self, kind: int, *body: Any) -> None:
        size = sum(map(len, body))
        parts = [_FRAME.pack(size, kind), *body]
        try:
            for at in range(0, len(parts), _MOST_PARTS):
                self._write(parts[at : at + _MOST_PARTS])
        except OSError:
            os.ftruncate(self._file, self.bytes)  # what is behind half a frame could not be read
            raise
        self.bytes += _FRAME.size + size

    def _write(self, parts: Sequence[Any]) -> None:
        rest = sum(map(len, parts)) - os.writev(self._file, parts)
        if rest:  # the disk is all but full, or a signal came
            left = memoryview(b"".join(parts))[-rest:]
            while left:
                left = left[os.write(self._file, left) :]

    def close(self) -> None:
        os.close(self._file)


class Stored:
    """What a segment holds."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        """Raises ValueError where it is none."""
        self._looks: list[Look] = []
        self._chunks: list[list[Record]] = []
        head: Head | None = None
        for kind, body in _frames(data):
            if kind == _HEAD:
                head = _head.decode(body)
            elif kind == _LOOK:
                self._looks.append(_looks.decode(body))
            else:
                self._chunks.append(_records.decode(body))
        if head is None:
            raise ValueError("the segment has no head")
        self.head = head

    def records(self) -> Iterator[tuple[list[Record], Whole | None]]:
        """Records that came together, and how far the state was whole when they were read."""
        for chunk in self._chunks:
            firsts, lasts = zip(*map(_span, chunk), strict=True)
            yield chunk, between(self._looks, min(firsts), max(lasts), self.head.read_us)


def _span(record: Record) -> tuple[int, int]:
    """When the first and the last of a record's vectors were answered."""
    if isinstance(record, Many):
        return record.now_us, record.now_us
    times = np.frombuffer(record.now_us, np.int64)
    return int(times.min()), int(times.max())


def between(looks: Sequence[Look], first_us: int, last_us: int, read_us: int) -> Whole | None:
    """What was whole all the while that requests were answered from `first_us` to `last_us`.

    Progress moves after the state is written: what it said before a request read the state was in
    that state. A loss in between would make that untrue, so a look afterwards must say no less, and
    be of the same epoch. None where that is not known.
    """
    before = next((x for x in reversed(looks) if x.at_us < first_us - read_us), None)
    after = next((x for x in looks if x.at_us >= last_us), None)
    if before is None or after is None:
        return None
    within = [x for x in looks if before.at_us <= x.at_us <= after.at_us]
    if before.epoch is None or any(x.epoch != before.epoch for x in within):
        return None
    kept: Whole = {}
    for view, places in before.whole.items():
        later = {(t, p): at for t, p, at in after.whole.get(view, ())}
        kept[view] = [(t, p, at) for t, p, at in places if later.get((t, p), at - 1) >= at]
    return kept


def _frames(data: bytes | mmap.mmap) -> Iterator[tuple[int, memoryview]]:
    at, whole = 0, memoryview(data)
    while at + _FRAME.size <= len(whole):
        size, kind = _FRAME.unpack_from(whole, at)
        at += _FRAME.size
        if not size or at + size > len(whole):
            return
        yield kind, whole[at : at + size]
        at += size


def folder_of(path: str) -> Path:
    """Where the segments of a feature log lie: in its folder; of an object store's, on this
    machine, in the folder for temporary files."""
    if "://" not in path:
        return Path(path) / FOLDER
    name = hashlib.sha256(path.encode()).hexdigest()[:24]
    return Path(tempfile.gettempdir()) / f"headwater-{os.getuid()}" / name


def names(folder: Path) -> list[Path]:
    """The segments in a folder, oldest first; also those that are being written."""
    try:
        return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def first_us(path: Path) -> int:
    """A time before which none of a segment's vectors was served."""
    time = datetime.strptime(path.name.partition("-")[0], TIME_FORMAT)
    return int(time.replace(tzinfo=UTC).timestamp() * 1e6) - 1


@contextmanager
def taken(path: Path) -> Iterator[bytes | mmap.mmap | None]:
    """A segment's bytes, while nobody else has it; None where it is gone or somebody has it."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        # Whoever had it before may have removed it.
        held = os.fstat(file)
        if not held.st_nlink:
            yield None
        elif not held.st_size:
            yield b""
        else:
            # Records are read where they lie: whoever has the last of them gives the pages back.
            yield mmap.mmap(file, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(file)


def wholes_of(places: Mapping[Any, int], prefixes: Mapping[str, bytes]) -> Whole:
    """What a look says of some views, by the prefixes of their keys."""
    return {
        view: [(p.topic, p.partition, at) for p, at in places.items() if p.prefix == own]
        for view, own in prefixes.items()
    }
