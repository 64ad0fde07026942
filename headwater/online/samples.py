"""An entity that the online store holds, for examples that answer something."""

from __future__ import annotations

from typing import Any

from headwater.codec import entity_parts
from headwater.online.connect import store_errors
from headwater.online.values import ViewReader
from headwater.online.writer import OnlineWriter

#: Steps of a walk through a server's keys, and keys that each passes: a view with fewer than one
#: key in so many is not worth a longer one.
_STEPS, _PASSED = 10, 1000
#: Entities of which the one with the newest event is taken.
_LOOKED_AT = 50


def entity_of(writer: OnlineWriter, reader: ViewReader) -> list[bytes] | None:
    """The key values of an entity of a view, as texts in the order of its join keys.

    Of some that the walk meets, the one with the newest event; None where it meets none. Takes a
    few milliseconds, however much Redis holds. Raises StoreUnavailableError.
    """
    keys: list[bytes] = []
    for server in writer.scanned():
        with store_errors():
            at, steps = 0, 0
            while (at or not steps) and steps < _STEPS and len(keys) < _LOOKED_AT:
                step: Any = server.scan(at, match=reader.prefix + b"{*", count=_PASSED)
                at, steps = step[0], steps + 1
                keys += step[1]
    if not keys:
        return None
    keys = keys[:_LOOKED_AT]
    times = reader.values(writer.read(keys), (), 0).event_us
    newest = keys[max(range(len(keys)), key=times.__getitem__)]
    return entity_parts(newest[len(reader.prefix) + 1 : -1], len(reader.view.join_keys))
