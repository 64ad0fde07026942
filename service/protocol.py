"""uvicorn's HTTP/1.1, with a short way for `POST /get-online-features` from socket to answer.

Every other request goes on to the application unchanged. An ASGI cycle costs a task, an event and
several messages for each request; the short way costs a callback (docs/decisions.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.access import ANONYMOUS
from service.arrow import MEDIA_TYPE
from service.replies import Reply
from service.vectors import ARROW, BUSY, JSON, Vectors, Wishes

PATH = b"/get-online-features"
DEADLINE = b"x-request-deadline-ms"
_ARROW = MEDIA_TYPE.encode()
_USUAL = Wishes()
#: Heads of requests that are known by their bytes, and how long such a head may be.
_MAX_HEADS, _MAX_HEAD_BYTES = 1000, 2000
#: A body of this size and more goes to the socket beside its head, not copied behind it.
_LARGE_BODY = 16_384


class _Head(NamedTuple):
    """What the parser made of a head: its headers, the length of the body, what is wished."""

    headers: list[tuple[bytes, bytes]]
    length: int
    wishes: Wishes


class _Exchange:
    """One request on the short way: what uvicorn's protocol asks of a cycle, and no more."""

    __slots__ = ("body", "caller", "disconnected", "keep_alive", "more_body", "response_complete")

    def __init__(self, keep_alive: bool) -> None:
        self.body = b""
        self.caller = ANONYMOUS
        self.keep_alive = keep_alive
        self.more_body, self.response_complete, self.disconnected = True, False, False

    @property
    def message_event(self) -> _Exchange:
        return self

    def set(self) -> None:
        """Nobody waits for a message: the whole body comes first."""


