"""An event loop's connection to a Redis Cluster, or to the server that sentinels name."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import hiredis
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import key_slot

from headwater.errors import StoreUnavailableError
from headwater.online.cluster import SLOTS
from headwater.online.connect import Address, parse_address, sentinel_options
from headwater.online.link import CONNECT_SECONDS, RETRY_SECONDS, Done, Gather, Link, pack

#: A node or a sentinel that is asked where things are answers so soon, or another one is asked.
ASK_SECONDS = CONNECT_SECONDS / 2
#: How often one read follows the nodes' redirections.
REDIRECTIONS = 5
Place = tuple[str, int]


def open_link(url: str, timeout_seconds: float) -> Link | ClusterLink:
    """The connection for a Redis URL; inside the event loop. Raises StoreUnavailableError."""
    address = parse_address(url)
    if address.kind == "cluster":
        return ClusterLink(address, timeout_seconds)
    if address.kind == "sentinel":
        return SentinelLink(address, timeout_seconds)
    return Link(url, timeout_seconds)


class SentinelLink(Link):
    """A connection to the server that sentinels name: they are asked before each new one."""

    def __init__(self, address: Address, timeout_seconds: float) -> None:
        own = sentinel_options(address.options)
        self._sentinels: Any = Sentinel(address.nodes, sentinel_kwargs={**own, **_once()})  # type: ignore[no-untyped-call]
        self._service = address.service
        super().__init__(address.plain, timeout_seconds)

    async def _handshake(self) -> tuple[asyncio.Transport, hiredis.Reader]:
        try:
            host, port = await self._sentinels.discover_master(self._service)
        except redis.RedisError as error:
            raise ConnectionError(f"no sentinel names it ({error})") from None
        finally:
            for sentinel in self._sentinels.sentinels:
                await sentinel.aclose()
        self._options |= {"host": host, "port": port}
        return await super()._handshake()


class ClusterLink:
    """Reads from a Redis Cluster: each key from the primary that has its slot."""

    def __init__(self, address: Address, timeout_seconds: float) -> None:
        self._address, self._timeout = address, timeout_seconds
        self._links: dict[Place, Link] = {}
        self._owners: list[Link | None] = [None] * SLOTS
        self._places: list[Place] = list(address.nodes)
        self._reader = hiredis.Reader()
        self._early: list[tuple[bytes, Done, float | None]] | None = []
        self._trouble = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self._looking = asyncio.get_running_loop().create_task(self._look())

    @property
    def connected(self) -> bool:
        return bool(self._links) and all(link.connected for link in self._links.values())

    def send(self, command: bytes, done: Done, deadline: float | None = None) -> None:
        """As `Link.send`, of an MGET: one for each slot goes to its node."""
        if self._early is not None:
            self._early.append((command, done, deadline))
            return
        self._reader.feed(command)
        name, *keys = self._reader.gets()
        slots: defaultdict[int, list[int]] = defaultdict(list)
        for i, key in enumerate(keys):
            slots[key_slot(key)].append(i)
        if len(slots) == 1:
            self._read(next(iter(slots)), name, keys, done, deadline)
            return
        order = [i for positions in slots.values() for i in positions]

        def sorted_(data: Any) -> None:
            if not isinstance(data, Exception):
                data = [value for _, value in sorted(zip(order, data, strict=True), key=_first)]
            done(data)

        gather = Gather(len(slots), sorted_)
        for part, (slot, positions) in enumerate(slots.items()):
            self._read(slot, name, [keys[i] for i in positions], gather.part(part), deadline)

    async def get(self, *command: bytes) -> Any:
        """The reply to a command of one key; to one without, what every primary replies."""
        if len(command) == 1:
            async with asyncio.timeout(self._timeout):
                while self._early is not None:
                    await asyncio.sleep(RETRY_SECONDS / 10)
            return [await link.get(*command) for link in list(self._links.values())]
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(result: Any) -> None:
            if future.done():
                return
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

        self._read(key_slot(command[1]), command[0], command[1:], done, None)
        return await future

    async def close(self) -> None:
        self._looking.cancel()
        await asyncio.gather(self._looking, *self._closing, return_exceptions=True)
        for link in self._links.values():
            await link.close()

    # -- one slot's keys -------------------------------------------------------------------------

    def _read(
        self, slot: int, name: bytes, words: Sequence[bytes], done: Done, deadline: float | None
    ) -> None:
        link = self._owners[slot]
        if link is None:
            self._trouble.set()
            done(StoreUnavailableError("Redis Cluster: no node has the key's slot; try again"))
            return
        self._follow(link, slot, (name, *words), done, deadline, REDIRECTIONS, asking=False)

    def _follow(
        self, link: Link, slot: int, command: tuple[bytes, ...], done: Done,
        deadline: float | None, left: int, *, asking: bool,
    ) -> None:  # fmt: skip
        """Ask a node; where it says so, ask another one."""

        def answered(result: Any) -> None:
            if not isinstance(result, Exception):
                done(result)
                return
            self._trouble.set()
            kind, *rest = str(result.__cause__).split() or [""]
            if kind == "TRYAGAIN" and len(command) > 2 and left:
                # Some of the slot's keys have moved on already: ask for each by itself.
                gather = Gather(len(command) - 1, done)
                for part, key in enumerate(command[1:]):
                    one = (command[0], key)
                    self._follow(link, slot, one, gather.part(part), deadline, left - 1,
                                 asking=asking)  # fmt: skip
            elif kind in {"MOVED", "ASK"} and len(rest) == 2 and left:
                host, _, port = rest[1].rpartition(":")
                other = self._link((host or self._places[0][0], int(port)))
                if kind == "MOVED":
                    self._owners[slot] = other
                self._follow(other, slot, command, done, deadline, left - 1,
                             asking=kind == "ASK")  # fmt: skip
            else:
                done(result)

        if asking:
            link.send(pack((b"ASKING",)), lambda _: None, deadline)
        link.send(pack(command), answered, deadline)

    # -- where the slots are ---------------------------------------------------------------------

    def _link(self, place: Place) -> Link:
        link = self._links.get(place)
        if link is None:
            host, port = place
            link = Link(self._address.plain, self._timeout, host=host, port=port)
            self._links[place] = link
        return link

    async def _look(self) -> None:
        """Learn who has the slots: at first, and while something is wrong."""
        while True:
            told = await self._ask()
            if told is not None:
                self._learn(*told)
            early, self._early = self._early or [], None
            for command, done, deadline in early:
                self.send(command, done, deadline)
            await asyncio.sleep(RETRY_SECONDS)
            while self.connected and not self._trouble.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._trouble.wait(), 1.0)
            self._trouble.clear()

    async def _ask(self) -> tuple[str, Any] | None:
        """What the first node that answers says of the slots, and its host."""
        options = {n: v for n, v in self._address.options.items() if n != "db"}
        for host, port in dict.fromkeys((*self._places, *self._address.nodes)):
            client = redis.asyncio.Redis(host=host, port=port, **options, **_once())
            try:
                told = await client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
            except (redis.RedisError, OSError):
                continue
            finally:
                await client.aclose()
            if told:
                return host, told
        return None

    def _learn(self, asked: str, told: Any) -> None:
        owners: list[Link | None] = [None] * SLOTS
        primaries, places = set(), []
        for low, high, *servers in told:
            nodes = [((host or asked.encode()).decode(), port) for host, port, *_ in servers]
            owners[low : high + 1] = [self._link(nodes[0])] * (high + 1 - low)
            primaries.add(nodes[0])
            places += nodes
        self._owners, self._places = owners, places
        for place in self._links.keys() - primaries:
            task = asyncio.get_running_loop().create_task(self._links.pop(place).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _once() -> dict[str, Any]:
    """Options of a client that asks briefly and once."""
    waits = {"socket_timeout": ASK_SECONDS, "socket_connect_timeout": ASK_SECONDS}
    return {**waits, "retry": Retry(NoBackoff(), 0)}


def _first(pair: tuple[int, Any]) -> int:
    return pair[0]
