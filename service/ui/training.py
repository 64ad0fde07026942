"""Training sets: choosing features and labels, a look at a sample, the job, its result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import FileResponse, RedirectResponse, Response

from headwater.catalog import Catalog
from headwater.errors import BadRequestError, HeadwaterError
from headwater.offline.checks import needed_columns
from headwater.offline.spec import TIME_COLUMN
from service import openapi
from service.access import PAGES
from service.training_jobs import Asked, TrainingSets, read_table, spec_of
from service.training_sets import done_file
from service.ui import drawings, texts
from service.ui.pages import Entry, Pages
from service.usage import UseOfFeatures

HERE = PAGES + "/training-sets"
#: Labels of a look before the whole.
SAMPLE = 1000
_UNDER_WAY = {"queued", "running"}
#: Most fields of the form: each feature is one.
_FIELDS = 20_000


def add(pages: Pages, jobs: TrainingSets, use: UseOfFeatures) -> None:
    """Add the routes."""
    pages.navigation.append(Entry(HERE, "Training sets"))

    def owner(request: Request) -> str:
        return "" if request.state.key is None else str(request.state.key.name)

    def form_of(chosen: dict[str, Any]) -> dict[str, Any]:
        return _form(pages.catalog, jobs, chosen, pages.service.settings.max_body_bytes)

    def begun(request: Request, asked: Asked) -> Response:
        name = jobs.start(pages.catalog, asked, owner(request))
        use.note(jobs.use(pages.catalog, name))
        return RedirectResponse(f"{HERE}/{name}", 303)

    def seen(request: Request, name: str) -> TrainingSets:
        """Raises BadRequestError (404) for a job that is another's."""
        jobs.check_access(name, request.state.key)
        return jobs

    @pages.ui.get("/training-sets")
    def training_sets(request: Request) -> Response:
        """The jobs that the key may see."""
        return pages.render(request, "training-sets.html", {"jobs": jobs.all(request.state.key)})

    @pages.ui.get("/training-sets/new")
    def builder(request: Request, service: str = "") -> Response:
        """The form."""
        chosen = {"service": service, "features": []}
        return pages.render(request, "training-new.html", form_of(chosen))

    @pages.ui.get("/training-sets/needs")
    def needs(request: Request) -> Response:
        """What labels need for what is chosen; a part of the form."""
        query = request.query_params
        chosen = {"service": query.get("service", ""), "features": query.getlist("features")}
        return pages.render(request, "training-needs.html", _needs(pages.catalog, chosen))

    @pages.ui.post("/training-sets")
    async def start(request: Request) -> Response:
        """Starts a job, on a sample or on the whole; what cannot be comes back with the form."""
        form = await _multipart(request, await pages.service.raw_body(request))
        chosen = _chosen(form)
        upload = form.get("labels")
        data = await upload.read() if isinstance(upload, UploadFile) else b""
        name = upload.filename or "" if isinstance(upload, UploadFile) else ""

        def started() -> Response:
            try:
                return begun(request, _asked(pages.catalog, chosen, name, data))
            except BadRequestError as error:
                context = form_of(chosen) | {"wrong": str(error)}
                return pages.render(request, "training-new.html", context, error.status)

        return await asyncio.to_thread(started)

    @pages.ui.get("/training-sets/{name}")
    def training_set(request: Request, name: str) -> Response:
        """How far it is; what it is when it is done."""
        return pages.render(request, "training-set.html", _described(seen(request, name), name))

    @pages.ui.post("/training-sets/{name}/whole")
    def whole(request: Request, name: str) -> Response:
        """Makes the whole of what was looked at."""
        return begun(request, seen(request, name).again(name))

    @pages.ui.post("/training-sets/{name}/cancel")
    def cancel(request: Request, name: str) -> Response:
        """Stops a job that runs; deletes one that has ended."""
        found = seen(request, name)
        under_way = found.status(name)["state"] in _UNDER_WAY
        found.cancel(name)
        return RedirectResponse(f"{HERE}/{name}" if under_way else HERE, 303)

    @pages.ui.get("/training-sets/{name}/result")
    def result(request: Request, name: str) -> Response:
        """The training set as Parquet."""
        path = done_file(seen(request, name), name)
        return FileResponse(path, media_type=openapi.PARQUET, filename=f"{name}.parquet")

    @pages.ui.get("/training-sets/{name}/manifest")
    def manifest(request: Request, name: str) -> Response:
        """What it was made of."""
        path = done_file(seen(request, name), name)
        held = path.with_name(f"{path.name}.manifest.json")
        return FileResponse(held, media_type="application/json", filename=f"{name}.manifest.json")


