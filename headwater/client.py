"""A light client of the service, for programs that must not wait for Feast's import.

    with Client("http://127.0.0.1:6566") as client:
        found = client.features({"user_id": [1, 2]}, features=["numbers:f64"])
        found.to_dict()          # {"user_id": [1, 2], "f64": [0.25, None]}

Columns are lists or arrays; a DataFrame will do.
`AsyncClient` is the same with `await`. Both need httpx (`pip install 'headwater[client]'`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import httpx
import msgspec

from headwater.errors import BadRequestError, HeadwaterError, StoreUnavailableError

_ARROW = "application/vnd.apache.arrow.stream"
#: Columns by name, each [n]: a mapping of lists or arrays, or a DataFrame.
Entities = Mapping[str, Sequence[Any]] | Any


class Column(msgspec.Struct, frozen=True):
    """One column of an answer: values, Feast's statuses, RFC 3339 event times; all [n]."""

    values: list[Any]
    statuses: list[str]
    event_timestamps: list[str]


class _Metadata(msgspec.Struct):
    feature_names: list[str]


class Vectors(msgspec.Struct):
    """Feature vectors of n entities, column by column, the entity columns first."""

    metadata: _Metadata
    results: list[Column]

    @property
    def columns(self) -> dict[str, Column]:
        return dict(zip(self.metadata.feature_names, self.results, strict=True))

    def to_dict(self) -> dict[str, list[Any]]:
        """Values by name; null where they are not PRESENT."""
        return {name: column.values for name, column in self.columns.items()}

    def to_pandas(self) -> Any:
        import pandas as pd

        return pd.DataFrame(self.to_dict())


def _request(
    entities: Entities, features: Sequence[str] | None, service: str, full_names: bool
) -> bytes:
    body: dict[str, Any] = {"entities": _columns(entities)}
    if service:
        body["feature_service"] = service
    else:
        body["features"] = list(features or ())
    if full_names:
        body["full_feature_names"] = True
    return msgspec.json.encode(body, enc_hook=_json)


def _push(source: str, rows: Entities, to: str) -> bytes:
    body = {"push_source_name": source, "df": _columns(rows), "to": to}
    return msgspec.json.encode(body, enc_hook=_json)


def _columns(columns: Entities) -> dict[str, list[Any]]:
    """Lists of what may be arrays, a DataFrame's columns too."""
    return {
        name: column.tolist() if hasattr(column, "tolist") else list(column)
        for name, column in columns.items()
    }


def _json(value: Any) -> Any:
    """What NumPy and pandas have beside Python's own values."""
    if hasattr(value, "isoformat"):
        text = value.isoformat()
        return None if text == "NaT" else text
    if hasattr(value, "tolist"):
        return value.tolist()
    if type(value).__name__ == "NAType":
        return None
    raise NotImplementedError


def _checked(answer: httpx.Response) -> bytes:
    """The body of an answer. Raises what the status says."""
    if answer.status_code < 300:
        return answer.content
    try:
        detail = msgspec.json.decode(answer.content)
        detail = msgspec.json.decode(detail) if isinstance(detail, str) else detail
        text = str(detail.get("detail") or detail.get("message"))
    except (msgspec.DecodeError, AttributeError):
        text = answer.text[:200]
    if answer.status_code == 503:
        raise StoreUnavailableError(text)
    if answer.status_code < 500:
        raise BadRequestError(text, answer.status_code)
    raise HeadwaterError(f"the service failed ({answer.status_code}): {text}")


def _arrow(data: bytes) -> Any:
    import pyarrow as pa

    return pa.ipc.open_stream(data).read_all()


def _options(url: str, key: str, timeout_seconds: float, verify: Any) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    # The service gives up when nobody waits any more.
    headers["X-Request-Deadline-Ms"] = str(round(timeout_seconds * 1000))
    return {"base_url": url, "headers": headers, "timeout": timeout_seconds, "verify": verify}


class Client:
    """Calls the service. Every call raises BadRequestError (4xx), StoreUnavailableError (503),
    or httpx's own errors where nothing answers; `key` is an API key."""

    def __init__(
        self, url: str, key: str = "", timeout_seconds: float = 1.0, verify: Any = True
    ) -> None:
        self._http = httpx.Client(**_options(url, key, timeout_seconds, verify))

    def features(
        self, entities: Entities, *, features: Sequence[str] | None = None, service: str = "",
        full_names: bool = False,
    ) -> Vectors:  # fmt: skip
        """Vectors of `features` ("view:feature") or of a feature service."""
        body = _request(entities, features, service, full_names)
        answer = self._http.post("/get-online-features", content=body)
        return msgspec.json.decode(_checked(answer), type=Vectors)

    def arrow(
        self, entities: Entities, *, features: Sequence[str] | None = None, service: str = "",
        full_names: bool = False,
    ) -> Any:  # fmt: skip
        """The same as a pyarrow Table, which is faster for many entities."""
        body = _request(entities, features, service, full_names)
        answer = self._http.post("/get-online-features", content=body, headers={"Accept": _ARROW})
        return _arrow(_checked(answer))

    def push(
        self, source: str, rows: Entities, to: str = "online", wait: str = "online"
    ) -> dict[str, Any]:
        """Push columns of rows; the receipt. Servable when it returns, unless wait is "none"."""
        answer = self._http.post("/push", params={"wait": wait}, content=_push(source, rows, to))
        return msgspec.json.decode(_checked(answer), type=dict[str, Any])

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()


class AsyncClient:
    """`Client` with `await`."""

    def __init__(
        self, url: str, key: str = "", timeout_seconds: float = 1.0, verify: Any = True
    ) -> None:
        self._http = httpx.AsyncClient(**_options(url, key, timeout_seconds, verify))

    async def features(
        self, entities: Entities, *, features: Sequence[str] | None = None, service: str = "",
        full_names: bool = False,
    ) -> Vectors:  # fmt: skip
        body = _request(entities, features, service, full_names)
        answer = await self._http.post("/get-online-features", content=body)
        return msgspec.json.decode(_checked(answer), type=Vectors)

    async def arrow(
        self, entities: Entities, *, features: Sequence[str] | None = None, service: str = "",
        full_names: bool = False,
    ) -> Any:  # fmt: skip
        body = _request(entities, features, service, full_names)
        headers = {"Accept": _ARROW}
        answer = await self._http.post("/get-online-features", content=body, headers=headers)
        return _arrow(_checked(answer))

    async def push(
        self, source: str, rows: Entities, to: str = "online", wait: str = "online"
    ) -> dict[str, Any]:
        body = _push(source, rows, to)
        answer = await self._http.post("/push", params={"wait": wait}, content=body)
        return msgspec.json.decode(_checked(answer), type=dict[str, Any])

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        await self.close()
