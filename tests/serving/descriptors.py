"""Makes `service/rpc/feast.binpb` from the installed Feast's own protos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

FILE = Path(__file__).parents[2] / "service" / "rpc" / "feast.binpb"


def of_feast() -> bytes:
    """A FileDescriptorSet of what the service speaks, each file after those that it imports."""
    from feast.protos.feast.serving import GrpcServer_pb2

    files: dict[str, FileDescriptorProto] = {}

    def add(descriptor: Any) -> None:
        for one in descriptor.dependencies:
            add(one)
        if descriptor.name not in files:
            files[descriptor.name] = FileDescriptorProto.FromString(descriptor.serialized_pb)

    add(GrpcServer_pb2.DESCRIPTOR)
    return FileDescriptorSet(file=files.values()).SerializeToString()


if __name__ == "__main__":
    FILE.write_bytes(of_feast())
