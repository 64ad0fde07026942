"""A server process on a port of this machine: started, awaited, stopped, killed, restarted."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path

from headwater.errors import HeadwaterError

START_SECONDS = 60.0
STOP_SECONDS = 15.0
HOST = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), 1.0).close()
    except OSError:
        return False
    return True


class Server:
    """One server and its folder. It ends with this process, however this process ends.

    Without a `folder` it gets a temporary one, which goes when the server is closed.
    """

    def __init__(self, name: str, port: int, folder: Path | None) -> None:
        self.name, self.port = name, port
        self._temporary = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix=f"headwater-{name}-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def start(self, command: list[str], ready: Callable[[], bool]) -> None:
        """Blocks until `ready`. Raises HeadwaterError with the log's end where it never is."""
        guard = str(files("headwater.local") / "guard.py")
        doomed = str(self.folder) if self._temporary else ""
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches us alone, and we stop things in order.
            self._process = subprocess.Popen(
                [sys.executable, "-I", guard, doomed, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                ended = "ended at once" if self._process.poll() is not None else "did not answer"
                self.kill()
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])
                raise HeadwaterError(f"the local {self.name} {ended}; its log ends with:\n{tail}")
            time.sleep(0.02)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """An orderly end; the folder stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """What a power cut does (SIGKILL); the folder stays."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """The end for good: a temporary folder goes as well."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            self._signal(process, how)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(process, signal.SIGKILL)
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
        # A killed server's sockets outlive its guard by a moment.
        deadline = time.monotonic() + STOP_SECONDS
        while listens(self.port) and time.monotonic() < deadline:
            time.sleep(0.005)

    @staticmethod
    def _signal(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
        if how is signal.SIGKILL:
            os.killpg(process.pid, how)  # guard and server at once
        else:
            process.send_signal(how)
