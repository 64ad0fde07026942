"""`headwater serve` starts this: one process of the service, until SIGTERM."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from pathlib import Path

import uvicorn

from headwater.errors import HeadwaterError
from headwater.settings import Settings
from service import protocol
from service.app import create_app
from service.gate import refuse


def main() -> int:
    parser = argparse.ArgumentParser(prog="headwater serve", description=__doc__)
    parser.add_argument("--repo", type=Path, default=Path("feature_repo"))
    arguments = parser.parse_args()
    try:
        settings = Settings.from_env(os.environ)
        app = create_app(arguments.repo.resolve(), settings)
    except HeadwaterError as error:
        sys.stderr.write(f"headwater serve: {error}\n")
        return 1
    logging.basicConfig(level="WARNING")
    logging.getLogger("headwater").setLevel(settings.log_level.upper())
    service = app.state.service
    http = protocol.bound_to(
        service.vectors,
        settings.max_body_bytes,
        lambda headers: refuse(service.access, "POST", "/get-online-features", headers),
    )
    # What lives from now on lives long: a collection need not look through it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    uvicorn.run(
        app, host=settings.host, port=settings.port, log_level="warning", access_log=False,
        loop="uvloop", http=http, ssl_certfile=settings.tls_cert or None,
        ssl_keyfile=settings.tls_key or None,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