async def _multipart(request: Request, data: bytes) -> FormData:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield data

    try:
        return await MultiPartParser(
            request.headers, stream(), max_files=1, max_fields=_FIELDS
        ).parse()
    except (MultiPartException, KeyError) as error:
        raise BadRequestError(f"the form cannot be read: {error}", 400) from error


def _chosen(form: FormData) -> dict[str, Any]:
    """The fields of the form as they were filled in."""

    def text(name: str) -> str:
        found = form.get(name, "")
        return found if isinstance(found, str) else ""

    return {
        "service": text("service"),
        "features": [str(one) for one in form.getlist("features")],
        "file": text("file"),
        "as_of": text("as_of") or "event",
        "full_feature_names": text("full_feature_names") == "true",
        "label_windows": text("label_windows"),
        "look": text("look") != "whole",
    }


def _asked(catalog: Catalog, chosen: dict[str, Any], name: str, data: bytes) -> Asked:
    """Raises BadRequestError for what makes no sense."""
    spec = spec_of({
        "service": chosen["service"],
        "features": chosen["features"],
        "as_of": chosen["as_of"],
        "full_feature_names": chosen["full_feature_names"],
        "label_windows": chosen["label_windows"].split(),
        "sample": SAMPLE if chosen["look"] else 0,
    })  # fmt: skip
    if name:
        as_csv = name.lower().endswith(".csv")
        return Asked(spec, read_table(data, as_csv, spec, catalog))
    if not chosen["file"]:
        raise BadRequestError("there are no labels: upload a file, or choose one of the project's")
    return Asked(spec, None, chosen["file"])


def _form(
    catalog: Catalog, jobs: TrainingSets, chosen: dict[str, Any], most: int
) -> dict[str, Any]:
    """What the form shows; `most` bytes may be uploaded."""
    empty = {"file": "", "as_of": "event", "full_feature_names": False, "label_windows": ""}
    views = [*catalog.views.values(), *catalog.on_demand.values()]
    return {
        "services": sorted(catalog.services.values(), key=lambda service: service.name),
        "views": sorted(views, key=lambda view: view.name),
        "files": jobs.files(),
        "chosen": {**empty, **chosen},
        "sample": SAMPLE,
        "most": most,
        "wrong": "",
        **_needs(catalog, chosen),
    }


def _needs(catalog: Catalog, chosen: dict[str, Any]) -> dict[str, Any]:
    """Columns that labels need, name -> type; and why nobody knows."""
    if not chosen["service"] and not chosen["features"]:
        return {"needs": {}, "why": ""}
    try:
        asked = {"service": chosen["service"], "features": chosen["features"]}
        request = spec_of(asked).request(catalog)
        return {"needs": needed_columns(catalog, request.features, TIME_COLUMN), "why": ""}
    except HeadwaterError as error:
        return {"needs": {}, "why": str(error)}


def _described(jobs: TrainingSets, name: str) -> dict[str, Any]:
    job = jobs.described(name)
    context: dict[str, Any] = {
        "job": job, "under_way": job["state"] in _UNDER_WAY, "manifest": None, "columns": [],
    }  # fmt: skip
    if job["state"] == "done":
        path = done_file(jobs, name)
        manifest = orjson.loads(path.with_name(f"{path.name}.manifest.json").read_bytes())
        context |= {"manifest": manifest, "bytes": path.stat().st_size}
        kinds = pq.read_schema(path)
        context["columns"] = [
            _column(column, profile, kinds.field(column).type)
            for column, profile in manifest["profile"].items()
        ]
    return context


def _column(name: str, profile: dict[str, Any], kind: pa.DataType) -> dict[str, Any]:
    """A column's profile as the page writes it: `spread` of numbers, `span` of times, else `top`.

    Times have no quantiles here: theirs are within 0.8 % of the time since 1970, which is months.
    """
    counts = profile.get("histogram", {}).get("counts", [])
    shown: dict[str, Any] = {"top": [], **profile, "name": name, "spread": [], "span": []}
    if "quantiles" in profile and pa.types.is_timestamp(kind):
        shown["span"] = [texts.moment(int(profile[end])) for end in ("min", "max")]
    elif "quantiles" in profile:
        quantiles = [profile["quantiles"][q] for q in ("0.25", "0.5", "0.75")]
        numbers = (profile["min"], *quantiles, profile["max"])
        shown["spread"] = [_written(number, kind) for number in numbers]
        shown["bars"] = drawings.bars(counts) if len(counts) > 1 else ""
    return shown


def _written(number: float, kind: pa.DataType) -> str:
    # A quantile is the middle of a bucket, which for whole numbers lies beside them.
    return texts.value(round(number) if pa.types.is_integer(kind) else float(number))