class FastProtocol(HttpToolsProtocol):
    """Bound to the running service by `bound_to`."""

    #: How answers of a status begin, and the list of headers that it was made of.
    begun: ClassVar[dict[int, tuple[Any, bytes]]] = {}
    #: A whole `BUSY`, and the list of headers that it was made of.
    busy: ClassVar[tuple[Any, bytes]] = (None, b"")
    #: Clients send the same head with every request; of each service, and for all connections.
    heads: dict[bytes, _Head]
    #: No request is half read: what comes next is a head.
    between = True
    idle_since = 0.0
    #: What waits for its refusal, and since when, by perf_counter.
    turned_down: tuple[_Exchange, float]
    #: Of the socket, where what is written to it is sent as it is.
    socket_number = 0
    vectors: Vectors
    max_body_bytes: int
    admit: Callable[[list[tuple[bytes, bytes]]], str | Reply]

    def data_received(self, data: bytes) -> None:
        """One whole request whose head is known by its bytes needs no parser."""
        if not self.between:
            super().data_received(data)
            return
        before = self.cycle
        end = data.find(b"\r\n\r\n") + 4
        known = self.heads.get(data[:end]) if end <= _MAX_HEAD_BYTES else None
        if (
            known is None
            or len(data) - end != known.length
            or not (before is None or before.response_complete)
        ):
            super().data_received(data)
            self._learn(data, end, before)
            return
        if self.vectors.line.is_full:
            # Before anything that would have to be paid for by those let in.
            self._turn_down()
            return
        exchange = self.cycle = _Exchange(True)  # type: ignore[assignment]
        if not self._turn_away(exchange, known.headers):
            exchange.body = data[end:]
            self._handle(exchange, known.wishes)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.scheme == "http":
            self.socket_number = transport.get_extra_info("socket").fileno()

    def _turn_down(self) -> None:
        """Answer `BUSY` to a request that came whole and with no other before it."""
        start, vectors = time.perf_counter(), self.vectors
        if vectors.line.refuses_at(start):
            vectors.count_refusal(start)
            self._say_busy()
            # What `on_response_complete` does where nothing came behind the request.
            self.server_state.total_requests += 1
            self.idle_since = start
            if self.timeout_keep_alive_task is None:
                self._look_later(self.timeout_keep_alive)
        else:
            self.cycle = exchange = _Exchange(True)  # type: ignore[assignment]
            self.turned_down = exchange, start
            vectors.line.refusals.append(self._refuse)

    def _refuse(self) -> None:
        """Answer `BUSY` in a later turn: another request may have come behind this one."""
        exchange, start = self.turned_down
        exchange.response_complete = True
        self.vectors.count_refusal(start)
        if not exchange.disconnected and not self.transport.is_closing():
            self._say_busy()
            self.on_response_complete()

    def _say_busy(self) -> None:
        """Write `BUSY` straight to the socket, where nothing else waits to be sent.

        The loop would write it only when all other sockets are read, and takes half as long again.
        """
        headers, text = FastProtocol.busy
        if headers is not self.server_state.default_headers:
            text = self._busy()
        sent = 0
        if self.socket_number and not self.transport.get_write_buffer_size():
            try:  # noqa: SIM105 (a context manager takes longer than all else here)
                sent = os.write(self.socket_number, text)
            except OSError:
                pass  # a full buffer or a broken connection is the loop's to deal with
        if sent < len(text):
            self.transport.write(text[sent:])

    def _learn(self, data: bytes, end: int, before: Any) -> None:
        """Remember a head that came with its body, alone, and took the short way."""
        cycle: Any = self.cycle
        if (
            type(cycle) is _Exchange
            and cycle is not before
            and self.between
            and cycle.keep_alive
            and 4 <= end <= _MAX_HEAD_BYTES
            and cycle.body == data[end:]
        ):
            wishes = wishes_of(self.headers, self.loop, cycle.caller)
            if wishes.deadline is None:
                if len(self.heads) >= _MAX_HEADS:
                    self.heads.clear()
                self.heads[data[:end]] = _Head(self.headers, len(cycle.body), wishes)

    def on_message_begin(self) -> None:
        self.between = False
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        cycle = self.cycle
        if (
            self.url == PATH
            and not self.expect_100_continue
            and (cycle is None or cycle.response_complete)
            and self.parser.get_method() == b"POST"
            and not self.parser.should_upgrade()
        ):
            keep_alive = self.parser.should_keep_alive()
            exchange = self.cycle = _Exchange(keep_alive)  # type: ignore[assignment]
            self._turn_away(exchange, self.headers)
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()

    def _turn_away(self, exchange: _Exchange, headers: list[tuple[bytes, bytes]]) -> bool:
        admitted = self.admit(headers)
        if isinstance(admitted, str):
            exchange.caller = admitted
            return False
        exchange.keep_alive = False  # its body is not worth reading
        self._respond(exchange, admitted)
        return True

    def on_body(self, body: bytes) -> None:
        cycle: Any = self.cycle
        if type(cycle) is not _Exchange:
            super().on_body(body)
            return
        if cycle.response_complete:
            return
        cycle.body = cycle.body + body if cycle.body else body
        if len(cycle.body) > self.max_body_bytes:
            cycle.keep_alive = False
            text = b'{"detail":"the body is larger than %d bytes"}' % self.max_body_bytes
            self._respond(cycle, Reply(413, text))

    def on_message_complete(self) -> None:
        self.between = True
        cycle: Any = self.cycle
        if type(cycle) is not _Exchange:
            super().on_message_complete()
        elif not cycle.response_complete:
            self._handle(cycle, wishes_of(self.headers, self.loop, cycle.caller))

    def _handle(self, exchange: _Exchange, wishes: Wishes) -> None:
        exchange.more_body = False
        self.vectors.handle(exchange.body, wishes, partial(self._respond, exchange))

    def _respond(self, cycle: _Exchange, reply: Reply) -> None:
        if cycle.response_complete or cycle.disconnected or self.transport.is_closing():
            cycle.response_complete = True
            return
        head, body = self._head(reply, cycle.keep_alive), reply.body
        if len(body) < _LARGE_BODY:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))
        cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _head(self, reply: Reply, keep_alive: bool) -> bytes:
        head = self._status_head(reply.status)
        if reply.status != 200:
            head += b"".join([b"%b: %b\r\n" % pair for pair in reply.headers()[1:]])
        if not keep_alive:
            head += b"connection: close\r\n"
        kind, size = reply.media_type.encode(), len(reply.body)
        return b"%bcontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (head, kind, size)

    def _busy(self) -> bytes:
        text = self._head(BUSY, True) + BUSY.body
        FastProtocol.busy = (self.server_state.default_headers, text)
        return text

    def _status_head(self, status: int) -> bytes:
        # uvicorn makes a new list, with a new date, every second.
        headers = self.server_state.default_headers
        known = FastProtocol.begun.get(status)
        if known is None or known[0] is not headers:
            lines = b"".join([b"%b: %b\r\n" % header for header in headers])
            known = FastProtocol.begun[status] = (headers, STATUS_LINE[status] + lines)
        return known[1]

    # Closing idle connections: one timer that looks when it is due, where uvicorn's makes and
    # cancels one for each request.

    def _unset_keepalive_if_required(self) -> None:
        """The timer stays: it looks for itself."""

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self.idle_since = time.perf_counter()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self.timeout_keep_alive_task is None:
            self._look_later(self.timeout_keep_alive)

    def _look_later(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self.transport.is_closing():
            return
        left = self.idle_since + self.timeout_keep_alive - time.perf_counter()
        if self.cycle is not None and not self.cycle.response_complete:
            self._look_later(self.timeout_keep_alive)
        elif left > 0:
            self._look_later(left)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None


def wishes_of(
    headers: list[tuple[bytes, bytes]], loop: asyncio.AbstractEventLoop, caller: str
) -> Wishes:
    """What a request's headers ask for; a deadline that is no number is none."""
    deadline, form = None, JSON
    for name, value in headers:
        if name == DEADLINE:
            with contextlib.suppress(ValueError):
                deadline = loop.time() + max(0.0, float(value)) / 1000
        elif name == b"accept":
            form = ARROW if _ARROW in value else JSON
    usual = deadline is None and form is JSON and caller is ANONYMOUS
    return _USUAL if usual else Wishes(deadline, form, caller)


def bound_to(
    vectors: Vectors,
    max_body_bytes: int,
    admit: Callable[[list[tuple[bytes, bytes]]], str | Reply],
) -> type[FastProtocol]:
    """The protocol class of one service; `admit` sees the headers before the body is read, and
    says whose the request is, or what is answered to one that may not."""
    return type(
        "FastProtocol",
        (FastProtocol,),
        {
            "vectors": vectors,
            "max_body_bytes": max_body_bytes,
            "admit": staticmethod(admit),
            "heads": {},
        },
    )
