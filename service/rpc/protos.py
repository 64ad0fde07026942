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
from google.protobuf.message_factory import GetMessageClass

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
