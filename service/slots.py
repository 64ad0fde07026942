"""Counts of all workers: one memory-mapped block of numbers a worker, summed up by who is asked.

A count is a number at a place of a block, so that counting costs an addition and survives the
worker, however it dies; the worker that takes its place goes on in its block. What a place counts
stands in a file of names beside the block, one JSON array a line.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

logger = logging.getLogger("headwater.service")
#: Numbers of a block; the file is sparse, so that what is not used takes no room.
CAPACITY = 8 << 20
#: What no longer fits is counted at the block's end, where nobody reads it.
_SPARE = 4096

#: Name of what is counted, its labels, how many numbers.
Key = tuple[str, tuple[str, ...], int]


class Slots:
    """The block of one worker; without a folder, of the only one."""

    def __init__(self, folder: Path | None = None, worker: int = 0) -> None:
        self._at: dict[Key, int] = {}
        self._used = 0
        self._folder = folder
        self._names: Any = None
        if folder is None:
            block = mmap.mmap(-1, CAPACITY * 8)
        else:
            for key in _read_names(folder / f"{worker}.names"):
                self._at[key] = self._used
                self._used += key[2]
            with (folder / f"{worker}.slots").open("ab") as file:
                file.truncate(CAPACITY * 8)
            with (folder / f"{worker}.slots").open("r+b") as file:
                block = mmap.mmap(file.fileno(), CAPACITY * 8)
            self._names = (folder / f"{worker}.names").open("ab", buffering=0)
        self.array: NDArray[np.int64] = np.frombuffer(block, np.int64)
        self.whole, self.real = memoryview(block).cast("q"), memoryview(block).cast("d")

    def place(self, name: str, labels: tuple[str, ...], size: int) -> int:
        """Where the numbers of something are; the same for the same name and labels."""
        key = (name, labels, size)
        at = self._at.get(key)
        if at is not None:
            return at
        if self._used + size > CAPACITY - _SPARE:
            logger.warning("there is no room to count %s of %s", name, labels[:2])
            return CAPACITY - _SPARE
        if self._names is not None:
            self._names.write(orjson.dumps(key) + b"\n")
        at = self._at[key] = self._used
        self._used += size
        return at

    def own(self, name: str) -> Iterator[tuple[tuple[str, ...], int]]:
        """The labels of everything of a name, and its places in this worker's block."""
        for (one, labels, _), at in list(self._at.items()):
            if one == name:
                yield labels, at

    def sums(self) -> Iterator[tuple[str, tuple[str, ...], NDArray[np.int64]]]:
        """What every worker has counted, dead ones too: once for each worker that counted it."""
        if self._folder is None:
            yield from _numbers(self._at, self.array)
            return
        for names in sorted(self._folder.glob("*.names")):
            # Names first: a place that is named is in the block.
            at, used = {}, 0
            for key in _read_names(names):
                at[key] = used
                used += key[2]
            with contextlib.suppress(OSError, ValueError):
                yield from _numbers(at, np.fromfile(names.with_suffix(".slots"), np.int64, used))


def _numbers(
    at: dict[Key, int], array: NDArray[np.int64]
) -> Iterator[tuple[str, tuple[str, ...], NDArray[np.int64]]]:
    for (name, labels, size), place in list(at.items()):
        yield name, labels, array[place : place + size]


def _read_names(file: Path) -> Iterator[Key]:
    if not file.exists():
        return
    # A line that a dying worker did not finish names nothing that was counted.
    for line in file.read_bytes().split(b"\n")[:-1]:
        name, labels, size = orjson.loads(line)
        yield name, tuple(labels), size
