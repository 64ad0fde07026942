"""`headwater serve` starts this: the service in one or several processes, until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import socket
import sys
from pathlib import Path

import uvicorn

from headwater import catalog_cache
from headwater.errors import HeadwaterError
from headwater.logs import start_logging
from headwater.settings import Settings
from service import protocol
from service.access import Access, check_exposure
from service.app import create_app
from service.crew import REFUSED, Crew, Place, bound
from service.gate import admit
from service.running import Service


def main() -> int:
    parser = argparse.ArgumentParser(prog="headwater serve", description=__doc__)
    parser.add_argument("--repo", type=Path, default=Path("feature_repo"))
    arguments = parser.parse_args()
    try:
        settings = Settings.from_env(os.environ)
        start_logging(settings.log_level)
        check_exposure(settings, Access.parse(settings.api_keys))
        repo = arguments.repo.resolve()
        listeners = _bound(settings, settings.port, "HEADWATER_PORT")
        if settings.browser_port:
            listeners += _bound(settings, settings.browser_port, "HEADWATER_UI_PORT")
        if settings.grpc_port:
            # gRPC itself says it on lines of its own, and only when all else has started.
            for one in _bound(settings, settings.grpc_port, "HEADWATER_GRPC_PORT"):
                one.close()
        if settings.workers == 1:
            return serve(repo, settings, listeners)
        catalog_cache.load(repo)  # once for all, where it has to be made
    except HeadwaterError as error:
        return _refused(error)
    _settle_memory()
    return Crew(settings.workers, lambda place: _work(repo, settings, listeners, place)).run()


def _bound(settings: Settings, port: int, variable: str) -> list[socket.socket]:
    """Sockets on one of the service's ports. Raises HeadwaterError where it is taken."""
    try:
        return bound(settings.host, port)
    except OSError as error:
        raise HeadwaterError(
            f"cannot listen on {settings.host}:{port} ({error.strerror}); stop what listens there, "
            f"or set {variable} to a port that is free"
        ) from error


def _work(repo: Path, settings: Settings, listeners: list[socket.socket], place: Place) -> int:
    try:
        return serve(repo, settings, listeners, place)
    except HeadwaterError as error:
        return _refused(error)


def _refused(error: HeadwaterError) -> int:
    sys.stderr.write(f"headwater serve: {error}\n")
    return REFUSED


def serve(
    repo: Path, settings: Settings, listeners: list[socket.socket], place: Place | None = None
) -> int:
    """Run one worker to its end. Raises HeadwaterError where it cannot start."""
    app = create_app(repo, settings, place)
    service = app.state.service
    http = protocol.bound_to(
        service.vectors,
        settings.max_body_bytes,
        lambda headers: admit(service.access, headers),
    )
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, log_config=None, access_log=False,
        loop="uvloop", http=http, ssl_certfile=settings.tls_cert or None,
        ssl_keyfile=settings.tls_key or None,
    )  # fmt: skip
    server = _Server(config, service, place)
    # So long at most a thread that computes (once a second, for /metrics) holds requests up.
    sys.setswitchinterval(0.0005)
    _settle_memory()
    # uvicorn raises SIGINT again once it has ended.
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=listeners)
    if service.refused is not None:
        raise service.refused
    return 0 if server.started else 3


class _Server(uvicorn.Server):
    """Stops as well when the service cannot run, or who started this worker is gone."""

    def __init__(self, config: uvicorn.Config, service: Service, place: Place | None) -> None:
        super().__init__(config)
        self._service, self._place = service, place

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        try:
            await super().startup(sockets)  # type: ignore[arg-type]
        except OSError as error:  # a port was free when it was bound, and is another's by now
            await self.lifespan.shutdown()
            self._service.refused = HeadwaterError(f"cannot listen: {error}")
        if self._service.refused is not None:
            self.should_exit = True
        if self._place is not None:
            asyncio.get_running_loop().add_reader(self._place.alive, self._orphaned)

    def _orphaned(self) -> None:
        self.should_exit = True


def _settle_memory() -> None:
    """What lives from now on lives long: a collection need not look through it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


if __name__ == "__main__":
    sys.exit(main())
