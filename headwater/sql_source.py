"""A batch source that is a query in DuckDB's SQL over file sources, in plain Feast definitions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from feast import FileSource, type_map
from feast.data_source import DataSource
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.repo_config import RepoConfig
from feast.value_type import ValueType
from google.protobuf.json_format import MessageToDict, ParseDict


class SqlSource(DataSource):
    """Rows that a query makes of other sources, each time they are read.

    query: DuckDB's SQL. It names `tables` by their names.
    tables: the file sources (Parquet, Delta, CSV) that the query reads.
    timestamp_field, created_timestamp_column: columns of the query's result.

    Raises ValueError where the query is empty, or a table has no name or is no file source.
    """

    def __init__(
        self,
        *,
        name: str,
        query: str,
        tables: Sequence[FileSource] = (),
        timestamp_field: str,
        created_timestamp_column: str | None = "",
        field_mapping: dict[str, str] | None = None,
        description: str | None = "",
        tags: dict[str, str] | None = None,
        owner: str | None = "",
    ) -> None:
        if not query.strip():
            raise ValueError(f"SqlSource {name!r} has no query: give it a SELECT")
        for table in tables:
            if not isinstance(table, FileSource) or not table.name:
                raise ValueError(f"SqlSource {name!r}: a table is a FileSource with a name")
        self.query, self.tables = query, tuple(tables)
        super().__init__(
            name=name, timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column, field_mapping=field_mapping,
            description=description, tags=tags, owner=owner,
        )  # fmt: skip

    def source_type(self) -> Any:
        return DataSourceProto.CUSTOM_SOURCE

    def __hash__(self) -> int:
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SqlSource)
            and super().__eq__(other)
            and (self.query, self.tables) == (other.query, other.tables)
        )

    @staticmethod
    def from_proto(data_source: DataSourceProto) -> SqlSource:
        options = json.loads(data_source.custom_options.configuration)
        return SqlSource(
            name=data_source.name,
            query=options["query"],
            tables=[
                FileSource.from_proto(ParseDict(table, DataSourceProto()))
                for table in options["tables"]
            ],
            timestamp_field=data_source.timestamp_field,
            created_timestamp_column=data_source.created_timestamp_column,
            field_mapping=dict(data_source.field_mapping),
            description=data_source.description,
            tags=dict(data_source.tags),
            owner=data_source.owner,
        )

    def _to_proto_impl(self) -> DataSourceProto:
        tables = [MessageToDict(table.to_proto()) for table in self.tables]
        options = json.dumps({"query": self.query, "tables": tables}).encode()
        return DataSourceProto(
            name=self.name,
            type=DataSourceProto.CUSTOM_SOURCE,
            data_source_class_type=f"{SqlSource.__module__}.{SqlSource.__qualname__}",
            custom_options=DataSourceProto.CustomSourceOptions(configuration=options),
            timestamp_field=self.timestamp_field,
            created_timestamp_column=self.created_timestamp_column,
            field_mapping=self.field_mapping,
            description=self.description,
            tags=self.tags,
            owner=self.owner,
        )

    def validate(self, config: RepoConfig) -> None:
        """Raises HeadwaterError where a table is missing or the query does not run."""
        self.get_table_column_names_and_types(config)

    @staticmethod
    def source_datatype_to_feast_value_type() -> Callable[[str], ValueType]:
        return type_map.pa_to_feast_value_type

    def get_table_column_names_and_types(self, config: RepoConfig) -> Iterable[tuple[str, str]]:
        from headwater.catalog_feast import plan_batch
        from headwater.offline.scan import query_schema

        schema = query_schema(plan_batch(config, self))
        return [(field.name, str(field.type)) for field in schema]
