"""`plan` and `apply`: Feast definitions to Feast's registry, checked before anything is written."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

from headwater import catalog_cache, catalog_files, registered
from headwater.catalog import Catalog
from headwater.changes import Change, compare, outdated_rows
from headwater.definition_checks import Problem
from headwater.errors import (
    BreakingChangeError,
    DefinitionError,
    HeadwaterError,
    StoreUnavailableError,
)
from headwater.offline.log import EventLog


class Plan(NamedTuple):
    """What `apply` would do: the checked catalogue, and how it differs from the registry's."""

    catalog: Catalog
    changes: list[Change]
    #: Row views of Kafka sources whose rows mean something else from now on.
    outdated: list[str]
    #: Batch views that are new, or whose rows are to be loaded anew.
    to_load: list[str]
    #: Advice about what changes, with "FILE:LINE".
    advice: list[tuple[str, Problem]]


def plan(repo: Path) -> Plan:
    """Check the definitions. Raises HeadwaterError for what cannot be served."""
    planned = catalog_files.read(repo)
    try:
        current: Catalog | None = catalog_cache.load_own(repo)
    except HeadwaterError:
        current = None
    found = catalog_files.problems(planned, repo)
    catalog_files.refuse_wrong(found)
    _refuse_other_logs(current, planned)
    changes = [*compare(current, planned), *_unfounded(repo, planned)]
    touched = {(c.kind, c.name) for c in changes}
    advice = [(where, p) for where, p in found if (p.kind, p.name) in touched]
    return Plan(planned, changes, _outdated(current, planned), _to_load(planned, changes), advice)


def apply(repo: Path, force: bool = False) -> Plan:
    """Write the registry as `feast apply` does. Raises before writing what cannot be served.

    Raises BreakingChangeError without `force` where something would break.
    """
    found = plan(repo)
    broken = [line for change in found.changes for line in change.broken]
    if broken and not force:
        raise BreakingChangeError(broken)
    if not found.changes:
        return found
    catalog_files.write(repo)
    return found._replace(catalog=catalog_cache.load(repo))


def _refuse_other_logs(current: Catalog | None, planned: Catalog) -> None:
    """Raises HeadwaterError where a source's log cannot hold what its fields have become."""
    for name, stream in planned.streams.items():
        before = current.streams.get(name) if current else None
        if before is not None and before.fields != stream.fields:
            with contextlib.suppress(StoreUnavailableError):
                EventLog(stream).check()


def _unfounded(repo: Path, planned: Catalog) -> list[Change]:
    """Views registered over HTTP that the planned catalogue cannot hold any more."""
    found = []
    for name, definition in registered.read(repo).items():
        reason = (
            "the repository has an object of this name" if name in registered.taken(planned) else ""
        )
        try:
            registered.plan(definition, planned)
        except DefinitionError as error:
            reason = str(error)
        if reason:
            text = f"it was registered over HTTP, and {reason}"
            found.append(Change("remove", "feature view", name, "breaking", (text,)))
    return found


def _outdated(current: Catalog | None, planned: Catalog) -> list[str]:
    """A windowed view's keys name its definition; those of a row view stay when it changes."""
    held = current.views if current else {}
    return [
        name
        for name, view in sorted(planned.views.items())
        if view.stream and name in held and outdated_rows(held[name], view)
    ]


def _to_load(planned: Catalog, changes: list[Change]) -> list[str]:
    batch = {
        n for n, v in planned.views.items() if v.batch and v.online and not (v.stream or v.push)
    }
    return [
        c.name
        for c in changes
        if c.kind == "feature view"
        and c.name in batch
        and (c.change == "add" or c.effect != "safe")
    ]
