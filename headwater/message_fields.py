"""The columns that a message schema, Avro's or Protobuf's, offers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from headwater.catalog import FieldPlan
from headwater.errors import DefinitionError


class Leaf(NamedTuple):
    """A field that a column can be made of, or the reason why none can.

    path: its place in the message; nested fields are named with dots. type: the Feast value type,
    "" where there is none, and then `reason` tells why. unit: how the message spells the value
    where that is not how a column holds it, such as "ms" or "decimal".
    """

    path: tuple[str, ...]
    type: str
    unit: str = ""
    reason: str = ""

    @property
    def name(self) -> str:
        return ".".join(self.path)


def choose(source: str, leaves: Sequence[Leaf], needed: Iterable[str]) -> tuple[FieldPlan, ...]:
    """The fields of a source. What can be no column is left out like any field that nobody knows.

    Raises DefinitionError where it is among `needed`: the fields that views use by name.
    """
    wanted = set(needed)
    for leaf in leaves:
        if leaf.reason and wanted & {leaf.name, leaf.path[0]}:
            raise DefinitionError(
                f"Kafka source {source!r}",
                f"its field {leaf.name!r} can be no feature: {leaf.reason}",
                "Use a scalar, a list of scalars, or a nested field by its dotted name",
            )
    return tuple(FieldPlan(leaf.name, leaf.type) for leaf in leaves if not leaf.reason)
