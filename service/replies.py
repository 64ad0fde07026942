"""Answers as status and bytes, and errors as the clients read them. Pure."""

from __future__ import annotations

from typing import NamedTuple

import orjson

from headwater.errors import BadRequestError


class Reply(NamedTuple):
    """An answer: its status, its body, seconds after which to try again (0: none), its type."""

    status: int
    body: bytes
    retry_after: int = 0
    media_type: str = "application/json"

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Beside content type and length."""
        headers = [(b"content-length", b"%d" % len(self.body))]
        if self.retry_after:
            headers.append((b"retry-after", b"%d" % self.retry_after))
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers


def failed(detail: str, status: int, retry_after: int = 0) -> Reply:
    return Reply(status, orjson.dumps({"detail": detail}), retry_after)


def refused(error: BadRequestError) -> Reply:
    """A client's mistake; one that Feast has a class for is named as its clients read it."""
    if not error.feast_class:
        return failed(str(error), error.status)
    inner = {"module": "feast.errors", "class": error.feast_class, "message": str(error)}
    # JSON inside a JSON text: FeastError.from_error_detail takes it apart again.
    return Reply(error.status, orjson.dumps(orjson.dumps(inner).decode()))
