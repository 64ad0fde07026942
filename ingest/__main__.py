"""`headwater ingest` starts this: one worker, until SIGTERM or the end of its topics."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
from pathlib import Path

from prometheus_client import start_http_server

from headwater import catalog_cache
from headwater.errors import HeadwaterError
from headwater.logs import start_logging
from headwater.online.connect import connect
from headwater.online.sinks import warm
from headwater.online.writer import OnlineWriter
from headwater.settings import Settings
from ingest import memory
from ingest.worker import Worker


def main() -> int:
    parser = argparse.ArgumentParser(prog="headwater ingest", description=__doc__)
    parser.add_argument("--repo", type=Path, default=Path("feature_repo"))
    parser.add_argument("--until-end", action="store_true")
    arguments = parser.parse_args()
    try:
        return _run(arguments.repo.resolve(), arguments.until_end)
    except HeadwaterError as error:
        sys.stderr.write(f"headwater ingest: {error}\n")
        return 1


def _run(repo: Path, until_end: bool) -> int:
    settings = Settings.from_env(os.environ)
    start_logging(settings.log_level)
    # The client warns whenever a batch takes longer to decode than its event loop likes.
    logging.getLogger("kafka.net.selector").setLevel("ERROR")
    # It says so ten times a second while a topic does not exist.
    logging.getLogger("kafka.cluster").setLevel("CRITICAL")
    catalog = catalog_cache.load(repo)
    client = connect(settings.redis_url or catalog.redis_url, 10 * settings.redis_timeout_seconds)
    warm()
    worker = Worker(repo, settings, OnlineWriter(client, catalog.project))
    for route in worker.routes:
        route.rehearse(catalog.project, worker.writer)

    def stop(*_: object) -> None:
        worker.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    start_http_server(settings.metrics_port, settings.metrics_host, worker.metrics.registry)
    memory.keep()
    worker.run(until_end)
    # Extension modules complain of objects that they cannot free at the end.
    gc.unfreeze()
    return 0


if __name__ == "__main__":
    sys.exit(main())
