"""Feature views over HTTP: what there is, and registering views without a repository at hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson
from fastapi import FastAPI, Request, Response

from headwater import catalog_cache, registered
from headwater.catalog import Catalog, ViewPlan
from headwater.changes import Change, compare
from headwater.definition_checks import Problem, check
from headwater.errors import BadRequestError, DefinitionError
from service import openapi

_REFUSED: dict[int | str, dict[str, Any]] = {
    409: {"description": "it is the repository's, or it breaks what is served"}
}


class Registrar:
    """Changes the definitions of one repository's service, one at a time."""

    def __init__(self, repo: Path, reload: Callable[[], Awaitable[None]]) -> None:
        self._repo, self._reload = repo, reload
        self._lock = asyncio.Lock()

    async def put(self, body: bytes, force: bool, dry_run: bool) -> tuple[int, dict[str, Any]]:
        """Check a definition and write it; (HTTP status, what changes).

        Raises BadRequestError for what cannot be, and for what breaks without `force` (409).
        """
        try:
            wanted = msgspec.json.decode(body, type=registered.Definition)
        except msgspec.DecodeError as error:
            raise BadRequestError(f"the body is no definition: {error}") from error
        async with self._lock:
            change, advice = await asyncio.to_thread(self._judge, wanted)
            if change is None:
                return 200, {"name": wanted.name, "change": None}
            _refuse(change, force)
            if not dry_run:
                await asyncio.to_thread(registered.write, self._repo, wanted)
                await self._reload()
        answer = {**msgspec.to_builtins(change), "advice": advice, "dry_run": dry_run}
        if wanted.source.batch:
            answer["next"] = "POST /materialize loads its rows"
        else:
            answer["next"] = "a running worker fills it from the log; then it is servable"
        return 201 if change.change == "add" and not dry_run else 200, answer

    def _judge(self, wanted: registered.Definition) -> tuple[Change | None, list[str]]:
        own = catalog_cache.load_own(self._repo)
        if wanted.name in registered.taken(own):
            raise BadRequestError(
                f"{wanted.name!r} is an object of the repository; change it there, or take "
                "another name", 409,
            )  # fmt: skip
        try:
            view = registered.plan(wanted, own)
        except DefinitionError as error:
            raise BadRequestError(str(error)) from error
        held = registered.read(self._repo)
        before = registered.merged(own, held)
        after = msgspec.structs.replace(own, views={**before.views, view.name: view})
        found = [p for p in check(after) if (p.kind, p.name) == ("feature view", view.name)]
        wrong = [_text(problem) for problem in found if problem.wrong]
        if wrong:
            raise BadRequestError(" ".join(wrong))
        changes = compare(before, after)
        return (changes[0] if changes else None), [_text(p) for p in found]

    async def delete(self, name: str, force: bool) -> None:
        """Raises BadRequestError where there is none (404), and without `force` (409)."""
        async with self._lock:
            held = await asyncio.to_thread(registered.read, self._repo)
            if name not in held:
                raise BadRequestError(f"no feature view {name!r} was registered over HTTP", 404)
            if not force:
                raise BadRequestError(
                    f"requests for the features of {name!r} would fail; delete with ?force=true",
                    409,
                )
            await asyncio.to_thread(registered.delete, self._repo, name)
            await self._reload()


def _refuse(change: Change, force: bool) -> None:
    if change.broken and not force:
        raise BadRequestError(
            f"refused, since it breaks what is served: {'; '.join(change.broken)}. "
            "Register a view under another name, or send ?force=true", 409,
        )  # fmt: skip


def _text(problem: Problem) -> str:
    field = f"{problem.field}: " if problem.field else ""
    return f"{field}{problem.text}. {problem.remedy}."


def add(
    app: FastAPI, repo: Path, catalog: Callable[[], Catalog],
    reload: Callable[[], Awaitable[None]], raw_body: Callable[[Request], Awaitable[bytes]],
) -> None:  # fmt: skip
    """Add the routes; `reload` takes what was written into use."""
    registrar = Registrar(repo, reload)

    @app.get("/api/v1/feature-views", tags=["catalogue"])
    async def feature_views() -> Response:
        """Every feature view, the repository's and those registered over HTTP."""
        names = await asyncio.to_thread(registered.read, repo)
        views = catalog().views.values()
        return _json([_row(view, view.name in names) for view in views])

    @app.post(
        "/api/v1/feature-views", tags=["catalogue"], openapi_extra=openapi.FEATURE_VIEW,
        status_code=201, responses={**_REFUSED, 200: {"description": "changed, or a dry run"}},
    )  # fmt: skip
    async def register_feature_view(
        request: Request, force: bool = False, dry_run: bool = False
    ) -> Response:
        """Register a view on the repository's entities and sources, or change one that was.

        Answers what changes, as `headwater plan` does; `?dry_run=true` writes nothing. What
        breaks is refused (409) without `?force=true`.
        """
        status, answer = await registrar.put(await raw_body(request), force, dry_run)
        return _json(answer, status)

    @app.delete(
        "/api/v1/feature-views/{name}", tags=["catalogue"], status_code=204, responses=_REFUSED
    )
    async def delete_feature_view(name: str, force: bool = False) -> Response:
        """Take a view back that was registered over HTTP."""
        await registrar.delete(name, force)
        return Response(status_code=204)


def _row(view: ViewPlan, over_http: bool) -> dict[str, Any]:
    return {
        "name": view.name,
        "kind": view.kind,
        "registered": "over HTTP" if over_http else "by the repository",
        "join_keys": [{"name": key.name, "type": key.type} for key in view.join_keys],
        "features": [msgspec.to_builtins(field) for field in view.features],
        "aggregations": [msgspec.to_builtins(a) for a in view.aggregations],
        "source": view.stream or view.push or (view.batch.name if view.batch else ""),
        "ttl_seconds": view.ttl_us / 1e6,
        "description": view.description,
        "owner": view.owner,
        "tags": view.tags,
    }


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
