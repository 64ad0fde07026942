"""The pages at /ui: the catalogue, its features and views, and what the service knows of them.

Jinja templates, htmx and uPlot, all in the package: no page asks another host for anything.
"""

from __future__ import annotations

from fastapi import FastAPI

from headwater.online import drift_status
from service.access import PAGES
from service.ingest_report import IngestReport
from service.observed import Observed
from service.running import Service
from service.training_jobs import TrainingSets
from service.ui import catalogue, ingest, lookup, training, usage, verified, views
from service.ui.drift import Drift
from service.ui.examples import Examples
from service.ui.history import History
from service.ui.pages import Pages
from service.usage import UseOfFeatures


def add(
    app: FastAPI, service: Service, observed: Observed, history: History, use: UseOfFeatures,
    report: IngestReport, jobs: TrainingSets,
) -> None:  # fmt: skip
    """Mount the pages; each module adds its routes, and its place of the navigation."""
    pages = Pages(service, observed)
    drift = Drift(
        lambda: observed.drift,
        lambda of: drift_status.report(service.writer.client, service.writer.project, of),
    )
    examples = Examples(lambda: service.writer)
    catalogue.add(pages, history, drift)
    views.add(pages, history, drift, examples)
    lookup.add(pages, examples)
    training.add(pages, jobs, use)
    ingest.add(pages, report)
    usage.add(pages, use)
    verified.add(pages)
    app.mount(PAGES, pages.ui)
