"""Rows on their way in: written before the answer, or queued within a bound behind a receipt."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from headwater.errors import BadRequestError, HeadwaterError, StoreUnavailableError
from headwater.offline.append import append
from headwater.online.values import ViewReader
from headwater.online.writer import OnlineWriter
from service.writes import Frame

logger = logging.getLogger("headwater.service")
#: What became of a push is remembered for so many of them.
_REMEMBERED = 10_000
TO = ("online", "offline", "online_and_offline")


class Pushes:
    """Writes frames to the online store, to the views' batch sources, or to both."""

    def __init__(self, writer: Callable[[], OnlineWriter], limit: int) -> None:
        self._writer = writer
        self._queue: asyncio.Queue[tuple[str, Callable[[], None]]] = asyncio.Queue(limit)
        self._states: OrderedDict[str, dict[str, Any]] = OrderedDict()

    async def push(
        self, frames: Sequence[tuple[Frame, ViewReader]], to: str, wait: str
    ) -> dict[str, Any]:
        """The receipt. With wait "online" the rows are servable when this returns.

        Raises StoreUnavailableError where a store does not take the rows or the queue is full.
        """
        if to not in TO:
            raise BadRequestError(f'"to" is {to!r}; it is one of {", ".join(TO)}')
        if wait not in {"online", "none"}:
            raise BadRequestError(f"wait={wait!r}; it is online or none")
        if to != "online":
            without = [f.view.name for f, _ in frames if f.view.batch is None]
            if without:
                raise BadRequestError(f"{without} have no batch source that rows could go to")
        receipt = uuid.uuid4().hex
        state = {
            "receipt": receipt,
            "state": "queued",
            "to": to,
            "rows": {frame.view.name: len(frame.events) for frame, _ in frames},
        }

        def work() -> None:
            self._write(frames, to)

        if wait == "online":
            await asyncio.to_thread(work)
            state["state"] = "written"
        else:
            try:
                self._queue.put_nowait((receipt, work))
            except asyncio.QueueFull:
                raise StoreUnavailableError(
                    f"{self._queue.maxsize} pushes wait already; try again shortly"
                ) from None
        self._states[receipt] = state
        if len(self._states) > _REMEMBERED:
            self._states.popitem(last=False)
        return state

    def state(self, receipt: str) -> dict[str, Any] | None:
        """What became of a push: queued, written or failed."""
        return self._states.get(receipt)

    async def run(self) -> None:
        """Write what is queued, in order; a store that is away is waited for."""
        while True:
            receipt, work = await self._queue.get()
            state = self._states.get(receipt, {})
            while True:
                try:
                    await asyncio.to_thread(work)
                    state["state"] = "written"
                    break
                except StoreUnavailableError as error:
                    logger.warning("a queued push waits: %s", error)
                    await asyncio.sleep(0.5)
                except (HeadwaterError, OSError, ValueError) as error:
                    state.update(state="failed", detail=str(error))
                    break
            self._queue.task_done()

    async def drain(self, seconds: float) -> None:
        """Wait until nothing is queued, at most so long."""
        try:
            await asyncio.wait_for(self._queue.join(), seconds)
        except TimeoutError:
            logger.warning("pushes that were queued are lost: %d", self._queue.qsize())

    def _write(self, frames: Sequence[tuple[Frame, ViewReader]], to: str) -> None:
        clocks: dict[tuple[str, str], int] = {}
        for frame, reader in frames:
            if not frame.events:
                continue
            newest = max(frame.events)
            clocks["source", frame.view.name] = newest
            if to != "offline":
                self._writer().write_rows(*frame.packed(reader))
                clocks["online", frame.view.name] = newest
        if to != "online":
            # Views of one source have one table: its rows go in once.
            done = set()
            for frame, _ in frames:
                batch = frame.view.batch
                if batch is None or not frame.events:
                    continue
                if batch.path not in done:
                    append(batch, _joined([f for f, _ in frames if f.view.batch == batch]))
                    done.add(batch.path)
                clocks["offline", frame.view.name] = max(frame.events)
        self._writer().raise_clocks(clocks)


def _joined(frames: Sequence[Frame]) -> Any:
    """The columns of all views that read one source, side by side."""
    table = frames[0].table()
    for frame in frames[1:]:
        other = frame.table()
        for name in other.column_names:
            if name not in table.column_names:
                table = table.append_column(name, other[name])
    return table
