"""The process that makes Parquet files of the feature log's segments."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from headwater.offline.log_writer import Done, convert

logger = logging.getLogger("headwater.service")
#: When the service ends, what waits may take so long; then it is left to the process. With all else
#: that ends it is less than the half minute that supervisors give (`service.crew`).
CLOSE_SECONDS = 15.0
_MODULE = "headwater.offline.log_writer"
#: Its memory is kept between two files: new memory has to be cleared by the kernel first.
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}


class LogProcess:
    """Started with the first segment, and again where it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        #: Bytes and vectors of the segments that were sent and not answered.
        self._sent: dict[str, tuple[int, int]] = {}
        #: The segment at which it died last.
        self._fatal = ""
        #: Nothing more is given to the process: the service ends.
        self.ending = False

    @property
    def bytes(self) -> int:
        """Bytes of the segments that wait."""
        return sum(size for size, _ in self._sent.values())

    def send(self, path: Path, size: int, vectors: int) -> None:
        """Have a segment made a file."""
        self._sent[str(path)] = size, vectors
        if self.ending:
            return
        if self._process is None:
            self._start()
        else:
            self._write([str(path)])

    def _start(self) -> None:
        """Begin with everything that was sent."""
        command = [sys.executable, "-P", "-m", _MODULE]
        # In a session of its own: what a terminal sends to the service does not end it.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
            env=_MEMORY | os.environ,
        )  # fmt: skip
        assert self._process.stdout is not None  # noqa: S101 (it is a pipe)
        os.set_blocking(self._process.stdout.fileno(), False)
        self._rest = b""
        self._write(list(self._sent))

    def _write(self, paths: list[str]) -> None:
        assert self._process is not None  # noqa: S101 (the callers see to it)
        assert self._process.stdin is not None  # noqa: S101 (it is a pipe)
        # Where it has died it is started again when its answers are looked for.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("".join(f"{path}\n" for path in paths).encode())
            self._process.stdin.flush()

    def done(self) -> list[Done]:
        """What came of segments since the last time."""
        if self._process is None:
            return []
        found = self._answers()
        if self._process.poll() is not None:
            found += self._answers()
            found += self._died()
        return found

    def _answers(self) -> list[Done]:
        assert self._process is not None  # noqa: S101 (the callers see to it)
        assert self._process.stdout is not None  # noqa: S101 (it is a pipe)
        self._rest += self._process.stdout.read() or b""
        *lines, self._rest = self._rest.split(b"\n")
        return [self._counted(msgspec.json.decode(line, type=Done)) for line in lines]

    def _counted(self, done: Done) -> Done:
        """A segment that waits no longer. One that was taken by somebody else was answered before,
        or is as good as written."""
        _, vectors = self._sent.pop(done.path, (0, 0))
        if done.elsewhere:
            done.written = vectors
        elif done.error and not done.failed:
            done.failed = vectors
        return done

    def _died(self) -> list[Done]:
        """Start it again; a segment at which it dies twice is given up."""
        assert self._process is not None  # noqa: S101 (the callers see to it)
        logger.warning("the feature log's writer ended with %s", self._process.returncode)
        self._forget()
        lost: list[Done] = []
        first = next(iter(self._sent), "")
        if first and first == self._fatal:
            _, vectors = self._sent.pop(first)
            Path(first).unlink(missing_ok=True)
            lost.append(Done(first, failed=vectors, error="the feature log's writer died of it"))
        self._fatal = first
        if self._sent:
            self._start()
        return lost

    def _forget(self) -> None:
        assert self._process is not None  # noqa: S101 (the callers see to it)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]
        self._process = None

    def close(self) -> list[Done]:
        """Make files of what waits, here, since the process would take its time; let it end with
        what it is at. What takes too long is left to the process, or to the next service."""
        until = time.monotonic() + CLOSE_SECONDS
        found = []
        for path in list(self._sent):
            if time.monotonic() > until:
                break
            done = convert(Path(path))
            if not done.elsewhere:
                found.append(self._counted(done))
        if self._process is None:
            return found
        assert self._process.stdin is not None  # noqa: S101 (it is a pipe)
        with contextlib.suppress(BrokenPipeError):
            if time.monotonic() <= until:  # else it takes what is left behind
                self._process.stdin.write(b"\n")
            self._process.stdin.close()
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            logger.warning("%d segments of the feature log are yet to be written", len(self._sent))
        found += self._answers()
        self._forget()
        return found
