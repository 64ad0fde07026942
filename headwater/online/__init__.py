"""The online store: packed values in Redis, and Feast's plugin on top of them."""

from __future__ import annotations

from typing import Any

__all__ = ["RedisOnlineStore", "RedisOnlineStoreConfig"]


def __getattr__(name: str) -> Any:
    # Feast asks for the plugin by this module's name; the service, which has no time to import
    # Feast, uses its siblings and never comes here.
    if name in __all__:
        from headwater.online import store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
