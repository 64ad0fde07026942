"""A project's catalogue as its files define it, applied or not: the only runner of definitions."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from headwater.catalog import Catalog
from headwater.catalog_cache import configuration
from headwater.definition_checks import Problem, check
from headwater.errors import DefinitionError, HeadwaterError
from headwater.where import Definitions, of_error


def read(repo: Path) -> Catalog:
    """Run the definitions and plan them; nothing is written to the registry or a store.

    Raises DefinitionError for what cannot be served, and HeadwaterError for what Feast refuses,
    with file and line where they are known.
    """
    configuration(repo)
    try:
        return _rehearse(repo)
    except DefinitionError as error:
        raise _placed(Definitions(repo).of_text(error.name), str(error)) from error
    except HeadwaterError as error:
        raise _placed("", str(error)) from error
    except Exception as error:
        where = of_error(error, repo)
        raise _placed(
            where, f"Feast refuses the definitions in {repo}: {type(error).__name__}: {error}"
        ) from error


def write(repo: Path) -> None:
    """Write the registry as `feast apply` does."""
    configuration(repo)
    with _feast_noise(), _inside(repo):
        from feast.repo_config import load_repo_config
        from feast.repo_operations import apply_total

        config = load_repo_config(repo, repo / "feature_store.yaml")
        Path(repo / "data").mkdir(exist_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):  # Feast's own account of what it does
            apply_total(config, repo, skip_source_validation=True)


def problems(catalog: Catalog, repo: Path) -> list[tuple[str, Problem]]:
    """What the checks find, each with its "FILE:LINE" where that is known."""
    found = [*check(catalog), *_baselines(catalog, repo)]
    places = Definitions(repo) if found else None
    return [(places.at(p.kind, p.name, p.field) if places else "", p) for p in found]


def _baselines(catalog: Catalog, repo: Path) -> Iterator[Problem]:
    """Feature services whose baseline cannot be compared with."""
    from headwater.offline.drift import BASELINE_TAG
    from headwater.offline.manifest import Manifest

    for service in catalog.services.values():
        if tag := service.tags.get(BASELINE_TAG, ""):
            try:
                Manifest.read(repo / tag).sketches()
            except HeadwaterError as error:
                yield Problem(
                    "feature service", service.name, "",
                    f"its tag {BASELINE_TAG!r} names no baseline: {error}",
                    "Make the training set first: `headwater training-set` writes its manifest "
                    "beside it", True,
                )  # fmt: skip


def refuse_wrong(found: Iterable[tuple[str, Problem]]) -> None:
    """Raises HeadwaterError that names every problem that stops an apply."""
    wrong = [describe(where, problem) for where, problem in found if problem.wrong]
    if wrong:
        many = f"{len(wrong)} definitions are wrong:\n  "
        raise HeadwaterError((many if len(wrong) > 1 else "") + "\n  ".join(wrong))


def describe(where: str, problem: Problem) -> str:
    """One line: where, what, why, and the remedy."""
    field = f", field {problem.field!r}" if problem.field else ""
    what = f"{problem.kind} {problem.name!r}{field}: {problem.text}. {problem.remedy}."
    return f"{where}: {what}" if where else what


def _placed(where: str, text: str) -> HeadwaterError:
    return HeadwaterError(f"{where}: {text}" if where else text)


def _rehearse(repo: Path) -> Catalog:
    """Apply the definitions to a registry and stores that are thrown away, and plan them."""
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
        contents = parse_repo(repo)
        store = FeatureStore(config=rehearsal)
        objects: list[Any] = [
            *contents.projects, *contents.data_sources, *contents.entities,
            *contents.feature_views, *contents.stream_feature_views,
            *contents.on_demand_feature_views, *contents.feature_services,
        ]  # fmt: skip
        store.apply(objects, skip_feature_view_validation=False)
        return build(store, config.online_store)


class _inside:  # noqa: N801 (used as a function)
    """The repository as working directory and first on the path, as Feast's command line has it.

    Its modules are forgotten afterwards: another repository, or this one after a change, may have
    modules of the same names.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        self._back, self._known = Path.cwd(), set(sys.modules)
        os.chdir(self._folder)
        sys.path.insert(0, str(self._folder))

    def __exit__(self, *_: object) -> None:
        os.chdir(self._back)
        sys.path.remove(str(self._folder))
        for name in sys.modules.keys() - self._known:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).is_relative_to(self._folder):
                del sys.modules[name]


class _feast_noise(warnings.catch_warnings):  # noqa: N801
    """Feast warns about alpha features on every definition; the user has chosen them."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
        importlib.import_module("feast.repo_operations")  # which sets filters of its own
        warnings.simplefilter("ignore")
