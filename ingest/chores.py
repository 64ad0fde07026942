"""Long work beside the worker, each in a process of its own, so that no event waits for it."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

logger = logging.getLogger("headwater.ingest")
#: How long a chore that ended is not started again.
REST_SECONDS = 2.0


class Chores:
    """Starts commands of Headwater for the project; of each at most one at a time."""

    def __init__(self, repo: Path) -> None:
        self._repo = repo
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._ended: dict[str, float] = {}

    def start(self, command: str, *words: str) -> None:
        """Start it, unless it runs or has only just ended."""
        self.look()
        rests = time.monotonic() - self._ended.get(command, float("-inf")) < REST_SECONDS
        if command not in self._running and not rests:
            line = [sys.executable, "-P", "-m", "headwater.cli", command, *words]
            try:
                self._running[command] = subprocess.Popen(
                    [*line, "--repo", str(self._repo)], stdout=subprocess.DEVNULL
                )
            except OSError as error:  # no memory, no process left: the worker goes on
                self._ended[command] = time.monotonic()
                logger.warning("headwater %s cannot be started: %s", command, error)

    def running(self, command: str) -> bool:
        self.look()
        return command in self._running

    def look(self) -> None:
        """Take note of what has ended."""
        for command, process in list(self._running.items()):
            code = process.poll()
            if code is not None:
                del self._running[command]
                self._ended[command] = time.monotonic()
                if code:
                    logger.warning("headwater %s ended with code %d", command, code)

    def close(self) -> None:
        """Stop them; each goes on where it was when it is started again."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait()
        self._running.clear()
