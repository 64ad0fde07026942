"""Kafka messages to Arrow columns by a source's message format; what is rejected has its reason."""

from __future__ import annotations

from headwater.catalog import StreamSourcePlan
from headwater.settings import Settings
from ingest.decoders.avro import AvroDecoder
from ingest.decoders.columns import Decoded, Decoder
from ingest.decoders.json import JsonDecoder
from ingest.decoders.proto import ProtoDecoder
from ingest.decoders.registry import SchemaRegistry

__all__ = ["Decoded", "Decoder", "make_decoder"]


def make_decoder(stream: StreamSourcePlan, settings: Settings) -> Decoder:
    """The decoder of a source's messages. Raises DefinitionError where its plan makes none."""
    if stream.format == "avro":
        url = settings.schema_registry_url
        return AvroDecoder(stream, SchemaRegistry(url) if url else None)
    return ProtoDecoder(stream) if stream.format == "proto" else JsonDecoder(stream)
