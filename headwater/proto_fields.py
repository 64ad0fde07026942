"""What columns a Protobuf message offers, and its descriptors as bytes that need no user code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from headwater.message_fields import Leaf

TIMESTAMP = "google.protobuf.Timestamp"
_SCALARS = {
    FieldDescriptor.TYPE_DOUBLE: "DOUBLE", FieldDescriptor.TYPE_FLOAT: "FLOAT",
    FieldDescriptor.TYPE_INT64: "INT64", FieldDescriptor.TYPE_UINT64: "INT64",
    FieldDescriptor.TYPE_INT32: "INT32", FieldDescriptor.TYPE_FIXED64: "INT64",
    FieldDescriptor.TYPE_FIXED32: "INT64", FieldDescriptor.TYPE_BOOL: "BOOL",
    FieldDescriptor.TYPE_STRING: "STRING", FieldDescriptor.TYPE_BYTES: "BYTES",
    FieldDescriptor.TYPE_UINT32: "INT64", FieldDescriptor.TYPE_ENUM: "STRING",
    FieldDescriptor.TYPE_SFIXED32: "INT32", FieldDescriptor.TYPE_SFIXED64: "INT64",
    FieldDescriptor.TYPE_SINT32: "INT32", FieldDescriptor.TYPE_SINT64: "INT64",
}  # fmt: skip
#: Messages that stand for a scalar that may be null.
WRAPPERS = {
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
}


def leaves(descriptor: Descriptor) -> list[Leaf]:
    """A message's fields in order, nested messages flattened."""
    return list(_message(descriptor, (), (descriptor.full_name,)))


def _message(
    descriptor: Descriptor, path: tuple[str, ...], above: tuple[str, ...]
) -> Iterator[Leaf]:
    for field in descriptor.fields:
        at, inner = (*path, field.name), field.message_type
        if inner is None:
            yield _leaf(at, field, _SCALARS[field.type], "enum" if field.enum_type else "")
        elif inner.GetOptions().map_entry:
            yield Leaf(at, "", reason="it is a map")
        elif inner.full_name == TIMESTAMP:
            yield _leaf(at, field, "UNIX_TIMESTAMP", "timestamp")
        elif inner.full_name in WRAPPERS:
            yield _leaf(at, field, _SCALARS[inner.fields_by_name["value"].type], "wrapper")
        elif field.is_repeated:
            yield Leaf(at, "", reason="it is a list of messages")
        elif inner.full_name in above:
            yield Leaf(at, "", reason="it is a message that contains itself")
        else:
            yield from _message(inner, at, (*above, inner.full_name))


def _leaf(path: tuple[str, ...], field: FieldDescriptor, value_type: str, unit: str) -> Leaf:
    return Leaf(path, f"{value_type}_LIST" if field.is_repeated else value_type, unit)


def pack(descriptor: Descriptor) -> bytes:
    """A serialized FileDescriptorSet of the message's file and all that it imports."""
    files: dict[str, FileDescriptor] = {}

    def collect(file: FileDescriptor) -> None:
        if file.name not in files:
            for needed in file.dependencies:
                collect(needed)
            files[file.name] = file

    collect(descriptor.file)
    found = FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(found.file.add())
    return bytes(found.SerializeToString(deterministic=True))


def message_class(descriptors: bytes, name: str) -> Any:
    """The message class `name` of a `pack`ed set, in a descriptor pool of its own."""
    pool = descriptor_pool.DescriptorPool()
    for file in FileDescriptorSet.FromString(descriptors).file:
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
