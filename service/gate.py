"""What every request passes first: who asks, how many at once, and how long it took."""

from __future__ import annotations

import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access import PAGES, ROUTES, Access, is_page, scope_of
from service.metrics import Metrics
from service.replies import Reply, failed

#: Methods that a series may have; whoever calls may send any word.
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Gate:
    """ASGI middleware; the short way of `service.protocol` asks `refuse` and counts by itself."""

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics, limit: int) -> None:
        self._app, self._access, self._metrics, self._limit = app, access, metrics, limit
        self._under_way = 0
        self._level = metrics.in_flight.labels("other")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        path = scope["path"]
        refused = refuse(self._access, scope["method"], path, scope["headers"])
        if refused is None and self._under_way >= self._limit and ROUTES.get(path, "") is not None:
            refused = failed(f"{self._under_way} requests are under way", 503, 1)
        self._under_way += 1
        self._level.add(1)
        try:
            if refused is not None:
                await _send(watched, refused)
            else:
                await self._app(scope, receive, watched)
        finally:
            self._under_way -= 1
            self._level.add(-1)
            found = getattr(scope.get("route"), "path", "unknown")
            route = f"{PAGES}{found}" if is_page(path) and found != "unknown" else found
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.seconds.labels(route, method, f"{status // 100}xx").observe(
                time.perf_counter() - start
            )


def admit(access: Access, headers: Any) -> str | Reply:
    """Whose a request for features is, or the answer to one that may not."""
    found = access.admit(headers, ROUTES["/get-online-features"] or "")
    return found if isinstance(found, str) else failed(found.detail, found.status)


def refuse(access: Access, method: str, path: str, headers: Any) -> Reply | None:
    """The answer to a request that may not; None where it may, and for pages: their door asks."""
    scope = scope_of(method, path)
    if scope is None or not access or is_page(path):
        return None
    refusal = access.refuse(headers, scope)
    return None if refusal is None else failed(refusal.detail, refusal.status)


async def _send(send: Send, reply: Reply) -> None:
    headers = [(b"content-type", reply.media_type.encode()), *reply.headers()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
