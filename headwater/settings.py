"""The environment, read once into a frozen object; what makes no sense is refused."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from headwater.errors import SettingError


def _setting(variable: str, default: Any, doc: str) -> Any:
    return field(default=default, metadata={"variable": variable, "doc": doc})


@dataclass(frozen=True)
class Settings:
    """Every setting; `docs/settings.md` is held to this list by a test."""

    redis_url: str = _setting(
        "REDIS_URL", "", "Redis to use; wins over `connection_string` in feature_store.yaml"
    )
    kafka_bootstrap_servers: str = _setting(
        "KAFKA_BOOTSTRAP_SERVERS", "", "Kafka to use; wins over what the sources say"
    )
    kafka_client: str = _setting(
        "HEADWATER_KAFKA_CLIENT", "kafka-python", "`kafka-python` (no other client is built in yet)"
    )
    group: str = _setting("HEADWATER_GROUP", "", "consumer group; default `headwater-<project>`")
    host: str = _setting("HEADWATER_HOST", "127.0.0.1", "address that the service listens on")
    port: int = _setting("HEADWATER_PORT", 6566, "port of the service")
    metrics_port: int = _setting(
        "HEADWATER_METRICS_PORT", 9465, "port of the ingest worker's /metrics; 0 takes a free one"
    )
    log_level: str = _setting("HEADWATER_LOG_LEVEL", "info", "debug, info, warning or error")
    log_flush_seconds: float = _setting(
        "HEADWATER_LOG_FLUSH_SECONDS", 1.0, "longest time between appends to the offline log"
    )
    log_flush_rows: int = _setting(
        "HEADWATER_LOG_FLUSH_ROWS", 100_000, "events after which the offline log is appended"
    )
    batch_records: int = _setting(
        "HEADWATER_BATCH_RECORDS", 20_000, "largest batch that the worker folds at once"
    )
    max_future_seconds: float = _setting(
        "HEADWATER_MAX_FUTURE_SECONDS",
        3600.0,
        "an event time further ahead of its record's timestamp is rejected",
    )
    state_cache_keys: int = _setting(
        "HEADWATER_STATE_CACHE_KEYS", 1_000_000, "window states that a worker keeps in memory"
    )
    redis_timeout_seconds: float = _setting(
        "HEADWATER_REDIS_TIMEOUT_SECONDS", 1.0, "longest wait for Redis"
    )
    max_entities: int = _setting("HEADWATER_MAX_ENTITIES", 10_000, "entities in one request")
    max_body_bytes: int = _setting("HEADWATER_MAX_BODY_BYTES", 16_777_216, "bytes of one request")
    memory_limit: str = _setting(
        "HEADWATER_MEMORY_LIMIT", "", "DuckDB's memory limit, such as 4GB"
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Raises SettingError for a value of the wrong kind or an unknown HEADWATER_ variable."""
        known = {f.metadata["variable"]: f for f in fields(cls)}
        for key in environ:
            if key.startswith("HEADWATER_") and key not in known:
                near = difflib.get_close_matches(key, known, 1)
                wanted = f"to be {near[0]}" if near else f"one of {', '.join(sorted(known))}"
                raise SettingError(key, environ[key], f"{wanted} (no such setting)")
        given = {
            f.name: _parse(key, environ[key], f.default) for key, f in known.items()
            if environ.get(key)
        }  # fmt: skip
        settings = cls(**given)
        if settings.kafka_client != "kafka-python":
            raise SettingError("HEADWATER_KAFKA_CLIENT", settings.kafka_client, "kafka-python")
        if settings.log_level not in {"debug", "info", "warning", "error"}:
            raise SettingError(
                "HEADWATER_LOG_LEVEL", settings.log_level, "debug, info, warning or error"
            )
        return settings


def _parse(key: str, value: str, default: Any) -> Any:
    if isinstance(default, str):
        return value
    try:
        number = type(default)(value)
    except ValueError:
        number = -1
    if number < 0 or (number == 0 and key != "HEADWATER_METRICS_PORT"):
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise SettingError(key, value, f"{kind} greater than 0")
    return number
