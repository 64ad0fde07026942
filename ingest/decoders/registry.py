"""Confluent's schema registry: writers' schemas by id, each fetched once."""

from __future__ import annotations

import base64
import http.client
import json
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple

from headwater.errors import SettingError, StoreUnavailableError

VARIABLE = "HEADWATER_SCHEMA_REGISTRY_URL"
#: What a framed message begins with: a zero byte and the schema's id, four bytes big-endian.
FRAME_BYTES = 5
#: How long an id that the registry does not know stays unknown.
_UNKNOWN_SECONDS = 30.0
_TIMEOUT_SECONDS = 2.0
_PAUSES = (0.0, 0.1, 0.4)


class WriterSchema(NamedTuple):
    """A registered schema; `references` are the texts of those it uses, the deepest first."""

    text: str
    kind: str
    references: tuple[str, ...]


class UnknownSchemaError(Exception):
    """The registry answers, and has no schema of this id."""


class SchemaRegistry:
    """Reads schemas by id. `now` tells seconds that only grow."""

    def __init__(self, url: str, now: Callable[[], float] = time.monotonic) -> None:
        parts = urllib.parse.urlsplit(url)
        if not parts.hostname:
            raise SettingError(VARIABLE, "***", "http://HOST:PORT or https://USER:PASSWORD@HOST")
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, parts.port
        self._path = parts.path.rstrip("/")
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if parts.username is not None:
            pair = f"{parts.username}:{parts.password or ''}"
            token = base64.b64encode(urllib.parse.unquote(pair).encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"
        #: Without user and password: this one may be shown.
        self.address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._known: dict[int, WriterSchema] = {}
        self._unknown: dict[int, float] = {}
        self._now = now

    def schema(self, schema_id: int) -> WriterSchema:
        """Raises UnknownSchemaError, or StoreUnavailableError where nothing answers."""
        known = self._known.get(schema_id)
        if known is not None:
            return known
        if self._now() < self._unknown.get(schema_id, float("-inf")):
            raise UnknownSchemaError
        found = self._get(f"/schemas/ids/{schema_id}")
        if found is None:
            if len(self._unknown) > 1000:  # garbage has ever new ids
                self._unknown.clear()
            self._unknown[schema_id] = self._now() + _UNKNOWN_SECONDS
            raise UnknownSchemaError
        references: dict[tuple[str, int], str] = {}
        self._follow(found, references)
        made = WriterSchema(
            str(found["schema"]), found.get("schemaType", "AVRO"), tuple(references.values())
        )
        self._known[schema_id] = made
        return made

    def _follow(self, schema: dict[str, Any], found: dict[tuple[str, int], str]) -> None:
        for reference in schema.get("references") or ():
            key = (reference["subject"], reference["version"])
            if key in found:
                continue
            subject = urllib.parse.quote(key[0], safe="")
            inner = self._get(f"/subjects/{subject}/versions/{key[1]}")
            if inner is None:
                raise UnknownSchemaError
            self._follow(inner, found)
            found[key] = str(inner["schema"])

    def _get(self, path: str) -> dict[str, Any] | None:
        """The registry's JSON answer; None where it has no such thing."""
        problem = ""
        for pause in _PAUSES:
            time.sleep(pause)
            try:
                status, body = self._ask(path)
            except (OSError, http.client.HTTPException) as error:
                problem = type(error).__name__
                continue
            found = _json(body)
            if status == 200 and "schema" in found:
                return found
            # 40402, 40403: no such version, no such schema. Any other 404 is another server's.
            if status == 404 and str(found.get("error_code", "")).startswith("404"):
                return None
            problem = f"status {status}"
            if status < 500 and status != 429:
                break
        raise StoreUnavailableError(
            f"the schema registry at {self.address} does not answer {path} ({problem}); "
            f"check {VARIABLE}"
        )

    def _ask(self, path: str) -> tuple[int, bytes]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request("GET", self._path + path, headers=self._headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
