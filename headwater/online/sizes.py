"""How much of Redis each view takes, from a sample of its keys.

Where a server holds few keys all of them are counted. Else random keys are drawn (RANDOMKEY): a
view's share of the draws is its share of the keys, with the standard error of a proportion, and a
view that no draw hit has, with 95 % confidence, at most 3 / draws of them (the rule of three;
Hanley and Lippman-Hand 1983). The bytes of a key are Redis's own count (MEMORY USAGE: key, value
and its place in the table), averaged over some keys of the view; a server that does not let this
user ask for that leaves them unknown.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import redis

from headwater.catalog import ViewPlan
from headwater.codec import WINDOW_HEADER, key_prefix, split_sections
from headwater.online.connect import store_errors
from headwater.online.writer import OnlineWriter

#: A server with at most so many keys is counted whole.
COUNTED = 20_000
#: Random keys drawn of a server with more.
DRAWS = 2_000
#: Keys of a view whose bytes are asked for, and of a windowed view also their values.
WEIGHED = 50
_PREFIX_BYTES = 8


class Size(NamedTuple):
    """One view in Redis. `bytes_error` and `keys_error` are standard errors (0: counted exactly);
    of a view that no draw hit `keys_error` is the bound.

    keys, bytes: estimates over all servers; bytes is None where Redis refuses to tell.
    sampled: keys that were weighed. tiles: mean number of tiles in a value (0 for row views), which
    is what one read of an entity merges.
    """

    keys: int = 0
    keys_error: float = 0.0
    bytes: int | None = 0
    bytes_error: float = 0.0
    sampled: int = 0
    tiles: float = 0.0


class _Share(NamedTuple):
    """Of one server: keys of a view, the error of that, and some of the keys."""

    keys: float
    variance: float
    some: list[bytes]


#: Of one server: keys of a view, what some of them weigh (None: refused), and their tiles.
_Part = tuple[_Share, list[int] | None, list[int]]


def sizes(writer: OnlineWriter, views: Iterable[ViewPlan]) -> dict[str, Size]:
    """View -> its size; some ten milliseconds. Raises StoreUnavailableError."""
    prefixes = {key_prefix(writer.project, view): view for view in views if view.online}
    found: dict[str, list[_Part]] = defaultdict(list)
    for server in writer.scanned():
        with store_errors():
            for prefix, share in _shares(server, set(prefixes)).items():
                view = prefixes[prefix]
                bytes_of = _weighed(server, share.some)
                tiles = _tiles(server, share.some) if view.kind == "window" else []
                found[view.name].append((share, bytes_of, tiles))
    return {view.name: _size(found.get(view.name, ())) for view in prefixes.values()}


def _shares(server: redis.Redis, prefixes: set[bytes]) -> dict[bytes, _Share]:
    total: Any = server.dbsize()
    keys = list(dict.fromkeys(server.scan_iter(count=1000))) if total <= COUNTED else _drawn(server)
    of: dict[bytes, list[bytes]] = defaultdict(list)
    for key in keys:
        if key[:_PREFIX_BYTES] in prefixes:
            of[key[:_PREFIX_BYTES]].append(key)
    if total <= COUNTED:
        return {prefix: _Share(len(some), 0.0, some[:WEIGHED]) for prefix, some in of.items()}
    shares = {}
    for prefix in prefixes:
        some = of.get(prefix, [])
        part = len(some) / len(keys)
        variance = part * (1 - part) / len(keys) if some else (3 / len(keys)) ** 2
        distinct = list(dict.fromkeys(some))[:WEIGHED]
        shares[prefix] = _Share(part * total, variance * total**2, distinct)
    return shares


def _drawn(server: redis.Redis) -> list[bytes]:
    pipe: Any = server.pipeline(transaction=False)
    for _ in range(DRAWS):
        pipe.randomkey()
    return [key for key in pipe.execute() if key is not None]


def _weighed(server: redis.Redis, keys: Sequence[bytes]) -> list[int] | None:
    pipe: Any = server.pipeline(transaction=False)
    for key in keys:
        pipe.memory_usage(key)
    try:
        return [size for size in pipe.execute() if size is not None]  # None: gone meanwhile
    except redis.ResponseError:  # the user may not (ACL), or the command is renamed
        return None


def _tiles(server: redis.Redis, keys: Sequence[bytes]) -> list[int]:
    pipe: Any = server.pipeline(transaction=False)
    for key in keys:
        pipe.get(key)
    return [
        sum(int.from_bytes(section[24:32], "little") for section in split_sections(value))
        for value in pipe.execute()
        if value is not None and value.startswith(WINDOW_HEADER)
    ]


def _size(parts: Sequence[_Part]) -> Size:
    """The sum over servers; errors of what is estimated add up by their squares."""
    keys = sum(share.keys for share, _, _ in parts)
    total = variance = 0.0
    for share, weights, _ in parts:
        if not weights:
            continue
        n = len(weights)
        mean = sum(weights) / n
        spread = sum((w - mean) ** 2 for w in weights) / (n - 1) if n > 1 else 0.0
        total += share.keys * mean
        weighed_all = n >= share.keys
        variance += 0.0 if weighed_all else share.keys**2 * spread / n
        variance += share.variance * mean**2
    tiles = [t for _, _, found in parts for t in found]
    return Size(
        keys=round(keys),
        keys_error=math.sqrt(sum(share.variance for share, _, _ in parts)),
        bytes=None if any(weights is None for _, weights, _ in parts) else round(total),
        bytes_error=math.sqrt(variance),
        sampled=sum(len(weights or ()) for _, weights, _ in parts),
        tiles=sum(tiles) / len(tiles) if tiles else 0.0,
    )
