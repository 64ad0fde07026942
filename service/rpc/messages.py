"""Feast's messages for serving, from its descriptors, without importing Feast. Pure.

`feast.binpb` is a FileDescriptorSet of the protos in the installed Feast; a test holds it to them
(`python -m tests.serving.descriptors` makes it anew). They live in a pool of their own, so that
nothing collides where Feast is imported as well.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from headwater.errors import BadRequestError
from headwater.value_messages import to_plain
from service.vectors import Asked

SERVING = "feast.serving.ServingService"
#: The service of Feast's own Python server; it has no package.
FEATURE_SERVER = "GrpcFeatureServer"
_DESCRIPTORS = Path(__file__).with_name("feast.binpb")


@cache
def pool() -> DescriptorPool:
    made = DescriptorPool()
    for file in FileDescriptorSet.FromString(_DESCRIPTORS.read_bytes()).file:
        made.Add(file)
    return made


def add_to_pool(*modules: Any) -> None:
    """The files of generated modules, so that reflection shows their services too."""
    for module in modules:
        pool().Add(FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb))


@cache
def message(name: str) -> Any:
    """The class of a message by its full name."""
    return GetMessageClass(pool().FindMessageTypeByName(name))


def read(name: str, data: bytes) -> Any:
    """A message from its bytes. Raises BadRequestError (400)."""
    try:
        return message(name).FromString(data)
    except DecodeError as error:
        raise BadRequestError(f"the message is no {name}: {error}", 400) from error


def asked(data: bytes) -> Asked:
    """A GetOnlineFeaturesRequest; `request_context` counts as entities do."""
    request = read("feast.serving.GetOnlineFeaturesRequest", data)
    given = {**request.request_context, **request.entities}
    # A map has no order of its own.
    entities = {name: [to_plain(v) for v in given[name].val] for name in sorted(given)}
    service = request.feature_service if request.HasField("feature_service") else None
    return Asked(service, list(request.features.val), request.full_feature_names, entities)
