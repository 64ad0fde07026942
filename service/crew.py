"""Several workers on the same sockets, forked from one process, which replaces those that die.

The process that forks has imported all that workers need and does nothing but wait for them, so
that a new worker answers within milliseconds.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

logger = logging.getLogger("headwater.service")
#: Workers that have not ended by then, once they were told to, are killed.
STOP_SECONDS = 30
#: A worker that lived for less than this is followed by the next one after a second.
_SHORT_SECONDS = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
#: The exit code of a worker that has said why none can run.
REFUSED = 1


class Place(NamedTuple):
    """One worker's part: its number, and the folder that all workers share.

    `alive` ends (it can be read) when the process that started the worker does.
    """

    number: int
    folder: Path
    alive: int


class Crew:
    """Runs `work(place)` in so many processes until SIGTERM or SIGINT; see `run`."""

    def __init__(self, workers: int, work: Callable[[Place], int]) -> None:
        self._workers, self._work = workers, work
        self._running: dict[int, tuple[int, float]] = {}
        self._stopping = False
        self._exit = 0

    def run(self) -> int:
        """The exit code: 0, or that of a worker that said why it cannot run."""
        self._alive, self._held = os.pipe()
        with TemporaryDirectory(prefix="headwater-") as folder:
            self._folder = Path(folder)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self._stop())
            signal.signal(signal.SIGALRM, lambda *_: self._signal(signal.SIGKILL))
            for worker in range(self._workers):
                self._start(worker)
            while self._running:
                self._ended(*os.waitpid(-1, 0))
        return self._exit

    def _start(self, worker: int) -> None:
        # A signal in between would miss the new worker, or find it with its parent's handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid:
            self._running[pid] = (worker, time.monotonic())
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            return
        code = 70
        try:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os.close(self._held)
            code = self._work(Place(worker, self._folder, self._alive))
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 70
        except BaseException:
            logger.exception("worker %d failed", worker)
        finally:
            logging.shutdown()
            os._exit(code)

    def _ended(self, pid: int, status: int) -> None:
        worker, started = self._running.pop(pid, (-1, 0.0))
        if worker < 0 or self._stopping:
            return
        code = os.waitstatus_to_exitcode(status)
        if code == REFUSED:
            self._exit = code
            self._stop()
            return
        logger.warning("worker %d (process %d) ended with %d; another takes its place",
                       worker, pid, code)  # fmt: skip
        if time.monotonic() - started < _SHORT_SECONDS:
            time.sleep(1.0)
        if not self._stopping:
            self._start(worker)

    def _stop(self) -> None:
        self._stopping = True
        self._signal(signal.SIGTERM)
        signal.alarm(STOP_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        for pid in list(self._running):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


def bound(host: str, port: int) -> list[socket.socket]:
    """TCP sockets on a port of every address of the host; they listen once a server takes them,
    and workers that are forked share them. Raises OSError."""
    made: list[socket.socket] = []
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, address in dict.fromkeys(found):
        one = socket.socket(family, kind, protocol)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # the IPv4 addresses have sockets of their own
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        made.append(one)
    return made
