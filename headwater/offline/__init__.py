"""The offline store: event log, point-in-time joins, training sets, and Feast's plugin."""

from __future__ import annotations

from typing import Any

__all__ = ["DuckDBOfflineStore", "DuckDBOfflineStoreConfig"]


def __getattr__(name: str) -> Any:
    # As in headwater.online: only Feast, which asks by name, waits for Feast's import.
    if name in __all__:
        from headwater.offline import store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
