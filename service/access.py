"""Who may do what: API keys with scopes, kept as hashes. Pure."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

from headwater.errors import SettingError
from headwater.settings import Settings

SCOPES = ("read", "write", "admin")
#: What a route needs; None needs nothing. What is not named needs "read" to look and "write" to do.
ROUTES: dict[str, str | None] = {
    "/get-online-features": "read",
    "/health": None,
    "/ready": None,
    "/push": "write",
    "/write-to-online-store": "write",
    "/materialize": "admin",
    "/materialize-incremental": "admin",
    "/ui/sign-in": None,
    "/ui/sign-out": None,
}
TRAINING_SETS = "/api/v1/training-sets"
#: The pages, which lead a person to the sign-in in place of refusing (service.ui.door).
PAGES = "/ui"
SIGN_IN = PAGES + "/sign-in"
_ENTRY = re.compile(r"([\w.-]+):((?:read|write|admin)(?:\+(?:read|write|admin))*):([0-9a-f]{64})")
#: Whose a request is where nobody is asked for a key.
ANONYMOUS = "anonymous"


class Key(NamedTuple):
    name: str
    scopes: frozenset[str]
    digest: bytes


class Refusal(NamedTuple):
    """401 without a known key, 403 where the key lacks the scope."""

    status: int
    detail: str


def scope_of(method: str, path: str) -> str | None:
    """The scope that a request needs."""
    if method not in {"GET", "HEAD"} and path.startswith("/api/v1/feature-views"):
        return "admin"
    if path.startswith((TRAINING_SETS, PAGES + "/training-sets")):
        return "read"  # a training set reads features; what it makes is its own
    return ROUTES.get(path, "read" if method in {"GET", "HEAD"} else "write")


class Access:
    """Checks keys. Without any, everybody may do everything."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)

    @property
    def keys(self) -> tuple[Key, ...]:
        return self._keys

    def __bool__(self) -> bool:
        return bool(self._keys)

    @classmethod
    def parse(cls, text: str) -> Access:
        """From `NAME:SCOPE+SCOPE:SHA256`, commas between. Raises SettingError."""
        keys: list[Key] = []
        for entry in filter(None, (part.strip() for part in text.split(","))):
            found = _ENTRY.fullmatch(entry)
            if found is None:
                # The entry is not repeated: it may hold a key that somebody forgot to hash.
                raise SettingError(
                    "HEADWATER_API_KEYS", "...",
                    f"NAME:SCOPES:SHA256 in entry {len(keys) + 1}, scopes of {', '.join(SCOPES)} "
                    "with + between, the key's SHA-256 in 64 hex digits",
                )  # fmt: skip
            scopes = frozenset(found[2].split("+"))
            keys.append(Key(found[1], scopes, bytes.fromhex(found[3])))
        return cls(keys)

    def refuse(self, headers: Iterable[tuple[bytes, bytes]], scope: str) -> Refusal | None:
        """Why a request may not; None where it may."""
        found = self.admit(headers, scope)
        return found if isinstance(found, Refusal) else None

    def admit(self, headers: Iterable[tuple[bytes, bytes]], scope: str) -> str | Refusal:
        """Whose a request is (the key's name), or why it may not."""
        if not self._keys:
            return ANONYMOUS
        presented = _presented(headers)
        if presented is None:
            return Refusal(401, "this needs an API key: send Authorization: Bearer KEY")
        known = self.known(presented)
        if known is None:
            return Refusal(401, "the API key is not known")
        if scope not in known.scopes:
            return Refusal(403, f"the key {known.name!r} lacks the scope {scope!r}")
        return known.name

    def key_of(self, headers: Iterable[tuple[bytes, bytes]]) -> Key | None:
        """The key of a request that was let in; None where nobody is asked for one."""
        presented = _presented(headers)
        return None if presented is None else self.known(presented)

    def caller(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Whose a request is that was let in."""
        key = self.key_of(headers)
        return ANONYMOUS if key is None else key.name

    def known(self, presented: bytes) -> Key | None:
        """The key that was presented; takes as long for every wrong one."""
        digest = hashlib.sha256(presented).digest()
        known = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                known = key
        return known


def is_page(path: str) -> bool:
    return path == PAGES or path.startswith(PAGES + "/")


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            return value.strip()
    return None


def check_exposure(settings: Settings, access: Access) -> None:
    """Raises SettingError where strangers could reach a service that asks nobody for a key."""
    if not _is_loopback(settings.host) and not access and settings.open_access != "yes":
        raise SettingError(
            "HEADWATER_HOST", settings.host,
            "an address of this machine alone, or HEADWATER_API_KEYS, or HEADWATER_OPEN_ACCESS=yes "
            "where something in front lets in only who may",
        )  # fmt: skip
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise SettingError(
            "HEADWATER_TLS_CERT", settings.tls_cert, "HEADWATER_TLS_KEY beside it, or neither"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
