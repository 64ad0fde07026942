"""Bodies of requests that differ from an earlier one in the key of their one entity alone. Pure.

A model asks for the same features again and again. What such a body means is known by the bytes
around its key, so that neither its JSON nor its long list of features is read anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from service.prepared import Prepared

#: Bodies that are known, and how long such a body may be.
_MAX_SHAPES, _MAX_BYTES = 1000, 20_000
#: A text that is in JSON what it is itself.
_PLAIN = re.compile(rb'"[ !#-\[\]-~]*"').fullmatch


#: Digits of the whole numbers that surely fit in a type.
_DIGITS = {"INT32": 9, "INT64": 18}


class _Shape(NamedTuple):
    """What a body means: the key's column; its digits, 0 for a text; the answer around the key."""

    prepared: Prepared
    column: str
    digits: int
    before: bytes
    after: bytes


class Known(NamedTuple):
    """A request that was understood: all that the long way would have made of it.

    head: the answer up to its features; None where `Prepared.answers` does not fit.
    """

    prepared: Prepared
    n: int
    entities: Mapping[str, Sequence[Any]]
    commands: list[bytes]
    head: bytes | None
    provenance: bool = False


class Shapes:
    """The bodies that one catalogue's requests had."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Shape] = {}

    def find(self, body: bytes) -> Known | None:
        """What a body means, where only the key differs from one that was learned."""
        at = body.rfind(b"[") + 1
        end = body.find(b"]", at)
        shape = self._known.get(body[:at] + body[end:])
        if shape is None:
            return None
        token = body[at:end]
        if not shape.digits:
            if not _PLAIN(token):
                return None
            text = b"{%b}" % token[1:-1]
        elif _is_whole(token, shape.digits):
            text = b"{%b}" % token
        else:
            return None
        entities = {shape.column: [orjson.loads(token)]}
        head = b"%b%b%b" % (shape.before, token, shape.after)
        return Known(shape.prepared, 1, entities, [shape.prepared.command(text)], head)

    def learn(self, body: bytes, known: Known) -> None:
        """Remember a body, if another key in it would change nothing else."""
        prepared, entities = known.prepared, known.entities
        names = tuple(entities)
        if known.head is None or len(body) > _MAX_BYTES or names != prepared.one_key:
            return
        if len(names) != 1:  # a view of several keys, or of none
            return
        (column,) = names
        kind = prepared.plan.key_types[column]
        text, digits = kind == "STRING", _DIGITS.get(kind, 0)
        if not text and not digits:
            return
        at = body.rfind(b"[") + 1
        end = body.find(b"]", at)
        token = body[at:end]
        if token != orjson.dumps(entities[column][0]):
            return
        if not (_PLAIN(token) if text else _is_whole(token, digits)):
            return
        # Proved by reading the body with another key.
        other = b'"~' + token[1:] if text else b"%d" % (entities[column][0] ^ 1)
        found, probe = (orjson.loads(body[:at] + one + body[end:]) for one in (token, other))
        if probe.pop("entities") != {column: [orjson.loads(other)]}:
            return
        found.pop("entities")
        if found != probe:
            return
        if len(self._known) >= _MAX_SHAPES:
            self._known.clear()
        before, _, after = (prepared.head({column: []}) or b"").partition(b'"values":[]')
        self._known[body[:at] + body[end:]] = _Shape(
            prepared, column, digits, before + b'"values":[', b"]" + after
        )


def _is_whole(token: bytes, digits: int) -> bool:
    """Whether a text is a whole number as JSON and Redis's keys have it, of so many digits."""
    return token.isdigit() and len(token) <= digits and (token[0] != 48 or len(token) == 1)
