"""Opens and writes what rows lie in: Parquet, Delta and CSV, on disk or on object stores."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from headwater.catalog import BatchSourcePlan
from headwater.errors import HeadwaterError

# The service writes files by this module: datasets (with pandas) and Delta are for those who read.
if TYPE_CHECKING:
    import pyarrow.dataset as ds


def open_source(source: BatchSourcePlan, version: int | None = None) -> ds.Dataset:
    """A file source as a dataset. Raises HeadwaterError where nothing can be read.

    version: of a Delta table; None is the newest.
    """
    if source.format == "delta":
        found = open_delta(source.path, version, source.s3_endpoint)
        if found is None:
            raise HeadwaterError(
                f"source {source.name!r}: there is no Delta table at {source.path}; "
                "check the path of its FileSource"
            )
        return found
    try:
        store, path = filesystem(source.path, source.s3_endpoint)
        return _files(store, path, source.format)
    except FileNotFoundError as error:
        raise HeadwaterError(
            f"source {source.name!r}: there is no file {source.path}; "
            "check the path of its FileSource"
        ) from error
    except (OSError, pa.ArrowInvalid) as error:
        raise HeadwaterError(f"source {source.name!r} cannot be read: {error}") from error


def written_us(path: str, endpoint: str = "") -> int:
    """When a file, or the newest one in a folder, was written; 0 where the store does not say."""
    try:
        store, place = filesystem(path, endpoint)
        info = store.get_file_info(place)
        found = [info]
        if info.type == pafs.FileType.Directory:
            found = store.get_file_info(pafs.FileSelector(place, recursive=True))
    except (FileNotFoundError, OSError):
        return 0
    return max(((one.mtime_ns or 0) // 1000 for one in found if one.is_file), default=0)


def _files(store: pafs.FileSystem, path: str, kind: str) -> ds.Dataset:
    import pyarrow.dataset as ds

    found = store.get_file_info(path).type
    if found == pafs.FileType.NotFound:
        raise FileNotFoundError(path)
    if found == pafs.FileType.File:
        return ds.dataset(path, filesystem=store, format=kind)
    options = ds.FileSystemFactoryOptions(
        partition_base_dir=path, partitioning=ds.HivePartitioning.discover()
    )
    form = ds.CsvFileFormat() if kind == "csv" else ds.ParquetFileFormat()
    selector = pafs.FileSelector(path, recursive=True)
    factory = ds.FileSystemDatasetFactory(store, selector, form, options)
    schemas = factory.inspect_schemas()
    if not schemas:
        raise FileNotFoundError(path)
    # Files of one folder may have been written with more columns as time went on.
    return factory.finish(pa.unify_schemas(schemas, promote_options="permissive"))


def open_delta(path: str, version: int | None = None, endpoint: str = "") -> ds.Dataset | None:
    """A Delta table's files at a version; None where there is no table."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    from headwater.offline.data_files import dataset_of

    try:
        table = DeltaTable(path, version=version, storage_options=storage_options(path, endpoint))
        return dataset_of(table)
    except TableNotFoundError:
        return None
    except DeltaError as error:
        which = "" if version is None else f" at version {version}"
        raise HeadwaterError(f"the Delta table {path}{which} cannot be read: {error}") from error


def delta_version(path: str, endpoint: str = "") -> int | None:
    """The newest version of a Delta table; None where there is no table."""
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        return int(DeltaTable(path, storage_options=storage_options(path, endpoint)).version())
    except TableNotFoundError:
        return None


def new_delta_files(path: str, endpoint: str, before: int, now: int) -> set[str] | None:
    """The files that a Delta table gained between versions; None where it lost some, or cannot
    tell."""
    try:
        old, new = (open_delta(path, version, endpoint) for version in (before, now))
    except HeadwaterError:
        return None
    if old is None or new is None:
        return None
    had, has = set(old.files), set(new.files)
    return has - had if had <= has else None


def endpoint_of(given: str, environ: Mapping[str, str] = os.environ) -> str:
    """Where an S3 that is not Amazon's listens: what the source says, else AWS's own variables."""
    return given or environ.get("AWS_ENDPOINT_URL_S3", "") or environ.get("AWS_ENDPOINT_URL", "")


def storage_options(path: str, endpoint: str = "") -> dict[str, str]:
    """What Delta needs to know to reach an object store; credentials are the environment's."""
    url = endpoint_of(endpoint)
    if not path.startswith("s3") or not url:
        return {}
    return {"AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": str(url.startswith("http://")).lower()}


def filesystem(path: str, endpoint: str = "") -> tuple[pafs.FileSystem, str]:
    """The store that a path or URI lies in, and the path there."""
    if "://" not in path:
        if not Path(path).exists():
            raise FileNotFoundError(path)
        return pafs.LocalFileSystem(), path
    url = endpoint_of(endpoint)
    if path.startswith("s3") and url:
        place = urlsplit(url)
        store = pafs.S3FileSystem(
            endpoint_override=place.netloc or url, scheme=place.scheme or "https",
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        )  # fmt: skip
        return store, path.split("://", 1)[1]
    emulator = urlsplit(os.environ.get("STORAGE_EMULATOR_HOST", ""))
    if path.startswith(("gs://", "gcs://")) and emulator.netloc:
        gcs = pafs.GcsFileSystem(
            anonymous=True, scheme=emulator.scheme, endpoint_override=emulator.netloc
        )
        return gcs, path.split("://", 1)[1]
    found: tuple[pafs.FileSystem, str] = pafs.FileSystem.from_uri(path)
    return found


def open_target(path: str, endpoint: str = "") -> tuple[pafs.FileSystem, str]:
    """As `filesystem`, for what is to be written; folders on the way to it are made."""
    if "://" in path:
        return filesystem(path, endpoint)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return pafs.LocalFileSystem(), path


def write_file(table: pa.Table, store: pafs.FileSystem, path: str, **options: Any) -> None:
    """A Parquet file that readers see whole or not at all; `options` are `pq.write_table`'s."""
    if not isinstance(store, pafs.LocalFileSystem):
        # An object appears when it is complete.
        pq.write_table(table, path, filesystem=store, **options)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4()}")
    try:
        pq.write_table(table, temporary, **options)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def append_file(table: pa.Table, store: pafs.FileSystem, path: str) -> None:
    """Add rows to a Parquet file or folder. A folder takes another file; a file is rewritten.

    Raises HeadwaterError for a single file on an object store, which has no lock to hold.
    """
    if store.get_file_info(path).type == pafs.FileType.Directory:
        write_file(table, store, f"{path}/{uuid.uuid4()}.parquet")
        return
    if not isinstance(store, pafs.LocalFileSystem):
        raise HeadwaterError(
            f"{path} is one file on an object store, to which nothing can be appended safely; "
            "make it a folder of Parquet files or a Delta table"
        )
    target = Path(path)
    # The folder is locked, so that no lock file is left behind.
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if target.exists():
            old = pq.read_table(target, partitioning=None)
            table = pa.concat_tables([old, table.select(old.column_names).cast(old.schema)])
        write_file(table, store, path)
    finally:
        os.close(folder)
