"""What the generated configuration depends on besides the catalogue."""

from __future__ import annotations

from typing import NamedTuple

from headwater.errors import HeadwaterError

#: How a notice leaves Alertmanager, and what is written behind the colon.
CHANNELS = {
    "webhook": "a URL",
    "email": "an address",
    "telegram": "the chat's number",
}


class Channel(NamedTuple):
    """One way that notices go: kind of CHANNELS, and where to."""

    kind: str
    to: str

    @classmethod
    def parse(cls, text: str) -> Channel:
        """`webhook:URL`, `email:ADDRESS` or `telegram:CHAT`; raises HeadwaterError."""
        kind, colon, to = text.partition(":")
        number = to.removeprefix("-").isdigit()
        if kind not in CHANNELS or not colon or not to or (kind == "telegram" and not number):
            known = ", ".join(f"{name}:{what}" for name, what in CHANNELS.items())
            raise HeadwaterError(f"{text!r} is no channel; it is one of {known}")
        return cls(kind, to)


class Options(NamedTuple):
    """Seconds, and addresses as the watching servers reach them.

    interval: time between two scrapes; windows and waits of the rules are multiples of it.
    services, workers: HOST:PORT of each, or `dns:NAME:PORT` for all that a DNS name stands for.
    key_file: a file on the watching server with the API key to scrape the service with.
    """

    interval: float = 15.0
    services: tuple[str, ...] = ("127.0.0.1:6566",)
    workers: tuple[str, ...] = ("127.0.0.1:9465",)
    alertmanagers: tuple[str, ...] = ("127.0.0.1:9093",)
    page: tuple[Channel, ...] = ()
    ticket: tuple[Channel, ...] = ()
    smtp: str = "localhost:25"
    sender: str = "headwater@localhost"
    telegram_token: str = "/etc/alertmanager/telegram-token"  # noqa: S105 (a file's name)
    runbooks: str = "docs/runbooks"
    key_file: str = ""
    rules: str = "rules.yml"
    remote_write: str = ""

    def time(self, intervals: float) -> str:
        """A multiple of the interval, as PromQL writes durations."""
        ms = round(self.interval * intervals * 1000)
        return f"{ms // 1000}s" if ms % 1000 == 0 else f"{ms}ms"
