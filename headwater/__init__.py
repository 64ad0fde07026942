"""Headwater: a feature store service on Feast definitions."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["SqlSource", "__version__", "training_set"]


def __getattr__(name: str) -> Any:
    # Who only serves or ingests does not wait for the offline store's import.
    if name == "training_set":
        from headwater.offline.api import training_set

        return training_set
    if name == "SqlSource":
        from headwater.sql_source import SqlSource

        return SqlSource
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
