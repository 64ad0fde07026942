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
    """Starts a module of Headwater for the project; of each at most one at a time."""

    def __init__(self, repo: Path) -> None:
        self._repo = repo
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._ended: dict[str, float] = {}

    def start(self, module: str, *words: str) -> None:
        """Start it, unless it runs or has only just ended."""
        self.look()
        rests = time.monotonic() - self._ended.get(module, float("-inf")) < REST_SECONDS
        if module not in self._running and not rests:
            command = [sys.executable, "-P", "-m", module, *words, "--repo", str(self._repo)]
            self._running[module] = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def running(self, module: str) -> bool:
        self.look()
        return module in self._running

    def look(self) -> None:
        """Take note of what has ended."""
        for module, process in list(self._running.items()):
            code = process.poll()
            if code is not None:
                del self._running[module]
                self._ended[module] = time.monotonic()
                if code:
                    logger.warning("%s ended with code %d", module, code)

    def close(self) -> None:
        """Stop them; each goes on where it was when it is started again."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait()
        self._running.clear()
