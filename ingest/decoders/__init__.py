"""Kafka messages to Arrow columns by a source's message format; what is rejected has its reason."""

from __future__ import annotations

from headwater.catalog import StreamSourcePlan
from headwater.settings import Settings
from ingest.decoders.columns import Decoded, Decoder
from ingest.decoders.json import JsonDecoder

__all__ = ["Decoded", "Decoder", "make_decoder"]


def make_decoder(stream: StreamSourcePlan, settings: Settings) -> Decoder:
    """The decoder of a source's messages. Raises DefinitionError where its plan makes none."""
    return JsonDecoder(stream)
