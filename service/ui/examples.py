"""Entities for the examples of the pages: ones that are held, so that what is copied answers."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

from headwater.errors import StoreUnavailableError
from headwater.online.samples import entity_of
from headwater.online.values import ViewReader
from headwater.online.writer import OnlineWriter
from service.requests import FeaturePlan
from service.ui import snippets

#: An entity is shown for so long before another is looked for.
_LASTS_SECONDS = 60.0
#: How keys that are numbers in JSON come from their texts.
NUMBERS = {"INT32": int, "INT64": int, "FLOAT": float, "DOUBLE": float, "UNIX_TIMESTAMP": int}


class Examples:
    """One entity of each view, looked for when it is asked for."""

    def __init__(self, writer: Callable[[], OnlineWriter]) -> None:
        self._writer = writer
        self._held: dict[bytes, tuple[float, list[bytes] | None]] = {}

    def of(self, plan: FeaturePlan) -> dict[str, Any]:
        """A value for each key that a request must name, as JSON has it: of an entity that the
        first view with that key holds. Nothing for keys of views that hold none."""
        found: dict[str, Any] = {}
        for read in plan.reads:
            if set(read.columns) <= found.keys():
                continue
            texts = self._entity(read.reader)
            for name, text in zip(read.columns, texts or (), strict=False):
                found.setdefault(name, _value(plan.key_types[name], text))
        return found

    def entities(self, plan: FeaturePlan) -> dict[str, list[Any]]:
        """The entities of a request that answers something where it can."""
        held = self.of(plan)
        kinds = {**plan.key_types, **plan.request_types}
        return {name: [held.get(name, snippets.sample(kind))] for name, kind in kinds.items()}

    def _entity(self, reader: ViewReader) -> list[bytes] | None:
        until, texts = self._held.get(reader.prefix, (0.0, None))
        if time.monotonic() > until:
            try:
                texts = entity_of(self._writer(), reader)
            except StoreUnavailableError:
                return None  # the page says so elsewhere, and shows a made-up one
            self._held[reader.prefix] = (time.monotonic() + _LASTS_SECONDS, texts)
        return texts


def _value(kind: str, text: bytes) -> Any:
    """A key's text as a request in JSON would have it."""
    if kind in NUMBERS:
        return NUMBERS[kind](text)
    if kind == "BOOL":
        return text == b"1"
    if kind == "BYTES":
        return base64.b64encode(text).decode()
    return text.decode("utf-8", "replace")
