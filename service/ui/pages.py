"""The frame of the pages: templates, navigation, sign-in, and errors that help."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from headwater import __version__
from headwater.catalog import Catalog
from headwater.errors import BadRequestError, HeadwaterError, StoreUnavailableError
from service.access import PAGES
from service.budgets import PastObjectiveError
from service.observed import Observed
from service.running import Service
from service.ui import texts
from service.ui.door import Door, Keeper
from service.ui.session import COOKIE, LASTS

_HERE = Path(__file__).parent
#: Titles of refusals by status; others are "That does not work".
_TITLES = {
    404: "There is no such page",
    405: "That cannot be done here",
    413: "That is too large",
    422: "That cannot be read",
    500: "This page failed",
    503: "Not just now",
}
_REMEDIES = {
    404: "It may have been renamed, or not be in this version of the catalogue. Search for it.",
    405: "Go back and use the buttons there.",
    500: "The fault is ours; the log of the service says what it was.",
}


class Entry(NamedTuple):
    """One place of the navigation."""

    address: str
    name: str


class Pages:
    """What page modules build on: `ui` takes their routes, `render` makes their HTML.

    Their routes are plain functions, which run in threads: a page never holds up the requests for
    features on the event loop.
    """

    def __init__(self, service: Service, observed: Observed) -> None:
        self.service, self.observed = service, observed
        self.navigation: list[Entry] = []
        self._templates = _templates()
        self.ui = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        self._keeper = Keeper(service)
        self.ui.add_middleware(Door, service=service, keeper=self._keeper, refuse=self.refusal)
        self.ui.mount("/static", StaticFiles(directory=_HERE / "static"))
        _add_errors(self.ui, self.refusal)
        self._add_sign_in()

    @property
    def catalog(self) -> Catalog:
        """The catalogue in use."""
        return self.service.planner.catalog

    def render(
        self, request: Request, template: str, context: dict[str, Any], status: int = 200
    ) -> Response:
        """A page, or for a template without a frame a part of one."""
        frame = {
            "project": self.catalog.project,
            "catalog_version": self.catalog.version,
            "version": __version__,
            "navigation": self.navigation,
            "here": request.url.path,
            "key": request.state.key,
            "now": time.time(),
        }
        html = self._templates.get_template(template).render({**frame, **context})
        return HTMLResponse(html, status)

    def refusal(self, request: Request, status: int, title: str, remedy: str) -> Response:
        """The page that says what was wrong and what would be right."""
        context = {"status": status, "title": title, "remedy": remedy}
        return self.render(request, "error.html", context, status)

    async def form(self, request: Request) -> dict[str, str]:
        """The fields of a form that was sent url-encoded. Raises BadRequestError (413)."""
        text = (await self.service.raw_body(request)).decode("utf-8", "replace")
        return dict(parse_qsl(text, keep_blank_values=True))

    def _add_sign_in(self) -> None:
        ui, access = self.ui, self.service.access

        @ui.get("/sign-in")
        def sign_in(request: Request, next: str = "") -> Response:  # noqa: A002 - the query's name
            """Asks for an API key."""
            context = {"next": _local(next), "wrong": False, "needed": bool(access)}
            return self.render(request, "sign-in.html", context)

        @ui.post("/sign-in")
        async def signed_in(request: Request) -> Response:
            """Sets the cookie of the key."""
            form = await self.form(request)
            key = access.known(form.get("key", "").strip().encode())
            if key is None:
                context = {"next": _local(form.get("next", "")), "wrong": True, "needed": True}
                return self.render(request, "sign-in.html", context, 401)
            answer = RedirectResponse(_local(form.get("next", "")), 303)
            answer.set_cookie(
                COOKIE, (await self._keeper.sessions()).issue(key, time.time()), LASTS, path=PAGES,
                secure=request.url.scheme == "https", httponly=True, samesite="strict",
            )  # fmt: skip
            return answer

        @ui.post("/sign-out")
        def sign_out(request: Request) -> Response:
            """Forgets the key."""
            answer = RedirectResponse(PAGES + "/sign-in", 303)
            answer.delete_cookie(COOKIE, PAGES, httponly=True, samesite="strict")
            return answer


def _local(address: str) -> str:
    """Only pages of ours are gone on to."""
    fine = address.startswith(PAGES + "/") and "\\" not in address and address.isprintable()
    return address if fine else PAGES + "/"


def _templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    files = sorted(path for path in (_HERE / "static").rglob("*") if path.is_file())
    stamp = hashlib.blake2b(b"".join(path.read_bytes() for path in files), digest_size=6)
    # A new version of a file has a new address, so that browsers may keep the old one for ever.
    templates.globals["static"] = lambda name: f"{PAGES}/static/{name}?v={stamp.hexdigest()}"
    templates.filters.update(texts.FILTERS)
    return templates


def _add_errors(ui: FastAPI, refusal: Callable[[Request, int, str, str], Response]) -> None:
    def refused(request: Request, status: int, text: str) -> Response:
        title = _TITLES.get(status, "That does not work")
        return refusal(request, status, title, _REMEDIES.get(status, text))

    @ui.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return refused(request, error.status_code, str(error.detail))

    @ui.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return refused(request, 422, f"{first['loc'][-1]}: {first['msg']}.")

    @ui.exception_handler(BadRequestError)
    async def mistaken(request: Request, error: BadRequestError) -> Response:
        title = _TITLES.get(error.status, "That does not work")
        return refusal(request, error.status, title, texts.sentence(str(error)))

    @ui.exception_handler(StoreUnavailableError)
    async def unavailable(request: Request, error: StoreUnavailableError) -> Response:
        return refusal(request, 503, "Redis does not answer", texts.sentence(str(error)))

    @ui.exception_handler(PastObjectiveError)
    async def past(request: Request, error: PastObjectiveError) -> Response:
        return refusal(request, 503, "Past its objective", texts.sentence(str(error)))

    @ui.exception_handler(HeadwaterError)
    async def failed(request: Request, error: HeadwaterError) -> Response:
        return refusal(request, 422, "That does not work", texts.sentence(str(error)))

    @ui.exception_handler(Exception)
    async def broken(request: Request, _: Exception) -> Response:
        return refused(request, 500, "")
