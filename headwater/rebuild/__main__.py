"""Fills what the state of a project's views lacks; an ingest worker starts this beside itself."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from headwater import catalog_cache
from headwater.errors import HeadwaterError, RebuildBusyError
from headwater.online.writer import connect
from headwater.rebuild.fill import Rebuilder
from headwater.settings import Settings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repo", type=Path, required=True)
    repo = parser.parse_args().repo
    try:
        settings = Settings.from_env(os.environ)
        catalog = catalog_cache.load(repo)
        client = connect(
            settings.redis_url or catalog.redis_url, 10 * settings.redis_timeout_seconds
        )
        Rebuilder(catalog, client).run()
    except RebuildBusyError:
        return 0
    except HeadwaterError as error:
        sys.stderr.write(f"rebuild: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
