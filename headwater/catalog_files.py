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
from headwater.where import Definitions, kind_of, of_error

#: Kinds whose names may not meet.
_NAMESPACES = {
    "on-demand feature view": "feature view", "push source": "source", "file source": "source",
    "Kafka source": "source", "SqlSource": "source",
}  # fmt: skip
#: What would be right, by what Feast and Python say of the commonest mistakes.
_REMEDIES = {
    'argument "dtype"': ". Use a type of feast.types, such as Int64 or String",
    'argument "tags"': '. Tags are text: {"max_drift": "0.3"}',
    "NameError": ". Import it, or correct the name",
}


def read(repo: Path) -> Catalog:
    """Run the definitions and plan them; nothing is written to the registry or a store.

    Raises DefinitionError for what cannot be served, and HeadwaterError for what Feast refuses,
    with file and line where they are known.
    """
    configuration(repo)
    try:
        return _rehearse(repo)
    except _TwiceError as error:
        raise error.placed(repo) from None
    except DefinitionError as error:
        raise _placed(Definitions(repo).of_text(error.name), str(error)) from error
    except HeadwaterError as error:
        raise _placed("", str(error)) from error
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())
        remedy = next((say for sign, say in _REMEDIES.items() if sign in told), "")
        raise _placed(
            of_error(error, repo), f"Feast refuses the definitions in {repo}: {told}{remedy}"
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
    found = list(dict.fromkeys([*check(catalog), *_at_rest(catalog), *_baselines(catalog, repo)]))
    places = Definitions(repo) if found else None
    return [(places.at(p.kind, p.name, p.field) if places else "", p) for p in found]


def _at_rest(catalog: Catalog) -> Iterator[Problem]:
    """Files of this machine that lack a column, or are not there; what is elsewhere shows later."""
    for view in catalog.views.values():
        if view.batch is None or "://" in view.batch.path or view.batch.format != "parquet":
            continue
        if not Path(view.batch.path).exists():
            yield Problem(
                "feature view", view.name, "", f"there is no file {view.batch.path}",
                "Put it there before `apply`, which loads it, or correct the path", False,
            )  # fmt: skip
            continue
        columns = _columns(Path(view.batch.path))
        if columns is None:
            continue
        source, remedy = view.batch, f"Its columns: {', '.join(sorted(columns))}"
        named = {new: old for old, new in source.field_mapping.items()}
        held = {name.lower() for name in columns}

        def lacks(name: str, named: dict[str, str] = named, held: set[str] = held) -> bool:
            return named.get(name, name).lower() not in held

        if source.timestamp_field and lacks(source.timestamp_field):
            yield Problem(
                "file source", source.name, "",
                f"{source.path} has no column {source.timestamp_field!r}, which is its "
                "timestamp_field", remedy, True,
            )  # fmt: skip
        if view.stream or view.udf:
            continue  # its rows are events, or are still transformed
        for key in view.join_keys:
            if lacks(key.name):
                yield Problem(
                    "feature view", view.name, "",
                    f"{source.path} has no column {key.name!r}, which is a key of its entities",
                    remedy, True,
                )  # fmt: skip
        for feature in view.features:
            if lacks(feature.name):
                yield Problem(
                    "feature view", view.name, feature.name,
                    f"{source.path} has no such column", remedy, True,
                )  # fmt: skip


def _columns(path: Path) -> list[str] | None:
    """The columns of a Parquet file, or of a folder's first; None where nobody can tell."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = min(path.rglob("*.parquet"), default=None) if path.is_dir() else path
    try:
        columns: list[str] = pq.read_schema(file).names if file else []
    except (pa.ArrowInvalid, OSError):
        return None  # reading it says what is wrong
    partitions = file.parent.relative_to(path).parts if file and path.is_dir() else ()
    return [*columns, *(part.partition("=")[0] for part in partitions)] or None


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
        objects: list[Any] = [
            *contents.projects, *contents.data_sources, *contents.entities,
            *contents.feature_views, *contents.stream_feature_views,
            *contents.on_demand_feature_views, *contents.feature_services,
        ]  # fmt: skip
        _refuse_twice(objects)
        _refuse_featureless(contents.stream_feature_views)
        store = FeatureStore(config=rehearsal)
        store.apply(objects, skip_feature_view_validation=False)
        return build(store, config.online_store)


class _TwiceError(Exception):
    """Two objects have one name."""

    def __init__(self, kind: str, name: str, kinds: Iterable[str]) -> None:
        super().__init__(kind, name)
        self.kind, self.name, self.kinds = kind, name, kinds

    def placed(self, repo: Path) -> HeadwaterError:
        *first, last = Definitions(repo).every(self.name, self.kinds) or [""]
        where = f", at {first[0]} and {last}" if first else ""
        return _placed(
            last, f"{self.kind} {self.name!r} is defined twice{where}. Give one another name."
        )


def _refuse_twice(objects: Iterable[Any]) -> None:
    """Raises _TwiceError for two objects of one name: of entities, sources and services Feast
    takes the last, and of views it says neither file nor line."""
    held: dict[tuple[str, str], Any] = {}
    for one in objects:
        kind = kind_of(type(one).__name__)
        other = held.setdefault((_NAMESPACES.get(kind, kind), one.name), one)
        if other is one or (type(other) is type(one) and other == one):
            continue
        kinds = {kind, kind_of(type(other).__name__)}
        raise _TwiceError(kind, one.name, kinds)


def _refuse_featureless(views: Iterable[Any]) -> None:
    """Raises DefinitionError for windows without a schema: Feast would look for their features in
    the batch source, which has the events' columns, if it is there at all."""
    for view in views:
        if view.aggregations and not view.features:
            made = ", ".join(
                f'Field(name="{a.resolved_name(a.time_window)}", dtype=...)'
                for a in view.aggregations
            )
            raise DefinitionError(
                f"stream feature view {view.name!r}",
                "its schema declares none of the features that its aggregations make",
                f"Give it schema=[{made}]",
            )


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
