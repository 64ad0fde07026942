"""Who is signed in: cookies that name an API key and cannot be made up. Pure.

A cookie holds no key: it names one, says until when, and is signed. Taking the key out of the
settings ends its sessions. The secret of the signatures lies in Redis, so that every process and
every replica of the service knows the same sessions.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from urllib.parse import urlsplit

from service.access import Access, Key

COOKIE = "headwater"
#: How long somebody stays signed in, in seconds: a working day.
LASTS = 12 * 3600


class Sessions:
    """Makes and reads cookies; `secret` signs them."""

    def __init__(self, access: Access, secret: bytes) -> None:
        self._access, self._secret = access, secret

    def issue(self, key: Key, now: float) -> str:
        """A cookie's value for a key, from now on."""
        until = int(now) + LASTS
        return f"{_name(key)}.{until}.{self._signature(key, until)}"

    def key_of(self, cookie: str, now: float) -> Key | None:
        """The key of a cookie that was issued here and still holds."""
        name, _, rest = cookie.partition(".")
        until, _, signature = rest.partition(".")
        if not until.isascii() or not until.isdecimal() or int(until) <= now:
            return None
        for key in self._access.keys:
            good = self._signature(key, int(until))
            if _name(key) == name and hmac.compare_digest(good.encode(), signature.encode()):
                return key
        return None

    def _signature(self, key: Key, until: int) -> str:
        text = b"session %b %d" % (key.digest, until)
        return hmac.digest(self._secret, text, "sha256").hex()


def _name(key: Key) -> str:
    return hashlib.blake2b(key.digest, digest_size=6).hexdigest()


def cross_site(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether another site's page made the browser send this.

    Browsers say where a request comes from (Sec-Fetch-Site, or Origin where the site has no TLS);
    a request that says neither is no browser's.
    """
    held = {name: value.decode("latin-1") for name, value in headers}
    site = held.get(b"sec-fetch-site")
    if site is not None:
        return site not in {"same-origin", "none"}
    origin = held.get(b"origin")
    return origin is not None and urlsplit(origin).netloc != held.get(b"host", "")
