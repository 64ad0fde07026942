"""Where a project's registry is, and its bytes: all that says whether a definition has changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from headwater.errors import HeadwaterError


def stored(repo: Path, config: str) -> Iterator[bytes]:
    """What the registry holds, in an order that only its definitions change.

    config: the text of the project's `feature_store.yaml`. Raises HeadwaterError where there is no
    registry yet, or none that can be read.
    """
    kind, path, project = _registry(os.path.expandvars(config))
    if kind == "sql":
        yield from _rows(_database_url(repo, path), project)
        return
    if kind != "file" or "://" in path:
        raise HeadwaterError(
            f"the registry {path or kind!r} cannot be watched for changes; use a file's path, or "
            "a database with `registry_type: sql`"
        )
    file = repo / path
    if not file.exists():
        raise _missing(repo)
    yield file.read_bytes()


def _missing(repo: Path) -> HeadwaterError:
    return HeadwaterError(f"{repo} has no registry yet; run `headwater apply --repo {repo}`")


@lru_cache(16)
def _registry(config: str) -> tuple[str, str, str]:
    """Feast's `registry_type`; a file's path or a database's URL; the project."""
    settings = yaml.safe_load(config) or {}
    found, project = settings.get("registry"), str(settings.get("project"))
    if not isinstance(found, dict):
        return "file", str(found or "data/registry.db"), project
    return str(found.get("registry_type") or "file"), str(found.get("path") or ""), project


def _database_url(repo: Path, path: str) -> str:
    """As Feast takes it: psycopg 3, and SQLite's files beside `feature_store.yaml`."""
    scheme, _, rest = path.partition("://")
    if scheme == "postgresql":
        return f"postgresql+psycopg://{rest}"
    # Three slashes and no fourth: a relative path, which `apply` takes from the project's folder.
    if scheme.partition("+")[0] == "sqlite" and rest.startswith("/"):
        name, _, query = rest[1:].partition("?")
        file = repo.resolve() / name
        if not file.exists():  # connecting would make it
            raise _missing(repo)
        return f"{scheme}:///{file}" + (f"?{query}" if query else "")
    return path


def _rows(url: str, project: str) -> Iterator[bytes]:
    """Those of one project: others may share the database."""
    import sqlalchemy

    try:
        engine, queries = _opened(url)
        with engine.connect() as connection:
            for query in queries:
                rows = connection.execute(query, {"project": project}).scalars()
                yield from sorted(bytes(row) for row in rows if row)
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise HeadwaterError(
            f"the registry's database does not answer ({type(error).__name__}); "
            "check `registry` in feature_store.yaml"
        ) from error
    except ModuleNotFoundError as error:
        raise HeadwaterError(
            f"the registry's database needs the package {error.name!r}; install it, or name "
            "another driver in `registry`"
        ) from error


@lru_cache(16)
def _opened(url: str) -> tuple[Any, list[Any]]:
    """The database, and what reads its definitions.

    Kept, for to find the tables takes longer than to read them, and it is asked every second. A
    connection is not: it would break between two looks, and is not for two processes.
    """
    import sqlalchemy

    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
    tables = sqlalchemy.MetaData()
    tables.reflect(engine)
    queries = [
        sqlalchemy.select(column).where(table.c.project_id == sqlalchemy.bindparam("project"))
        for table in tables.sorted_tables
        for column in table.columns
        if column.name.endswith("_proto")
    ]
    if not queries:
        raise HeadwaterError(
            "the registry's database has no tables of Feast yet; run `headwater apply`"
        )
    return engine, queries
