"""Feast's own tests on Headwater's stores: a pytest plugin, and Feast's FULL_REPO_CONFIGS_MODULE.

README.md beside this file says how to run them. SUITE is one of

    plugin   Headwater's online and offline stores
    stock    Feast's own Redis and file stores, to tell whose a failure is
"""

from __future__ import annotations

import os
from typing import Any

SUITE = os.environ.get("SUITE", "plugin")
REDIS = os.environ.get("SUITE_REDIS", "localhost:6379")
OURS = SUITE == "plugin"
ONLINE = (
    {"type": "headwater.online.RedisOnlineStore", "connection_string": REDIS}
    if OURS
    else {"type": "redis", "connection_string": f"{REDIS},db=0"}
)


def pytest_collection_finish() -> None:
    # True while modules are imported, or they want the clouds' clients; then some tests do nothing.
    os.environ["FEAST_IS_LOCAL_TEST"] = "False"


def __getattr__(name: str) -> Any:
    """What Feast's tests ask for by name; not made before, since pytest loads plugins first."""
    if name == "AVAILABLE_OFFLINE_STORES":
        from tests.universal.feature_repos.universal.data_sources import file

        if OURS:
            from headwater.offline import DuckDBOfflineStoreConfig

            file.FileDataSourceCreator.create_offline_store_config = lambda _: (
                DuckDBOfflineStoreConfig()
            )
        return [("local", file.FileDataSourceCreator)]
    if name == "AVAILABLE_ONLINE_STORES":
        # Some tests are for stores of these names only.
        return dict.fromkeys(("redis", "sqlite", "mongodb"), (ONLINE, None))
    raise AttributeError(name)
