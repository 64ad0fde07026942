"""Rows on their way in: written before the answer, or queued within a bound behind a receipt."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

from headwater.errors import BadRequestError, HeadwaterError, StoreUnavailableError
from headwater.online.values import ViewReader
from headwater.online.writer import OnlineWriter
from service.writes import Frame

logger = logging.getLogger("headwater.service")
#: What became of a push is remembered for so many of them.
_REMEMBERED = 10_000
TO = ("online", "offline", "online_and_offline")


class Pushes:
    """Writes frames to the online store, to the views' batch sources, or to both."""

    def __init__(
        self, writer: Callable[[], OnlineWriter], limit: int, folder: Path | None = None,
        worker: int = 0,
    ) -> None:  # fmt: skip
        self._writer = writer
        self._receipts = Receipts(folder, worker) if folder else None
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

        appended: set[str] = set()

        def work() -> None:
            self._write(frames, to, appended)

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
        self._tell(receipt, state)
        if len(self._states) > _REMEMBERED:
            forgotten, _ = self._states.popitem(last=False)
            if self._receipts:
                self._receipts.forget(forgotten)
        return state

    def _tell(self, receipt: str, state: dict[str, Any]) -> None:
        """Show other workers what became of a push."""
        if self._receipts:
            self._receipts.write(receipt, state)

    def state(self, receipt: str) -> dict[str, Any] | None:
        """What became of a push: queued, written, failed, or lost with its worker."""
        found = self._states.get(receipt)
        if found is None and self._receipts:
            found = self._receipts.read(receipt)
        return found

    async def run(self) -> None:
        """Write what is queued, in order; a store that is away is waited for."""
        while True:
            receipt, work = await self._queue.get()
            state = self._states.get(receipt, {})
            while True:
                try:
                    await asyncio.to_thread(work)
                    state["state"] = "written"
                    self._tell(receipt, state)
                    break
                except StoreUnavailableError as error:
                    logger.warning("a queued push waits: %s", error)
                    await asyncio.sleep(0.5)
                except (HeadwaterError, OSError, ValueError) as error:
                    state.update(state="failed", detail=str(error))
                    self._tell(receipt, state)
                    break
            self._queue.task_done()

    async def drain(self, seconds: float) -> None:
        """Wait until nothing is queued, at most so long."""
        try:
            await asyncio.wait_for(self._queue.join(), seconds)
        except TimeoutError:
            logger.warning("pushes that were queued are lost: %d", self._queue.qsize())

    def _write(
        self, frames: Sequence[tuple[Frame, ViewReader]], to: str, appended: set[str]
    ) -> None:
        """appended: where rows have gone offline. A later try, after Redis failed this one, writes
        everything anew but those: online the newest row wins, a file would have them twice."""
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
            from headwater.offline.append import append  # Delta and DuckDB: not at the start

            # Views of one source have one table: its rows go in once.
            for frame, _ in frames:
                batch = frame.view.batch
                if batch is None or not frame.events:
                    continue
                if batch.path not in appended:
                    append(batch, _joined([f for f, _ in frames if f.view.batch == batch]))
                    appended.add(batch.path)
                clocks["offline", frame.view.name] = max(frame.events)
        self._writer().raise_clocks(clocks)


class Receipts:
    """States of pushes as files that every worker can read, in one folder for each worker."""

    def __init__(self, folder: Path, worker: int) -> None:
        self._all, self._own = folder, folder / f"receipts-{worker}"
        self._own.mkdir(exist_ok=True)
        # What the worker before this one had queued went with it.
        for file in self._own.iterdir():
            if file.suffix:
                file.unlink()
                continue
            state = orjson.loads(file.read_bytes())
            if state["state"] == "queued":
                state.update(state="lost", detail="the worker that had it queued has ended")
                self.write(file.name, state)

    def write(self, receipt: str, state: dict[str, Any]) -> None:
        part = self._own / f"{receipt}.part"
        part.write_bytes(orjson.dumps(state))
        part.rename(self._own / receipt)

    def read(self, receipt: str) -> dict[str, Any] | None:
        if not receipt.isalnum():
            return None
        for folder in self._all.glob("receipts-*"):
            with contextlib.suppress(FileNotFoundError):
                state: dict[str, Any] = orjson.loads((folder / receipt).read_bytes())
                return state
        return None

    def forget(self, receipt: str) -> None:
        (self._own / receipt).unlink(missing_ok=True)


def _joined(frames: Sequence[Frame]) -> Any:
    """The columns of all views that read one source, side by side."""
    table = frames[0].table()
    for frame in frames[1:]:
        other = frame.table()
        for name in other.column_names:
            if name not in table.column_names:
                table = table.append_column(name, other[name])
    return table
