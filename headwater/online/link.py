"""A connection to Redis for an event loop: pipelined reads, bounded waits, one retry.

It does what a reader needs and nothing else, since a general client costs more than the read itself
(docs/decisions.md has the figures). Replies come in the order of the requests, so that a queue of
callbacks is all that is kept.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import parse_url

from headwater.errors import StoreUnavailableError

logger = logging.getLogger("headwater.online")
#: Called once with the reply, or with what went wrong.
Done = Callable[[Any], None]
#: Between attempts to connect while Redis is away: it is found again well within a second.
RETRY_SECONDS = 0.1
CONNECT_SECONDS = 0.5


class _Read:
    """A read that waits for its reply."""

    __slots__ = ("command", "deadline", "done", "fresh", "sent_at")

    def __init__(self, command: bytes, done: Done, deadline: float) -> None:
        self.command, self.done, self.deadline = command, done, deadline
        self.sent_at, self.fresh = 0.0, True

    def finish(self, result: Any) -> None:
        done, self.done = self.done, _ignore
        done(result)


def _ignore(_: Any) -> None:
    """The read was given up; its late reply goes nowhere."""


class Link(asyncio.Protocol):
    """Reads from one Redis server. Every method belongs to the event loop's thread."""

    def __init__(self, url: str, timeout_seconds: float, **options: Any) -> None:
        self._options: dict[str, Any] = {**parse_url(url), **options}
        self._timeout = timeout_seconds
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._sent: deque[_Read] = deque()
        self._waiting: deque[_Read] = deque()
        self._connecting: asyncio.Task[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._look_at = 0.0
        self._away = ""
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._dial()

    @property
    def connected(self) -> bool:
        return self._transport is not None

    def send(self, command: bytes, done: Done, deadline: float | None = None) -> None:
        """A packed command that reads (it may be sent twice); its reply is due at `deadline`, by
        the loop's time, or at the time limit.

        `done` gets StoreUnavailableError where Redis does not answer; at once while it is away.
        """
        now = self._loop.time()
        latest = now + self._timeout
        read = _Read(command, done, latest if deadline is None else min(latest, deadline))
        if self._transport is not None:
            read.sent_at = now
            self._sent.append(read)
            self._transport.write(command)
        elif self._away:
            read.finish(_unavailable(self._away))
            return
        else:
            self._waiting.append(read)
        if self._watch is None:
            self._look_in(self._timeout / 8)

    async def get(self, *command: bytes) -> Any:
        """The reply to one command. Raises StoreUnavailableError."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(result: Any) -> None:
            if not future.done():
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

        self.send(pack(command), done)
        return await future

    async def close(self) -> None:
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._transport is not None:
            self._transport.close()
        self._fail_waiting("the service stops")

    # -- the connection ------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        reader, sent = self._reader, self._sent
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                if not sent:
                    raise hiredis.ProtocolError("a reply that nobody asked for")
                read = sent.popleft()
                if isinstance(reply, hiredis.ReplyError):
                    error = StoreUnavailableError(
                        f"Redis refuses: {str(reply)[:80].rstrip('.')}; try again shortly"
                    )
                    error.__cause__ = reply
                    read.finish(error)
                else:
                    read.finish(reply)
        except hiredis.ProtocolError as error:
            self._drop(f"it does not speak Redis's protocol ({error})")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._drop("the connection broke")

    def _drop(self, reason: str) -> None:
        """Give the connection up; what was tried once goes over a fresh one."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        self._reader = hiredis.Reader()
        sent, self._sent = self._sent, deque()
        for read in sent:
            if read.fresh and not self._closed:
                read.fresh = False
                self._waiting.append(read)
            else:
                read.finish(_unavailable(reason))
        if not self._closed:
            self._dial()

    def _look(self) -> None:
        """Once an eighth of the time limit: whose time is over, and does Redis still answer?"""
        self._watch = None
        now = self._loop.time()
        if now > self._look_at + self._timeout / 8:
            # The loop was busy with something else: what Redis has answered meanwhile comes first.
            self._look_in(0)
            return
        for read in (*self._sent, *self._waiting):
            if now >= read.deadline:
                read.finish(_unavailable("no answer within the time limit"))
        self._waiting = deque(read for read in self._waiting if read.done is not _ignore)
        if self._sent and now - self._sent[0].sent_at > self._timeout * 3 / 8:
            self._drop("no answer within the time limit")
        if self._sent or self._waiting:
            self._look_in(self._timeout / 8)

    def _look_in(self, seconds: float) -> None:
        self._look_at = self._loop.time() + seconds
        self._watch = self._loop.call_later(seconds, self._look)

    def _dial(self) -> None:
        if self._connecting is None or self._connecting.done():
            self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        """Until it is connected. What waits fails with the first attempt that does."""
        silent = 0
        while True:
            begun = self._loop.time()
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    transport, reader = await self._handshake()
                break
            except (OSError, ValueError, hiredis.HiredisError) as error:
                late = self._loop.time() - begun > CONNECT_SECONDS * 1.2
                silent += 1
                if isinstance(error, TimeoutError) and (late or silent == 1):
                    # The loop was, or may have been, busy with something else, as when loops are
                    # compiled for the first time ever. Who waits has a time limit of its own.
                    continue
                reason = str(error) or type(error).__name__
                if isinstance(error, TimeoutError):
                    reason = "no answer to a new connection"
                if not self._away:
                    logger.warning("Redis is away: %s", reason)
                self._away = reason
                self._fail_waiting(reason)
            await asyncio.sleep(RETRY_SECONDS)
        if self._away:
            logger.warning("Redis is back")
        self._away, self._reader, self._transport = "", reader, transport
        now = self._loop.time()
        while self._waiting:
            read = self._waiting.popleft()
            read.sent_at = now
            self._sent.append(read)
            transport.write(read.command)

    async def _handshake(self) -> tuple[asyncio.Transport, hiredis.Reader]:
        """A connection that is let in, has its database and answers."""
        o = self._options
        tls = _tls(o)
        first = _Greeting(self, _hello(o))
        if "path" in o:
            transport, _ = await self._loop.create_unix_connection(lambda: first, o["path"])
        else:
            transport, _ = await self._loop.create_connection(
                lambda: first, o.get("host", "localhost"), o.get("port", 6379), ssl=tls
            )
        try:
            await first.answered
        except BaseException:
            transport.abort()
            raise
        return transport, first.reader

    def _fail_waiting(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, deque()
        for read in waiting:
            read.finish(_unavailable(reason))


class Gather:
    """Several reads as one: `done` gets all values in order, or the first failure."""

    def __init__(self, count: int, done: Done) -> None:
        self._parts: list[Sequence[bytes | None]] = [()] * count
        self._left, self._done = count, done

    def part(self, i: int) -> Done:
        def done(data: list[bytes | None] | Exception) -> None:
            if not self._left:
                return
            if isinstance(data, Exception):
                self._left = 0
                self._done(data)
                return
            self._parts[i] = data
            self._left -= 1
            if not self._left:
                self._done([value for part in self._parts for value in part])

        return done


class _Greeting(asyncio.Protocol):
    """Sends what a new connection begins with, and hands it over when all of it is answered."""

    def __init__(self, link: Link, commands: list[tuple[str, ...]]) -> None:
        self._link, self._commands = link, commands
        self._left = len(commands)
        self.reader = hiredis.Reader()
        self.answered = asyncio.get_running_loop().create_future()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.write(b"".join(map(pack, self._commands)))

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while not self.answered.done() and (reply := self.reader.gets()) is not False:
            if isinstance(reply, hiredis.ReplyError):
                # Redis's own text names no secret; the command, which may, is not repeated.
                self.answered.set_exception(ConnectionError(str(reply)[:120]))
                return
            self._left -= 1
            if not self._left:
                self._transport.set_protocol(self._link)
                self.answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_exception(ConnectionError("the connection broke"))


def pack(command: tuple[Any, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)
    return packed


def _hello(options: dict[str, Any]) -> list[tuple[str, ...]]:
    commands: list[tuple[str, ...]] = []
    if options.get("password"):
        user = options.get("username")
        commands.append(("AUTH", *([user] if user else []), options["password"]))
    if options.get("db"):
        commands.append(("SELECT", str(options["db"])))
    return [*commands, ("CLIENT", "SETNAME", "headwater-serve"), ("PING",)]


def _tls(options: dict[str, Any]) -> ssl.SSLContext | None:
    """The context of a rediss:// URL; its query may name ssl_ca_certs and ssl_cert_reqs."""
    if "SSL" not in getattr(options.get("connection_class"), "__name__", ""):
        return None
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if options.get("ssl_check_hostname") is False:
        context.check_hostname = False
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context


def _unavailable(reason: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"Redis does not answer: {reason}; try again shortly")
