"""Redis's addresses and clients: one server, a cluster, or a server that sentinels name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import parse_url
from redis.exceptions import RedisClusterException
from redis.retry import Retry
from redis.sentinel import Sentinel

from headwater.errors import StoreUnavailableError

Client = redis.Redis | RedisCluster
#: What redis-py raises; a cluster's own failures are no RedisError there.
ERRORS = (redis.RedisError, RedisClusterException)


class Address(NamedTuple):
    """Where Redis is: `kind` is server, cluster or sentinel.

    plain: the URL of the server, or as if the first of the nodes were one. nodes: host and port of
    some nodes, or of the sentinels. service: the name under which sentinels know the server.
    options: the rest, as redis-py's clients take it.
    """

    kind: str
    plain: str
    nodes: tuple[tuple[str, int], ...]
    service: str
    options: dict[str, Any]


def parse_address(url: str) -> Address:
    """A Redis URL of any form that docs/settings.md lists. Raises StoreUnavailableError."""
    scheme, _, rest = url.partition("://")
    secure, _, kind = scheme.partition("+")
    if not kind:
        return Address("server", url, (), "", {})
    try:
        if kind not in {"cluster", "sentinel"}:
            raise ValueError(f"there is no redis+{kind}://")
        parts = urlsplit(f"{secure}://{rest}")
        user, at, hosts = parts.netloc.rpartition("@")
        path = parts.path.strip("/")
        service, _, db = path.partition("/") if kind == "sentinel" else ("", "", path)
        if kind == "sentinel" and not service:
            raise ValueError("the name of the service is missing behind the sentinels")
        if kind == "cluster" and db not in {"", "0"}:
            raise ValueError("a cluster has no databases")
        first, *_ = found = [_node(host, 26379 if service else 6379) for host in hosts.split(",")]
        plain = f"{secure}://{user}{at}{first[0]}/{db}?{parts.query}"
        options = dict(parse_url(plain))  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise StoreUnavailableError(
            f"the address of Redis makes no sense: {error}; it wants redis+cluster://HOST:PORT,... "
            "or redis+sentinel://HOST:PORT,.../SERVICE[/DB]"
        ) from None
    for name in ("host", "port", "connection_class"):
        options.pop(name, None)
    if secure == "rediss":
        options["ssl"] = True
    return Address(kind, plain, tuple(found), service, options)


def _node(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a host is missing")
    return parts.hostname, parts.port or default


def sentinel_options(options: dict[str, Any]) -> dict[str, Any]:
    """What is meant for the sentinels: `sentinel_username` and `sentinel_password` of the query,
    and the TLS options; taken out of `options` where the servers do not know it.
    """
    own = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    return {n: v for n, v in (own | options).items() if v and n[:3] in {"ssl", "use", "pas"}}


def connect(url: str, timeout_seconds: float = 5.0) -> Client:
    """A client with bounded waits. Raises StoreUnavailableError where nothing answers."""
    waits: Any = {"socket_timeout": timeout_seconds, "socket_connect_timeout": timeout_seconds}
    client: Client
    if not url:
        raise StoreUnavailableError(
            "no Redis is named; set REDIS_URL, or connection_string in feature_store.yaml"
        )
    with store_errors():
        address = parse_address(url)
        if address.kind == "server":
            client = redis.Redis.from_url(url, **waits)
        elif address.kind == "cluster":
            options = {name: v for name, v in address.options.items() if name != "db"}
            nodes: Any = [ClusterNode(*node) for node in address.nodes]  # type: ignore[no-untyped-call]
            retry = Retry(ExponentialWithJitterBackoff(base=0.01, cap=0.2), 5)
            client = RedisCluster(startup_nodes=nodes, retry=retry, **options, **waits)
        else:
            own = {**sentinel_options(address.options), **waits, "retry": Retry(NoBackoff(), 1)}
            sentinels: Any = Sentinel(address.nodes, sentinel_kwargs=own)  # type: ignore[no-untyped-call]
            client = sentinels.master_for(address.service, **address.options, **waits)
        client.ping()
    return client


@contextmanager
def store_errors() -> Iterator[None]:
    """Redis's failures, as the error that says to try again."""
    try:
        yield
    except ERRORS as error:
        raise StoreUnavailableError(
            f"Redis did not take the request ({type(error).__name__}: {error}); "
            "check REDIS_URL and that the server is up"
        ) from error


def script(name: str) -> str:
    """The text of a Lua script of this package."""
    return (files("headwater.online") / f"{name}.lua").read_text()
