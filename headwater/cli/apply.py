"""`plan` and `apply`: Feast definitions to Feast's registry, checked before anything is written."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from headwater import catalog_cache
from headwater.catalog import Catalog, ViewPlan
from headwater.errors import HeadwaterError
from headwater.quality import objectives

Change = tuple[str, str, str]
_KINDS = {
    "entities": "entity",
    "streams": "Kafka source",
    "push_sources": "push source",
    "views": "feature view",
    "on_demand": "on-demand feature view",
    "services": "feature service",
}


class Plan(NamedTuple):
    """What `apply` would do: the checked catalogue, and how it differs from the registry's."""

    catalog: Catalog
    changes: list[Change]
    #: Row views of Kafka sources whose rows mean something else from now on.
    outdated: list[str]


def plan(repo: Path) -> Plan:
    """Check the definitions. Raises DefinitionError or HeadwaterError for what cannot be served."""
    planned = _rehearse(repo)
    objectives.check(planned)
    try:
        current: Catalog | None = catalog_cache.load(repo)
    except HeadwaterError:
        current = None
    return Plan(planned, _difference(current, planned), _outdated(current, planned))


def apply(repo: Path) -> Plan:
    """Write the registry as `feast apply` does. Raises before writing what cannot be served."""
    found = plan(repo)
    if not found.changes:
        return found
    from feast.repo_config import load_repo_config
    from feast.repo_operations import apply_total

    with _feast_noise(), _inside(repo):
        config = load_repo_config(repo, repo / "feature_store.yaml")
        Path(repo / "data").mkdir(exist_ok=True)
        apply_total(config, repo, skip_source_validation=True)
    return found._replace(catalog=catalog_cache.load(repo))


def _outdated(current: Catalog | None, planned: Catalog) -> list[str]:
    """A windowed view's keys name its definition; those of a row view stay when it changes."""
    return [
        name
        for name, view in sorted(planned.views.items())
        if view.kind == "row"
        and view.stream
        and current is not None
        and (old := current.views.get(name)) is not None
        and _meaning(old) != _meaning(view)
    ]


def _meaning(view: ViewPlan) -> tuple[object, ...]:
    code = (view.udf.text or view.udf.name) if view.udf else ""
    return view.kind, view.schema_fingerprint, view.stream, view.join_keys, code


def _rehearse(repo: Path) -> Catalog:
    """Apply the definitions to a registry and stores that are thrown away, and plan them."""
    if not (repo / "feature_store.yaml").exists():
        raise HeadwaterError(f"there is no feature_store.yaml in {repo}; give it with --repo")
    with _feast_noise(), _inside(repo), tempfile.TemporaryDirectory() as folder:
        from feast import FeatureStore
        from feast.repo_config import RepoConfig, load_repo_config
        from feast.repo_operations import parse_repo

        from headwater.catalog_feast import build

        config = load_repo_config(repo, repo / "feature_store.yaml")
        rehearsal = RepoConfig(
            project=config.project,
            provider="local",
            registry=f"{folder}/registry.db",
            online_store={"type": "sqlite", "path": f"{folder}/online.db"},
            offline_store=config.offline_store,
            entity_key_serialization_version=3,
            repo_path=repo,
        )
        try:
            contents = parse_repo(repo)
            store = FeatureStore(config=rehearsal)
            objects: list[Any] = [
                *contents.projects, *contents.data_sources, *contents.entities,
                *contents.feature_views, *contents.stream_feature_views,
                *contents.on_demand_feature_views, *contents.feature_services,
            ]  # fmt: skip
            store.apply(objects, skip_feature_view_validation=False)
        except HeadwaterError:
            raise
        except Exception as error:
            raise HeadwaterError(
                f"Feast refuses the definitions in {repo}: {type(error).__name__}: {error}"
            ) from error
        return build(store)


def _difference(current: Catalog | None, planned: Catalog) -> list[Change]:
    found: list[Change] = []
    for attribute, kind in _KINDS.items():
        old = getattr(current, attribute) if current else {}
        new = getattr(planned, attribute)
        found += [("add", kind, name) for name in sorted(new.keys() - old.keys())]
        found += [
            ("change", kind, name)
            for name in sorted(new.keys() & old.keys())
            if _plain(new[name]) != _plain(old[name])
        ]
        found += [("remove", kind, name) for name in sorted(old.keys() - new.keys())]
    return found


def _plain(plan: Any) -> Any:
    """A plan without its code's payload, which differs from one pickling to the next."""
    import msgspec

    data = msgspec.to_builtins(plan)
    for key in ("udf", "code"):
        if isinstance(data, dict) and data.get(key):
            data[key].pop("body", None)
    return data


class _inside:  # noqa: N801 (used as a function)
    """The repository as working directory and first on the path, as Feast's command line has it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        self._back = Path.cwd()
        os.chdir(self._folder)
        sys.path.insert(0, str(self._folder))

    def __exit__(self, *_: object) -> None:
        os.chdir(self._back)
        sys.path.remove(str(self._folder))


class _feast_noise(warnings.catch_warnings):  # noqa: N801
    """Feast warns about alpha features on every definition; the user has chosen them."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
