"""A project's catalogue without importing Feast, which costs seconds.

The registry file's hash names the cached JSON; a process of its own makes it when missing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import msgspec
import yaml

from headwater import catalog as plans
from headwater import registered
from headwater.errors import HeadwaterError


def load(repo: Path) -> plans.Catalog:
    """The catalogue that the repository's registry holds, with the views registered over HTTP.

    Raises HeadwaterError without a registry.
    """
    own = load_own(repo)
    extra = registered.stamp(repo)
    if not extra:
        return own
    version = hashlib.blake2b(own.version.encode() + extra, digest_size=8).hexdigest()
    return msgspec.structs.replace(registered.merged(own, registered.read(repo)), version=version)


def load_own(repo: Path) -> plans.Catalog:
    """The catalogue that the repository's registry holds. Raises HeadwaterError without one."""
    folder = repo / "data"
    while True:
        cached = folder / f".catalog-{_own_fingerprint(repo)}.json"
        with contextlib.suppress(FileNotFoundError):
            return plans.decode(cached.read_bytes())
        folder.mkdir(exist_ok=True)
        with _alone(folder):
            # Whoever waited finds it made; all processes of a project see a change at once.
            if not cached.exists():
                for old in folder.glob(".catalog-*.json"):
                    old.unlink(missing_ok=True)
                _build(repo, cached)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time on this machine."""
    with (folder / ".catalog.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fingerprint(repo: Path) -> str:
    """Changes when a definition does; cheap enough to ask every second."""
    own, extra = _own_fingerprint(repo), registered.stamp(repo)
    return own + hashlib.blake2b(extra, digest_size=8).hexdigest() if extra else own


def configuration(repo: Path) -> Path:
    """The project's `feature_store.yaml`, applied or not. Raises HeadwaterError without one."""
    config = repo / "feature_store.yaml"
    if not config.exists():
        raise HeadwaterError(
            f"there is no feature_store.yaml in {repo}; give the Feast project with --repo, "
            "or make one with `headwater init`"
        )
    return config


def _own_fingerprint(repo: Path) -> str:
    config = configuration(repo)
    digest = hashlib.blake2b(config.read_bytes(), digest_size=8)
    digest.update(str(repo.resolve()).encode())  # plans hold absolute paths
    registry = _registry(os.path.expandvars(config.read_text()))
    if "://" in registry:
        for part in _database_rows(registry):
            digest.update(part)
        return digest.hexdigest()
    path = repo / registry
    if not path.exists():
        raise HeadwaterError(f"{repo} has no registry yet; run `headwater apply --repo {repo}`")
    digest.update(path.read_bytes())
    return digest.hexdigest()


@lru_cache(16)
def _registry(config: str) -> str:
    """Where the registry is by the text of a configuration: a file's path, or a database's URL."""
    registry = (yaml.safe_load(config) or {}).get("registry")
    if isinstance(registry, dict):
        registry = registry.get("path")
    return str(registry or "data/registry.db")


def _database_rows(url: str) -> Iterator[bytes]:
    """The definitions that a SQL registry holds, in an order of their own."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            tables = sqlalchemy.MetaData()
            tables.reflect(connection)
            for table in tables.sorted_tables:
                for column in table.columns:
                    if column.name.endswith("_proto"):
                        rows = connection.execute(sqlalchemy.select(column)).scalars()
                        yield from sorted(bytes(row) for row in rows if row)
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise HeadwaterError(
            f"the registry's database does not answer ({type(error).__name__}); "
            "check `registry` in feature_store.yaml"
        ) from error
    finally:
        engine.dispose()


def _build(repo: Path, target: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-m", "headwater.catalog_feast", repo, target],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise HeadwaterError(f"the catalogue of {repo} cannot be read: {lines[-1]}")
