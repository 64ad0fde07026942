"""The service under more load than it carries, and around an outage of its Redis."""

from __future__ import annotations

import json
import os
import random
import select
import socket
import time
import urllib.error
import urllib.request
from collections import deque
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from headwater.local import LocalRedis


class Overload(NamedTuple):
    """Answers a second, 200 and 503, and their latencies in milliseconds."""

    accepted: float
    accepted_p50_ms: float
    accepted_p99_ms: float
    refused: float
    refused_p99_ms: float


def overload(
    url: str, body: Any, connections: int, seconds: int, rate: float | None = None
) -> Overload:
    """Send a body over so many connections, each with one request under way at most.

    rate: requests a second, at random times, however long answers take; None: each connection asks
    again as soon as it is answered. Tools that pace their requests do it for each connection, and
    so in bursts of all of them. Raises RuntimeError for an answer that is neither 200 nor 503.
    """
    data = json.dumps(body).encode()
    request = (
        b"POST /get-online-features HTTP/1.1\r\nHost: service\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)
    )
    address = urlsplit(url)
    sockets = [
        socket.create_connection((address.hostname, address.port)) for _ in range(connections)
    ]
    try:
        for one in sockets:  # so that the service has taken all connections before it is measured
            one.sendall(b"GET /health HTTP/1.1\r\nHost: service\r\n\r\n")
            one.recv(1 << 16)
        found = _send(request, sockets, seconds, rate)
    finally:
        for one in sockets:
            one.close()
    accepted, refused = (sorted(1e3 * one for one in found[status]) for status in (200, 503))
    refused_p99 = refused[len(refused) * 99 // 100] if refused else 0.0
    return Overload(
        len(accepted) / seconds, accepted[len(accepted) // 2], accepted[len(accepted) * 99 // 100],
        len(refused) / seconds, refused_p99,
    )  # fmt: skip


def _send(
    request: bytes, sockets: list[socket.socket], seconds: int, rate: float | None
) -> dict[int, list[float]]:
    """The seconds that answers took, by their status."""
    chance, poll = random.Random(5), select.epoll()
    for one in sockets:
        poll.register(one.fileno(), select.EPOLLIN)
    idle, sent = deque(one.fileno() for one in sockets), {}
    left: dict[int, int] = {}
    status: dict[int, int] = {}
    found: dict[int, list[float]] = {200: [], 503: []}
    now = due = time.perf_counter()
    end = now + seconds
    while now < end:
        while idle and due <= now:
            number = idle.popleft()
            sent[number] = time.perf_counter()
            os.write(number, request)
            due += chance.expovariate(rate) if rate else 0.0
        wait = max(0.0, due - now) if idle else 0.1
        for number, _ in poll.poll(wait if wait > 0.0005 else 0):
            part = os.read(number, 1 << 18)
            if not left.get(number):
                status[number], left[number] = _begun(part)
            left[number] -= len(part)
            if not left[number]:
                found[status[number]].append(time.perf_counter() - sent[number])
                idle.append(number)
        now = time.perf_counter()
    return found


def _begun(part: bytes) -> tuple[int, int]:
    """An answer's status and whole length. Raises RuntimeError where it is no 200 and no 503."""
    status, head_end = int(part[9:12] or 0), part.find(b"\r\n\r\n") + 4
    if status not in {200, 503}:
        raise RuntimeError(part[:1000].decode())
    at = part.index(b"content-length: ") + 16
    return status, head_end + int(part[at : part.index(b"\r", at)])


class Outage(NamedTuple):
    """Milliseconds to a 503 while Redis is away, and from the start of its process to a vector."""

    refused_ms: float
    back_ms: float


def outage(url: str, body: bytes, server: LocalRedis) -> Outage:
    """Kill Redis, ask, start it again, ask until there is an answer."""
    server.kill()
    status, refused = _ask(url, body)
    for _ in range(10):  # the first request may be the one that finds it gone
        status, seconds = _ask(url, body)
        refused = max(refused, seconds)
    if status != 503:
        raise RuntimeError(f"without Redis the service answers {status}")
    returned = time.perf_counter()
    server.start()
    while (status := _ask(url, body)[0]) != 200:
        if time.perf_counter() - returned > 10:
            raise RuntimeError(f"ten seconds after Redis's return the service answers {status}")
        time.sleep(0.002)
    return Outage(refused * 1e3, (time.perf_counter() - returned) * 1e3)


def _ask(url: str, body: bytes) -> tuple[int, float]:
    start = time.perf_counter()
    request = urllib.request.Request(
        f"{url}/get-online-features", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
            return answer.status, time.perf_counter() - start
    except urllib.error.HTTPError as error:
        return error.code, time.perf_counter() - start
