"""The environment, read once into a frozen object; what makes no sense is refused."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from headwater.errors import SettingError

#: What a value must be, in words, and the check of it.
Wanted = tuple[str, Callable[[Any], bool]]

_POSITIVE: Wanted = ("a number greater than 0", lambda n: 0 < n < math.inf)
_ANY_TEXT: Wanted = ("text", lambda _: True)


def _setting(variable: str, default: Any, doc: str, wanted: Wanted | None = None) -> Any:
    wanted = wanted or (_ANY_TEXT if isinstance(default, str) else _POSITIVE)
    return field(default=default, metadata={"variable": variable, "doc": doc, "wanted": wanted})


def _one_of(*choices: str) -> Wanted:
    return " or ".join(choices), lambda text: text in choices


def _matches(words: str, pattern: str) -> Wanted:
    return words, lambda text: re.fullmatch(pattern, text, re.IGNORECASE) is not None


_URL = _matches(
    "redis://HOST:PORT/DB, redis+cluster://HOST:PORT,..., "
    "redis+sentinel://HOST:PORT,.../SERVICE[/DB], the same with rediss, or unix://...",
    r"((rediss?|unix)://\S+|rediss?\+cluster://[^\s/]+/?0?(\?\S*)?"
    r"|rediss?\+sentinel://[^\s/]+/[^\s/?]+(/\d+)?/?(\?\S*)?)",
)
_HTTP_URL = _matches("http[s]://[USER:PASSWORD@]HOST[:PORT]", r"https?://\S+")
_BROKERS = _matches("HOST:PORT, or several with commas between", r"[^\s,:]+:\d+(,[^\s,:]+:\d+)*")
_SIZE = _matches("a size such as 4GB", r"\d+(\.\d+)? ?[KMGT]i?B")
#: Ports above 1024 that browsers refuse ("bad ports" of the Fetch standard), and the one beside.
BLOCKED_PORTS = {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667,
                 6668, 6669, 6679, 6697, 10080}  # fmt: skip
UI_PORT = 6580
_PORT: Wanted = ("a port, 1 to 65535", lambda n: 0 < n < 65536)
_PORT_OR_NONE: Wanted = ("a port, 1 to 65535, or 0 for none", lambda n: 0 <= n < 65536)
_PORT_OR_ANY: Wanted = ("a port, 1 to 65535, or 0 for a free one", lambda n: 0 <= n < 65536)


@dataclass(frozen=True)
class Settings:
    """Every setting; `docs/settings.md` is held to this list by a test."""

    redis_url: str = _setting(
        "REDIS_URL", "", "Redis to use; wins over `connection_string` in feature_store.yaml", _URL
    )
    kafka_bootstrap_servers: str = _setting(
        "KAFKA_BOOTSTRAP_SERVERS", "", "Kafka to use; wins over what the sources say", _BROKERS
    )
    kafka_client: str = _setting(
        "HEADWATER_KAFKA_CLIENT",
        "kafka-python",
        "`kafka-python`, or the faster `confluent-kafka` (pip install 'headwater[fast]')",
        _one_of("kafka-python", "confluent-kafka"),
    )
    kafka_config: str = _setting(
        "HEADWATER_KAFKA_CONFIG",
        "",
        "properties file with Kafka's security options, see below",
    )
    schema_registry_url: str = _setting(
        "HEADWATER_SCHEMA_REGISTRY_URL",
        "",
        "Confluent's schema registry for framed Avro, `http[s]://[USER:PASSWORD@]HOST[:PORT]`",
        _HTTP_URL,
    )
    group: str = _setting("HEADWATER_GROUP", "", "consumer group; default `headwater-<project>`")
    host: str = _setting("HEADWATER_HOST", "127.0.0.1", "address that the service listens on")
    port: int = _setting("HEADWATER_PORT", 6566, "port of the service", _PORT)
    ui_port: int = _setting(
        "HEADWATER_UI_PORT",
        0,
        "one more port of the service, for browsers, which refuse to open 6566; 0: 6580 beside "
        "such a port, else none",
        _PORT_OR_NONE,
    )
    workers: int = _setting("HEADWATER_WORKERS", 1, "processes of the service")
    grpc_port: int = _setting(
        "HEADWATER_GRPC_PORT", 0, "port of Feast's gRPC services; 0: none", _PORT_OR_NONE
    )
    metrics_host: str = _setting(
        "HEADWATER_METRICS_HOST",
        "127.0.0.1",
        "address that the ingest worker's /metrics listens on",
    )
    metrics_port: int = _setting(
        "HEADWATER_METRICS_PORT",
        9465,
        "port of the ingest worker's /metrics; 0 takes a free one",
        _PORT_OR_ANY,
    )
    log_level: str = _setting(
        "HEADWATER_LOG_LEVEL",
        "info",
        "debug, info, warning or error",
        _one_of("debug", "info", "warning", "error"),
    )
    log_flush_seconds: float = _setting(
        "HEADWATER_LOG_FLUSH_SECONDS",
        1.0,
        "time between appends to the offline log, up to five times as long where the worker is far "
        "behind",
    )
    log_flush_rows: int = _setting(
        "HEADWATER_LOG_FLUSH_ROWS", 500_000, "events after which the offline log is appended"
    )
    batch_records: int = _setting(
        "HEADWATER_BATCH_RECORDS", 50_000, "most messages that the worker takes from Kafka at once"
    )
    write_seconds: float = _setting(
        "HEADWATER_WRITE_SECONDS",
        1.0,
        "time between writes to Redis while the worker is behind, up to five times as long where "
        "it is far behind; else it writes at once",
    )
    log: str = _setting(
        "HEADWATER_LOG", "on", "off: the worker keeps no offline log", _one_of("on", "off")
    )
    max_future_seconds: float = _setting(
        "HEADWATER_MAX_FUTURE_SECONDS",
        3600.0,
        "an event time further ahead of its record's timestamp is rejected",
    )
    log_retention_hours: int = _setting(
        "HEADWATER_LOG_RETENTION_HOURS",
        24,
        "how long the log's files stay for readers after a compaction replaced them",
    )
    state_cache_bytes: int = _setting(
        "HEADWATER_STATE_CACHE_BYTES",
        512 << 20,
        "memory for window states, for each windowed view; what is beyond is read from Redis again",
    )
    redis_timeout_seconds: float = _setting(
        "HEADWATER_REDIS_TIMEOUT_SECONDS", 1.0, "longest wait for Redis"
    )
    max_entities: int = _setting("HEADWATER_MAX_ENTITIES", 10_000, "entities in one request")
    max_concurrent_requests: int = _setting(
        "HEADWATER_MAX_CONCURRENT_REQUESTS",
        256,
        "requests under way; one more is told to come back",
    )
    max_body_bytes: int = _setting("HEADWATER_MAX_BODY_BYTES", 16_777_216, "bytes of one request")
    max_queued_pushes: int = _setting(
        "HEADWATER_MAX_QUEUED_PUSHES", 1000, "pushes with wait=none that wait to be written"
    )
    api_keys: str = _setting(
        "HEADWATER_API_KEYS",
        "",
        "keys that the service asks for: NAME:SCOPES:SHA256, commas between; scopes are read, "
        "write, admin with + between",
    )
    open_access: str = _setting(
        "HEADWATER_OPEN_ACCESS",
        "no",
        "`yes` lets the service listen beyond this machine without keys",
        _one_of("yes", "no"),
    )
    tls_cert: str = _setting("HEADWATER_TLS_CERT", "", "file of the service's TLS certificate")
    tls_key: str = _setting("HEADWATER_TLS_KEY", "", "file of the certificate's private key")
    feature_log: str = _setting(
        "HEADWATER_FEATURE_LOG",
        "",
        "folder (or URI) where vectors are logged as they are served, a folder for each feature "
        "service; a service's own `logging_config` wins over it",
    )
    feature_log_sample: float = _setting(
        "HEADWATER_FEATURE_LOG_SAMPLE",
        1.0,
        "share of the requests that are logged there, up to 1",
        ("a number greater than 0, at most 1", lambda n: 0 < n <= 1),
    )
    feature_log_seconds: float = _setting(
        "HEADWATER_FEATURE_LOG_SECONDS", 30.0, "longest time between two files of a feature log"
    )
    feature_log_queue: int = _setting(
        "HEADWATER_FEATURE_LOG_QUEUE",
        100_000,
        "vectors in memory that wait to be logged; what is beyond is not logged, and counted",
    )
    feature_log_disk_mb: int = _setting(
        "HEADWATER_FEATURE_LOG_DISK_MB",
        1000,
        "megabytes of served vectors that may wait on disk to become files of a feature log; what "
        "is beyond is not logged, and counted",
    )
    drift_seconds: float = _setting(
        "HEADWATER_DRIFT_SECONDS",
        300.0,
        "how often the service has features compared with what they were; 0: never",
        ("a number of at least 0", lambda n: 0 <= n < math.inf),
    )
    sketch_days: float = _setting(
        "HEADWATER_SKETCH_DAYS",
        400.0,
        "how long the sketches of an hour are kept to be compared with; 0: for ever",
        ("a number of at least 0", lambda n: 0 <= n < math.inf),
    )
    alertmanager_url: str = _setting(
        "HEADWATER_ALERTMANAGER_URL",
        "",
        "Alertmanager whose active alerts the service shows, `http[s]://[USER:PASSWORD@]HOST[:PORT]`",
        _HTTP_URL,
    )
    memory_limit: str = _setting(
        "HEADWATER_MEMORY_LIMIT",
        "",
        "memory that a training set may take, such as 4GB; half of the machine's when unset",
        _SIZE,
    )

    @property
    def memory_bytes(self) -> int:
        """`memory_limit` in bytes; 0 where it is unset."""
        found = re.fullmatch(r"([\d.]+) ?([KMGT])(i?)B", self.memory_limit, re.IGNORECASE)
        if found is None:
            return 0
        base = 1024 if found[3] else 1000
        return int(float(found[1]) * base ** ("KMGT".index(found[2].upper()) + 1))

    @property
    def browser_port(self) -> int:
        """The port beside `port` on which browsers open the pages; 0 where `port` will do.

        6566, where Feast's clients look, is among the ports that the Fetch standard blocks (it was
        a scanner daemon's), and every browser does so.
        """
        return self.ui_port or (UI_PORT if self.port in BLOCKED_PORTS else 0)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """An empty variable counts as unset.

        Raises SettingError for a value that makes no sense or an unknown HEADWATER_ variable.
        """
        known = {f.metadata["variable"]: f for f in fields(cls)}
        for key in environ:
            if key.startswith("HEADWATER_") and key not in known:
                near = difflib.get_close_matches(key, known, 1)
                wanted = f"to be {near[0]}" if near else f"one of {', '.join(sorted(known))}"
                raise SettingError(key, environ[key], f"{wanted} (no such setting)")
        return cls(
            **{
                f.name: _parse(key, environ[key], type(f.default), f.metadata["wanted"])
                for key, f in known.items()
                if environ.get(key)
            }
        )


def _parse(key: str, text: str, kind: type, wanted: Wanted) -> Any:
    words, valid = wanted
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not valid(value):
        shown = re.sub(r"//[^/]*@", "//***@", text)  # a URL may hold a password
        whole = "whole " if kind is int else ""
        raise SettingError(key, shown, words.replace("a number", f"a {whole}number"))
    return value
