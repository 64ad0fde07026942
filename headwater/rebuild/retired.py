"""State that no view uses any more: noted when the definitions change, deleted some time later.

A worker uses the old definitions for a second or so after a change, and would write again what was
deleted under it.
"""

from __future__ import annotations

from typing import Any

from headwater.catalog import Catalog
from headwater.codec import key_prefix
from headwater.online.connect import Client, store_errors
from headwater.online.progress import Progress
from headwater.online.writer import OnlineWriter
from headwater.rebuild.lock import RebuildLock

#: How long state stays after it was noted that nothing uses it.
GRACE_SECONDS = 300


class Retired:
    """The prefixes of state that no view of the catalogue has, and since when (Unix seconds)."""

    def __init__(self, catalog: Catalog, client: Client) -> None:
        self._client, self._key = client, f"headwater:{catalog.project}:retired"
        self._project = catalog.project
        self._used = {key_prefix(catalog.project, view) for view in catalog.views.values()}
        self._progress = Progress(client, catalog.project)

    def note(self, now: float) -> set[bytes]:
        """Note what is unused now, forget what is used again; returns the unused prefixes."""
        unused = {place.prefix for place in self._progress.all()} - self._used
        with store_errors():
            held: Any = self._client.hkeys(self._key)
            for prefix in set(held) & self._used:
                self._client.hdel(self._key, prefix)
            for prefix in unused:
                self._client.hsetnx(self._key, prefix, int(now))
        return unused

    def delete(self, now: float, grace: float = GRACE_SECONDS) -> int:
        """Delete the state that was noted `grace` seconds ago; returns the keys deleted.

        Raises RebuildBusyError while a rebuild runs.
        """
        self.note(now)
        with store_errors():
            noted: Any = self._client.hgetall(self._key)
        due = [prefix for prefix, since in noted.items() if now - int(since) >= grace]
        if not due:
            return 0
        deleted = 0
        with RebuildLock(self._client, self._project) as lock:
            for prefix in due:
                self._progress.forget(prefix)
                writer = OnlineWriter(self._client, self._project)
                deleted += writer.delete_prefix(prefix, lock.unlink)
                with store_errors():
                    self._client.hdel(self._key, prefix)
        return deleted
