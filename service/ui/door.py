"""What every request for a page passes: who asks, from where, and what the browser may load."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headwater.errors import StoreUnavailableError
from service.access import PAGES, SIGN_IN, Key, scope_of
from service.running import Service
from service.ui.session import COOKIE, Sessions, cross_site

#: No inline script or style, nothing from another host, in no other site's frame.
POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
STATIC = PAGES + "/static/"

#: Renders a refusal: request, status, title, what would be right.
Refuse = Callable[[Request, int, str, str], Response]


class Keeper:
    """Knows the sessions, once Redis has given their secret."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sessions: Sessions | None = None

    async def sessions(self) -> Sessions:
        """Raises StoreUnavailableError while nobody knows the secret."""
        if self._sessions is None:
            link, project = self._service.link, self._service.planner.catalog.project
            name = f"headwater:{project}:sessions".encode()
            await link.get(b"SET", name, secrets.token_bytes(32), b"NX")
            secret = await link.get(b"GET", name)
            self._sessions = Sessions(self._service.access, bytes(secret))
        return self._sessions

    async def key_of(self, headers: Any) -> Key | None:
        """The key of a request: of its header, as at the API, or of its cookie."""
        presented = self._service.access.key_of(headers)
        if presented is not None:
            return presented
        cookie = _cookie(headers)
        return (await self.sessions()).key_of(cookie, time.time()) if cookie else None


class Door:
    """ASGI middleware of the pages; without API keys everybody may do everything."""

    def __init__(self, app: ASGIApp, service: Service, keeper: Keeper, refuse: Refuse) -> None:
        self._app, self._service, self._keeper, self._refuse = app, service, keeper, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        request.state.key = None
        answer: ASGIApp = await self._stopped(request) or self._app
        await answer(scope, receive, _with_headers(send, request))

    async def _stopped(self, request: Request) -> Response | None:
        """The answer to a request that goes no further."""
        path, method = request.url.path, request.method
        if method not in {"GET", "HEAD"} and cross_site(request.scope["headers"]):
            return self._refuse(
                request, 403, "That came from another site", "Open the page here and try again."
            )
        wanted = scope_of(method, path)
        if not self._service.access or path.startswith(STATIC):
            return None
        try:
            key = await self._keeper.key_of(request.scope["headers"])
        except StoreUnavailableError as error:
            return self._refuse(request, 503, "Redis does not answer", str(error))
        request.state.key = key
        if wanted is None or (key is not None and wanted in key.scopes):
            return None
        if key is None:
            return _to_sign_in(request)
        return self._refuse(
            request, 403, f"The key {key.name} may not do this",
            f"It lacks the scope “{wanted}”. Sign in with a key that has it.",
        )  # fmt: skip


def _to_sign_in(request: Request) -> Response:
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"HX-Redirect": SIGN_IN})
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    here = wanted if request.method == "GET" else PAGES + "/"
    return RedirectResponse(f"{SIGN_IN}?next={quote(here, safe='/')}", 303)


def _with_headers(send: Send, request: Request) -> Send:
    fixed = request.url.path.startswith(STATIC) and "v=" in request.url.query
    cache = b"public, max-age=31536000, immutable" if fixed else b"private, no-cache"

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            found = fixed and message["status"] < 400
            headers = [*HEADERS, (b"cache-control", cache if found else b"private, no-cache")]
            message = {**message, "headers": [*message["headers"], *headers]}
        await send(message)

    return sending


def _cookie(headers: Any) -> str:
    for name, value in headers:
        if name == b"cookie":
            try:
                found = SimpleCookie(value.decode("latin-1")).get(COOKIE)
            except CookieError:
                return ""
            return found.value if found else ""
    return ""
