"""Makes Parquet files of the feature log's segments: a process of its own, at low priority.

`python -m headwater.offline.log_writer` reads paths of segments, a line each, and answers each with
a line of JSON (`Done`), until a line is empty. Where its input ends without one, whoever started it
was killed: what that left behind is taken as well. A segment's file has the segment's own name, so
that doing it twice makes no vector twice.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
from mmap import mmap
from pathlib import Path

import msgspec
import pyarrow as pa

from headwater.errors import HeadwaterError
from headwater.offline import log_segments
from headwater.offline.feature_log import FeatureLog, Whole
from headwater.offline.log_columns import LogColumns
from headwater.offline.log_segments import Record, Stored, taken

#: The requests come first; on a machine without any time left it still gets about a tenth.
NICE = 10
#: A killed service is gone by then.
END_SECONDS = 30.0


class Done(msgspec.Struct):
    """What came of a segment: vectors in a file, vectors that are not, and why."""

    path: str
    written: int = 0
    failed: int = 0
    error: str = ""
    #: Another process has it, or has done it.
    elsewhere: bool = False


def convert(path: Path) -> Done:
    """Make a segment a file of its log, and remove it. Nothing is raised."""
    done = Done(str(path))
    try:
        with taken(path) as data:
            if data is None:
                done.elsewhere = True
                return done
            try:
                _convert(path, data, done)
            finally:
                path.unlink(missing_ok=True)
    except Exception as error:  # whatever one segment holds, the next one is made
        done.error = f"{type(error).__name__}: {error}"
    return done


def _convert(path: Path, data: bytes | mmap, done: Done) -> None:
    stored = Stored(data)
    name, head = path.stem, stored.head
    # The path may be relative to where the service ran; segments lie in their log's folder.
    place = head.path if "://" in head.path else str(path.parent.parent)
    records: list[Record] = []
    numbers: list[int | None] = []
    wholes: list[Whole] = []
    for chunk, whole in stored.records():
        if whole is not None and (not wholes or wholes[-1] != whole):
            wholes.append(whole)
        records += chunk
        numbers += [None if whole is None else len(wholes) - 1] * len(chunk)
    done.failed = sum(record.n for record in records)
    columns = LogColumns(head.plan)
    tables = columns.tables(records, numbers, name)
    done.error = columns.fault
    if not tables:
        return
    table = pa.concat_tables(tables)
    try:
        FeatureLog(place, head.endpoint).write(head.plan, table, wholes, name)
    except (OSError, pa.ArrowException, HeadwaterError) as error:
        done.error = str(error)
        return
    done.written = table.num_rows
    done.failed -= done.written


def left_over(folder: Path) -> list[Done]:
    """Convert what a service that is gone left in a folder of segments."""
    found = [convert(path) for path in log_segments.names(folder)]
    return [done for done in found if not done.elsewhere]


def main() -> None:
    os.nice(NICE)
    service = os.getppid()
    # It ends when its input does, with everything written.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # A segment's records are many and make no cycles; what was imported is looked through no more.
    gc.freeze()
    gc.disable()
    folders: set[Path] = set()
    for line in sys.stdin:
        if line == "\n":
            return
        path = Path(line.rstrip("\n"))
        _answer(convert(path))
        gc.collect(0)
        if path.parent not in folders:
            folders.add(path.parent)
            _answer(*left_over(path.parent))
    until = time.monotonic() + END_SECONDS
    while os.getppid() == service and time.monotonic() < until:
        time.sleep(0.05)  # as long as it is ending, it holds its segments
    for folder in folders:
        left_over(folder)


def _answer(*found: Done) -> None:
    with contextlib.suppress(BrokenPipeError):  # whoever asked is gone
        os.write(1, b"".join([msgspec.json.encode(done) + b"\n" for done in found]))


if __name__ == "__main__":
    main()
