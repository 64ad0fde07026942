"""What calls over gRPC ask for. Pure."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from headwater.errors import BadRequestError
from headwater.value_messages import to_plain
from service.rpc.protos import message
from service.vectors import Asked

SERVING = "feast.serving.ServingService"
#: The service of Feast's own Python server; it has no package.
FEATURE_SERVER = "GrpcFeatureServer"


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
