"""The pages at /ui: the catalogue, its features and views, and what the service knows of them.

Jinja templates, htmx and uPlot, all in the package: no page asks another host for anything.
"""

from __future__ import annotations

from fastapi import FastAPI

from service.access import PAGES
from service.observed import Observed
from service.running import Service
from service.ui import catalogue
from service.ui.history import History
from service.ui.pages import Pages


def add(app: FastAPI, service: Service, observed: Observed, history: History) -> None:
    """Mount the pages; each module adds its routes, and its place of the navigation."""
    pages = Pages(service, observed)
    catalogue.add(pages, history)
    app.mount(PAGES, pages.ui)
