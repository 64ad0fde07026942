"""The gRPC server: who may call what, how each outcome is said, health and reflection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import orjson
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from headwater import __version__
from headwater.errors import BadRequestError, HeadwaterError, StoreUnavailableError
from service.access import ANONYMOUS
from service.replies import Reply, failed, refused
from service.rpc import messages, protos, rows, wire
from service.rpc.messages import FEATURE_SERVER, SERVING
from service.running import Service
from service.vectors import Form, Wishes

VECTORS = Form(
    messages.asked, wire.answer, "application/grpc", f"/{SERVING}/GetOnlineFeatures", "gRPC"
)
#: What a call needs; calls that are not named here need "read".
SCOPES: dict[str, str | None] = {
    f"/{FEATURE_SERVER}/Push": "write",
    f"/{FEATURE_SERVER}/WriteToOnlineStore": "write",
    "/grpc.health.v1.Health/Check": None,
    "/grpc.health.v1.Health/Watch": None,
}
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED, 404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED, 422: grpc.StatusCode.INVALID_ARGUMENT,
    503: grpc.StatusCode.UNAVAILABLE,
}  # fmt: skip
#: Running calls are waited for so long at the end.
_GRACE_SECONDS = 5.0
_HEALTH_SECONDS = 1.0


class RpcServer:
    """Serves `service` on its gRPC port, in the event loop that starts it."""

    def __init__(self, service: Service, shared_port: bool) -> None:
        self._service, self._settings = service, service.settings
        self._under_way = 0
        access = service.access
        self._server = grpc.aio.server(
            interceptors=[_KeyCheck(access)] if access else None,
            options=[
                ("grpc.max_receive_message_length", self._settings.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", int(shared_port)),
            ],
        )
        self._health = health.aio.HealthServicer()
        self._add_methods()
        self._tasks: list[asyncio.Task[None]] = []

    def _add_methods(self) -> None:
        server = self._server
        handlers = {
            SERVING: {
                "GetFeastServingInfo": self._called(f"/{SERVING}/GetFeastServingInfo", self._info),
                "GetOnlineFeatures": _unary(self._vectors),
            },
            FEATURE_SERVER: {
                "GetOnlineFeatures": _unary(self._vectors),
                "Push": self._called(f"/{FEATURE_SERVER}/Push", self._push),
                "WriteToOnlineStore": self._called(
                    f"/{FEATURE_SERVER}/WriteToOnlineStore", self._write
                ),
            },
        }
        for name, methods in handlers.items():
            handler = grpc.method_handlers_generic_handler(name, methods)
            server.add_generic_rpc_handlers((handler,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        protos.add_to_pool(health_pb2, reflection_pb2)
        names = (*handlers, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection.aio.ReflectionServicer(names, protos.pool()), server
        )

    async def start(self) -> None:
        """Listen. Raises HeadwaterError where the port is taken or a TLS file is no good."""
        settings = self._settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{host}:{settings.grpc_port}"
        try:
            if settings.tls_cert:
                pair = Path(settings.tls_key).read_bytes(), Path(settings.tls_cert).read_bytes()
                self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
            else:
                self._server.add_insecure_port(address)
        except (RuntimeError, OSError) as error:
            raise HeadwaterError(
                f"gRPC cannot listen on {address} ({error}); stop what listens there, or set "
                "HEADWATER_GRPC_PORT to a port that is free"
            ) from error
        await self._server.start()
        self._tasks.append(asyncio.create_task(self._watch_health()))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(_GRACE_SECONDS)

    async def _watch_health(self) -> None:
        """Say NOT_SERVING while /ready would be 503."""
        states = health_pb2.HealthCheckResponse
        while True:
            try:
                await self._service.check_ready()
                state = states.SERVING
            except StoreUnavailableError:
                state = states.NOT_SERVING
            for name in ("", SERVING, FEATURE_SERVER):
                await self._health.set(name, state)
            await asyncio.sleep(_HEALTH_SECONDS)

    async def _vectors(self, data: bytes, context: Any) -> bytes:
        left = context.time_remaining()
        deadline = None if left is None else asyncio.get_running_loop().time() + left
        access = self._service.access
        caller = access.caller(_headers(context.invocation_metadata())) if access else ANONYMOUS
        reply = await self._service.vectors.answer(data, Wishes(deadline, VECTORS, caller))
        return reply.body if reply.status == 200 else await _abort(context, reply)

    async def _info(self, _: bytes) -> Any:
        version = f"headwater {__version__}"
        return protos.message("feast.serving.GetFeastServingInfoResponse")(version=version)

    async def _push(self, data: bytes) -> Any:
        request = messages.read("PushRequest", data)
        source = request.stream_feature_view
        views = self._service.planner.catalog.views_of_push(source)
        to = request.to or "online"
        df = rows.frame(request, views)
        await self._service.push({"push_source_name": source, "df": df, "to": to})
        return protos.message("PushResponse")(status=True)

    async def _write(self, data: bytes) -> Any:
        request = messages.read("WriteToOnlineStoreRequest", data)
        name = request.feature_view_name
        view = self._service.planner.catalog.views.get(name)
        df = rows.frame(request, [view] if view else [])
        await self._service.write({"feature_view_name": name, "df": df})
        return protos.message("WriteToOnlineStoreResponse")(status=True)

    def _called(self, route: str, call: Callable[[bytes], Awaitable[Any]]) -> Any:
        """A method that is bounded, counted, and whose errors are statuses."""
        metrics, limit = self._service.metrics, self._settings.max_concurrent_requests

        async def method(data: bytes, context: Any) -> bytes:
            start, reply, answer = time.perf_counter(), None, b""
            self._under_way += 1
            try:
                if self._under_way > limit:
                    reply = failed(f"{limit} calls are under way; try again shortly", 503, 1)
                else:
                    answer = (await call(data)).SerializeToString()
            except BadRequestError as error:
                reply = refused(error)
            except StoreUnavailableError as error:
                metrics.store_errors.labels("redis", "request", "unavailable").inc()
                reply = failed(str(error), 503, 1)
            except HeadwaterError as error:
                reply = failed(str(error), 422)
            finally:
                self._under_way -= 1
            status = reply.status if reply else 200
            metrics.seconds.labels(route, "gRPC", f"{status // 100}xx").observe(
                time.perf_counter() - start
            )
            return await _abort(context, reply) if reply else answer

        return _unary(method)


def _unary(method: Any) -> Any:
    """A method over bytes: what is read and written needs no message objects."""
    return grpc.unary_unary_rpc_method_handler(method)


async def _abort(context: Any, reply: Reply) -> bytes:
    """End a call with the status and the text of an HTTP answer."""
    said = orjson.loads(reply.body)
    detail = said["detail"] if isinstance(said, dict) else orjson.loads(said)["message"]
    # gRPC's own word for Retry-After: milliseconds, heeded by clients that retry.
    again = (
        (("grpc-retry-pushback-ms", str(reply.retry_after * 1000)),) if reply.retry_after else ()
    )
    await context.abort(_CODES.get(reply.status, grpc.StatusCode.INTERNAL), detail, again)
    return b""


def _headers(metadata: Any) -> list[tuple[bytes, bytes]]:
    """A call's metadata as HTTP has headers."""
    return [
        (key.encode(), value.encode() if isinstance(value, str) else value)
        for key, value in metadata
    ]


class _KeyCheck(grpc.aio.ServerInterceptor):
    """Turns calls away whose API key (metadata, as HTTP's headers) lacks the scope."""

    def __init__(self, access: Any) -> None:
        self._access = access

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        scope = SCOPES.get(details.method, "read")
        refusal = None
        if scope is not None:
            refusal = self._access.refuse(_headers(details.invocation_metadata), scope)
        if refusal is None:
            return await continuation(details)
        reply = failed(refusal.detail, refusal.status)

        async def refuse(_: Any, context: Any) -> bytes:
            return await _abort(context, reply)

        return grpc.stream_unary_rpc_method_handler(refuse)
