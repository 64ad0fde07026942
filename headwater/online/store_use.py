"""How full Redis is, over all of its servers."""

from __future__ import annotations

from typing import Any, NamedTuple

from headwater.online.connect import store_errors
from headwater.online.writer import OnlineWriter


class StoreUse(NamedTuple):
    """Sums over the servers; a limit of 0 is none."""

    memory_bytes: int
    memory_limit_bytes: int
    evicted_keys: int


def store_use(writer: OnlineWriter) -> StoreUse:
    """Raises StoreUnavailableError."""
    used = limit = evicted = 0
    for server in writer.scanned():
        with store_errors():
            memory: Any = server.info("memory")
            stats: Any = server.info("stats")
        used += memory["used_memory"]
        limit += memory.get("maxmemory", 0)
        evicted += stats["evicted_keys"]
    return StoreUse(used, limit, evicted)
