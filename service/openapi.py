"""What the OpenAPI document says of bodies that the routes read by themselves."""

from __future__ import annotations

from typing import Any

PARQUET, CSV = "application/vnd.apache.parquet", "text/csv"
_NAMES = {"type": "array", "items": {"type": "string"}}
_COLUMNS = {"type": "object", "additionalProperties": {"type": "array", "items": {}}}
#: Answers of every route beside its own.
RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"description": "the body is no JSON object"},
    401: {"description": "an API key is needed"},
    403: {"description": "the API key lacks the scope"},
    404: {"description": "there is no such view, service, receipt or training set"},
    405: {"description": "the route does not take this method"},
    413: {"description": "the body or the list of entities is over its bound"},
    422: {"description": "what is asked for makes no sense; the detail says why"},
    503: {
        "description": "a store does not answer, or too much is under way",
        "headers": {"Retry-After": {"schema": {"type": "integer"}}},
    },
}


def _body(
    properties: dict[str, Any], required: list[str], example: Any = None, **other: Any
) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    content: dict[str, Any] = {"schema": schema} | ({"example": example} if example else {})
    return {"requestBody": {"required": True, "content": {"application/json": content, **other}}}


VECTORS = _body(
    {
        "entities": _COLUMNS,
        "features": _NAMES,
        "feature_service": {"type": "string"},
        "full_feature_names": {"type": "boolean"},
        "provenance": {"type": "boolean"},
    },
    ["entities"],
    {"feature_service": "airport_board", "entities": {"origin": ["JFK"]}},
)
PUSH = _body(
    {
        "push_source_name": {"type": "string"},
        "df": _COLUMNS,
        "to": {"type": "string", "enum": ["online", "offline", "online_and_offline"]},
        "allow_registry_cache": {"type": "boolean"},
    },
    ["push_source_name", "df"],
)
ROWS = _body(
    {
        "feature_view_name": {"type": "string"},
        "df": _COLUMNS,
        "allow_registry_cache": {"type": "boolean"},
    },
    ["feature_view_name", "df"],
)
_TIME = {"type": "string", "format": "date-time"}
MATERIALIZE = _body(
    {
        "feature_views": _NAMES, "start_ts": _TIME, "end_ts": _TIME,
        "disable_event_timestamp": {"type": "boolean"},
    },
    [],
)  # fmt: skip
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_DESCRIBED = {"name": {"type": "string"}, "description": {"type": "string"}, "tags": _TEXTS}
_VALUE = {"anyOf": [{"type": "number"}, {"type": "string"}]}
_WHICH = {"model": {"type": "string"}, "prediction_id": {"type": "string"}}
_WHEN = {"timestamp": {"type": "string", "format": "date-time"}}
_PREDICTION = {
    "type": "object",
    "properties": {
        **_WHICH, "version": {"type": "string"}, "prediction": _VALUE,
        "entity": {"type": "object"}, **_WHEN,
    },
    "required": ["model", "version", "prediction"],
}  # fmt: skip
_OUTCOME = {
    "type": "object",
    "properties": {
        **_WHICH, "outcome": {"anyOf": [*_VALUE["anyOf"], {"type": "boolean"}]}, **_WHEN,
    },
    "required": ["model", "prediction_id", "outcome"],
}  # fmt: skip
PREDICTIONS = _body(
    {
        "predictions": {"type": "array", "items": _PREDICTION},
        "outcomes": {"type": "array", "items": _OUTCOME},
    },
    [],
)
FEATURE_VIEW = _body(
    {
        **_DESCRIBED,
        "entities": _NAMES,
        "source": {
            "type": "object",
            "properties": {"stream": {"type": "string"}, "batch": {"type": "string"}},
        },
        "features": {
            "type": "array",
            "items": {"type": "object", "properties": {**_DESCRIBED, "type": {"type": "string"}}},
        },
        "aggregations": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["function"],
                "properties": {
                    **_DESCRIBED,
                    **{n: {"type": "string"} for n in ("function", "column", "window", "slide")},
                },
            },
        },
        "ttl": {"type": "string"},
        "owner": {"type": "string"},
    },
    ["name", "entities", "source"],
    {
        "name": "origin_weekly",
        "description": "How many flights left in the last week",
        "owner": "operations@flights.example",
        "entities": ["origin"],
        "source": {"stream": "departures"},
        "aggregations": [{"function": "count", "window": "7d", "name": "origin_departures_week"}],
    },
)
TRAINING_SET = _body(
    {
        "entities": _COLUMNS,
        "labels": {"type": "string"},
        "sample": {"type": "integer"},
        "service": {"type": "string"},
        "features": _NAMES,
        "as_of": {"type": "string", "enum": ["event", "arrival"]},
        "full_feature_names": {"type": "boolean"},
        "label_windows": _NAMES,
    },
    [],
    {
        "service": "airport_board",
        "entities": {"origin": ["JFK"], "event_timestamp": ["2026-01-01T12:00:00Z"]},
    },
    **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in (PARQUET, CSV)},
)
