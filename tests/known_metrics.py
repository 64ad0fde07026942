"""Every metric that the service and the worker have."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

import ingest.metrics
import service.metrics
from headwater.online.writer import OnlineWriter
from service.observed import Observed


def known_metrics() -> list[Metric]:
    """The families of both, our own: `process_*` is left out."""
    observed = CollectorRegistry()
    observed.register(Observed(_no_store))
    registries = [
        service.metrics.Metrics().registry, ingest.metrics.Metrics().registry, observed,
    ]  # fmt: skip
    return [
        family
        for registry in registries
        for family in registry.collect()
        if family.name.startswith(service.metrics.PREFIX)
    ]


def _no_store() -> OnlineWriter:
    raise AssertionError("collecting reads no store")
