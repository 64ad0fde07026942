"""Features of many entities as columns, straight from packed rows and window sections. Pure.

What `headwater.online.values` does value by value for Feast's plugin, this does by whole arrays for
the service; both give the same values, statuses and times.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from headwater import kernels, read_kernels
from headwater.catalog import AggregationPlan, FieldPlan, ViewPlan, column_kind
from headwater.codec import HAS_CREATED, HAS_OFFSET, WINDOW_HEADER, RowCodec, StaleSchemaError
from headwater.online.values import ViewReader
from headwater.windows import WindowProgram

Int64 = NDArray[np.int64]
UInt8 = NDArray[np.uint8]
#: Codes of a status, and Feast's names for them.
PRESENT, NULL_VALUE, NOT_FOUND, OUTSIDE_MAX_AGE = range(4)
STATUS_NAMES = ("PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE")
_CELLS = {"INT32": "<i4", "INT64": "<i8", "BOOL": "?", "UNIX_TIMESTAMP": "<i8", "FLOAT": "<f4",
          "DOUBLE": "<f8"}  # fmt: skip
_TIME = struct.Struct("<q")
#: What rows may have behind their event time (`headwater.codec`).
_CREATED = (("created", "<i8"),)
_ORIGIN = (("partition", "<i4"), ("offset", "<i8"))


class Block(NamedTuple):
    """Features of one kind together: their positions, and their numbers [features, n].

    Floats hold NaN for null; integers hold no null.
    """

    at: tuple[int, ...]
    numbers: NDArray[Any]


class Joined(NamedTuple):
    """Values of Redis one behind the other: int64 words of windows, bytes of rows.

    sizes: of each value [n] in such units, 0 where there is none; one number where all are alike.
    """

    data: Any
    sizes: Int64 | int


class Words(NamedTuple):
    """Features of n entities of one or several views, of numbers and truths alone.

    words: [features, n], floats by their bits, NaN for null. status: codes [features, n].
    Where a feature's row in both is, its reader tells. event_us: [views, n], 0 where there is no
    row. nulls: how many codes are not PRESENT, and how many floats of these.
    """

    words: Int64
    status: UInt8
    event_us: Int64
    nulls: tuple[int, int]
    joined: Joined


def joined_rows(rows: Sequence[bytes | None]) -> Joined:
    """Packed rows one behind the other."""
    kept = [row or b"" for row in rows]
    sizes = np.array([len(row) for row in kept], np.int64)
    return Joined(np.frombuffer(b"".join(kept), np.uint8), sizes)


class ViewColumns:
    """Some features of n entities of one view.

    Each feature is in a block or, where it has other values or integers with nulls, a list [n] in
    `lists`. status: None where all are PRESENT, else codes [features, n]. event_us: [n], 0 where
    there is no row. nulls: how many numbers in blocks are NaN because they are null. joined: what
    it was read from, where that was joined.
    """

    __slots__ = ("blocks", "event_us", "joined", "lists", "nulls", "status")

    def __init__(
        self, blocks: Sequence[Block], lists: dict[int, list[Any]], status: UInt8 | None,
        event_us: Sequence[int] | Int64, nulls: int = 0, joined: Joined | None = None,
    ) -> None:  # fmt: skip
        self.blocks, self.lists, self.nulls = blocks, lists, nulls
        self.status, self.event_us, self.joined = status, event_us, joined

    def plain(self, at: int) -> list[Any]:
        """One feature as a list of plain values, None for null."""
        if at in self.lists:
            return self.lists[at]
        block = next(block for block in self.blocks if at in block.at)
        values: list[Any] = block.numbers[block.at.index(at)].tolist()
        if self.status is not None:
            codes = self.status[at].tolist()
            values = [None if code else v for v, code in zip(values, codes, strict=True)]
        return values

    def statuses(self, at: int) -> list[str]:
        if self.status is None:
            return [STATUS_NAMES[PRESENT]] * len(self.event_us)
        return [STATUS_NAMES[code] for code in self.status[at].tolist()]


class _Kinds:
    """Which features are floats, integers and booleans; how words become columns.

    Words come in the order of `order`: the floats, the integers, the booleans.
    """

    def __init__(self, types: Sequence[str], never_null: Sequence[int] = ()) -> None:
        kinds = ["bool" if t == "BOOL" else column_kind(t) for t in types]
        self.floats = tuple(i for i, kind in enumerate(kinds) if kind == "float")
        self._ints = tuple(i for i, kind in enumerate(kinds) if kind == "int")
        self._bools = tuple(i for i, kind in enumerate(kinds) if kind == "bool")
        self.order = (*self.floats, *self._ints, *self._bools)
        #: The row of each feature's words, where all have some.
        self.rows = np.argsort(self.order).tolist()
        self._may_be_null = [i for i in self._ints if i not in never_null]

    def columns_of(self, found: Words) -> ViewColumns:
        """Words of one view as columns."""
        nulls, float_nulls = found.nulls
        return self.columns(
            found.words, found.status if nulls else None, found.event_us[0], float_nulls,
            found.joined,
        )  # fmt: skip

    def columns(
        self, words: Int64, status: UInt8 | None, event_us: Int64, nulls: int = 0,
        joined: Joined | None = None,
    ) -> ViewColumns:  # fmt: skip
        """Words [features, n] (floats by their bits, NaN for null) as columns."""
        n, blocks, lists = len(self.floats), [], {}
        if n:
            blocks.append(Block(self.floats, words[:n].view(np.float64)))
        whole = self._ints
        if status is not None and self._may_be_null:
            holed = [i for i in self._may_be_null if status[i].any()]
            for i in holed:
                lists[i] = _with_nulls(words[self.order.index(i)].tolist(), status[i])
            whole = tuple(i for i in self._ints if i not in holed)
        if whole == self._ints and whole:
            blocks.append(Block(whole, words[n : n + len(whole)]))
        elif whole:
            blocks.append(Block(whole, words[[self.order.index(i) for i in whole]]))
        for i in self._bools:
            plain = words[self.order.index(i)].astype(np.bool_).tolist()
            lists[i] = plain if status is None else _with_nulls(plain, status[i])
        return ViewColumns(blocks, lists, status, event_us, nulls, joined)


def _with_nulls(values: list[Any], status: UInt8) -> list[Any]:
    return [None if code else v for v, code in zip(values, status.tolist(), strict=True)]


class RowColumns:
    """Reads some features of a view's packed rows."""

    def __init__(self, view: ViewPlan, names: Sequence[str]) -> None:
        self._codec = RowCodec.of(view)
        self._fingerprint = int.from_bytes(self._codec.fingerprint, "little")
        self._ttl_us = view.ttl_us
        self._wanted = [view.feature_names.index(name) for name in names]
        types = [field.type for field in view.features]
        self.types = [types[i] for i in self._wanted]
        self._kinds = _Kinds(self.types)
        self._cells: Int64 | None = None
        self._layouts: dict[bytes, np.dtype[Any]] = {}
        if types and all(kind in _CELLS for kind in types):
            self._cells = _cell_table(types, [(self._wanted[i], i) for i in self._kinds.order])
            self._layouts = _layouts(view.schema_fingerprint, types)
        # Where all cells are of one float type, their bytes are the answer's numbers.
        self._block = len(set(types)) == 1 and types[0] in {"DOUBLE", "FLOAT"}
        in_order = self._wanted == list(range(len(types)))
        self._rows = slice(None) if in_order else np.array(self._wanted, np.int64)
        self._direct = self._block and types[0] == "DOUBLE" and in_order
        self._bits = (len(types) + 7) // 8
        self._words = None if self._cells is None else RowWords([self])

    @property
    def word_rows(self) -> list[int] | None:
        """The row of each feature among its words; None where it has other values than numbers."""
        return None if self._cells is None else self._kinds.rows

    def words(self, data: Sequence[bytes | None], now_us: int) -> Words:
        """The features of each row as of now; only where `word_rows` is not None."""
        assert self._words is not None  # noqa: S101 (narrows the type for mypy)
        return self._words.read(data, now_us)

    def joined(self, data: Sequence[bytes | None]) -> Joined:
        """What `words` joins before it reads."""
        return joined_rows(data)

    def columns(self, found: Words) -> ViewColumns:
        """The columns of words that were read before."""
        return self._kinds.columns_of(found)

    @property
    def layout(self) -> tuple[tuple[int, int, int], Int64]:
        """For `read_kernels.read_rows`: fingerprint, bytes of null bits, time to live; cells."""
        assert self._cells is not None  # noqa: S101 (narrows the type for mypy)
        return (self._fingerprint, self._bits, self._ttl_us), self._cells

    def read(self, data: Sequence[bytes | None], now_us: int) -> ViewColumns:
        """The features of each packed row, as of now."""
        first = data[0] if data else None
        layout = self._layouts.get(first[:4]) if first else None
        if layout is not None and first is not None:
            if len(data) == 1 and self._direct:
                found = self._one(first, layout.itemsize, now_us)
            else:
                found = self._uniform(data, first[:4], layout, now_us)
            if found is not None:
                return found
        if self._words is not None:
            return self._kinds.columns_of(self._words.read(data, now_us))
        return self._one_by_one(data, now_us)

    def _one(self, row: bytes, size: int, now_us: int) -> ViewColumns | None:
        event_us = _TIME.unpack_from(row, 4)[0]
        if len(row) != size or (self._ttl_us and event_us < now_us - self._ttl_us):
            return None
        n = len(self._wanted)
        cells = np.frombuffer(row[size - 8 * n :], np.float64).reshape(n, 1)
        blocks = (Block(self._kinds.floats, cells),)
        return ViewColumns(blocks, {}, None, (event_us,), joined=Joined(row, size))

    def _uniform(
        self, data: Sequence[bytes | None], head: bytes, layout: np.dtype[Any], now_us: int
    ) -> ViewColumns | None:
        """Rows of one layout without a null, none missing or expired; None where they are not.

        The head tells a row's length, so that a head at each multiple of the first row's length
        proves that the rows are cut rightly.
        """
        try:
            joined = b"".join(data)  # type: ignore[arg-type]
        except TypeError:
            return None
        if len(joined) != len(data) * layout.itemsize:
            return None
        rows, whole = np.frombuffer(joined, layout), Joined(joined, layout.itemsize)
        if (rows["head"] != int.from_bytes(head, "little")).any():
            return None
        if self._ttl_us and int(rows["event"].min()) < now_us - self._ttl_us:
            return None
        return self._of_rows(rows, whole)

    def of_parts(self, parts: Sequence[Any]) -> tuple[ViewColumns, list[NDArray[Any]]]:
        """The features of rows of one layout without a null, in parts, each one row behind the
        other: what `read` has joined, where their sizes are all alike. Also the parts as arrays of
        rows (fields `event`, and `created`, `partition` and `offset` where rows have them).

        Raises ValueError where they are none.
        """
        found = [self._alike(part) for part in parts]
        words = np.empty((len(self._wanted), sum(map(len, found))), np.int64)
        at = 0
        for rows in found:
            self._put(rows, words[:, at : at + len(rows)])
            at += len(rows)
        event_us = np.concatenate([rows["event"] for rows in found])
        return self._kinds.columns(words, None, event_us), found

    def _alike(self, data: Any) -> NDArray[Any]:
        layout = self._layouts.get(bytes(data[:4]))
        if layout is None or len(data) % layout.itemsize:
            raise ValueError("these are no rows of the view")
        return np.frombuffer(data, layout)

    def _of_rows(self, rows: NDArray[Any], whole: Joined) -> ViewColumns:
        event_us = rows["event"]
        if self._block:
            cells = rows["block"].T[self._rows].astype(np.float64, "C")
            blocks = (Block(self._kinds.floats, cells),)
            return ViewColumns(blocks, {}, None, event_us, joined=whole)
        words = np.empty((len(self._wanted), len(rows)), np.int64)
        self._put(rows, words)
        return self._kinds.columns(words, None, event_us, joined=whole)

    def _put(self, rows: NDArray[Any], words: Int64) -> None:
        """The features of rows into words [features, n]."""
        floats = words.view(np.float64)
        if self._block:
            floats[:] = rows["block"].T[self._rows]
            return
        for row, at in enumerate(self._kinds.order):
            into = floats if row < len(self._kinds.floats) else words
            into[row] = rows[f"c{self._wanted[at]}"]

    def _one_by_one(self, data: Sequence[bytes | None], now_us: int) -> ViewColumns:
        """Rows that hold texts, lists or maps."""
        n = len(data)
        lists: dict[int, list[Any]] = {at: [] for at in range(len(self._wanted))}
        status = np.zeros((len(self._wanted), n), np.uint8)
        event_us = np.zeros(n, np.int64)
        oldest = now_us - self._ttl_us if self._ttl_us else kernels.I64_MIN
        for row, packed in enumerate(data):
            try:
                found = self._codec.unpack(packed) if packed else None
            except (StaleSchemaError, struct.error, ValueError):
                # Another version of the schema wrote it: absent is true, a misread value is not.
                found = None
            event_us[row] = found.event_us if found else 0
            if found is None or found.event_us < oldest:
                status[:, row] = NOT_FOUND if found is None else OUTSIDE_MAX_AGE
                for column in lists.values():
                    column.append(None)
                continue
            for at, i in enumerate(self._wanted):
                value = found.values[i]
                lists[at].append(value)
                if value is None:
                    status[at, row] = NULL_VALUE
        return ViewColumns((), lists, status if status.any() else None, event_us)


class RowWords:
    """Reads rows of several views in one call, where all of them have `word_rows`."""

    def __init__(self, readers: Sequence[RowColumns]) -> None:
        views, cells, first = [], [], 0
        for view, own in (reader.layout for reader in readers):
            views.append((*view, first))
            cells.append(own + np.array([0, 0, 0, 0, 0, first]))  # the status behind the others'
            first += len(own)
        self._views = np.array(views, np.int64).reshape(-1, 4)
        self._cells = np.concatenate(cells) if cells else np.empty((0, 6), np.int64)

    def read(self, data: Sequence[bytes | None], now_us: int) -> Words:
        """The features as of now; `data` are n rows of the first view, n of the next one, ..."""
        n = len(data) // len(self._views)
        whole = joined_rows(data)
        words = np.zeros((len(self._cells), n), np.int64)
        status = np.zeros((len(self._cells), n), np.uint8)
        event_us = np.zeros((len(self._views), n), np.int64)
        nulls = read_kernels.read_rows(
            *whole, self._views, self._cells, now_us, words, status, event_us
        )
        return Words(words, status, event_us, nulls, whole)


class WindowColumns:
    """Reads some features of a windowed view's sections."""

    def __init__(self, reader: ViewReader, names: Sequence[str]) -> None:
        view = reader.view
        self._reader, self._names = reader, names
        self._program = WindowProgram.of(view)
        wanted = [view.feature_names.index(name) for name in names]
        counts = [at for at, i in enumerate(wanted) if view.aggregations[i].function == "count"]
        self.types = [view.aggregations[i].output_type for i in wanted]
        self._kinds = _Kinds(self.types, counts)
        if self._program.reads_whole:
            self._table = self._program.result_table([(wanted[i], i) for i in self._kinds.order])

    def read(self, data: Sequence[bytes | None], now_us: int) -> ViewColumns:
        """The features of each entity, windows up to now."""
        if not self._program.reads_whole:
            return self._one_by_one(data, now_us)
        return self._kinds.columns_of(self.words(data, now_us))

    @property
    def word_rows(self) -> list[int] | None:
        """The row of each feature among `words`; None where there are other values than numbers."""
        return self._kinds.rows if self._program.reads_whole else None

    def words(self, data: Sequence[bytes | None], now_us: int) -> Words:
        """The features of each entity as of now; only where `word_rows` is not None."""
        words, sizes = self._program.joined(data)
        found, status, newest, nulls = self._program.read_columns(words, sizes, self._table, now_us)
        return Words(found, status, newest.reshape(1, -1), nulls, Joined(words, sizes))

    def joined(self, data: Sequence[bytes | None]) -> Joined:
        """What `words` joins before it reads."""
        return Joined(*self._program.joined(data))

    def columns(self, found: Words) -> ViewColumns:
        """The columns of words that were read before."""
        return self._kinds.columns_of(found)

    def _one_by_one(self, data: Sequence[bytes | None], now_us: int) -> ViewColumns:
        """Windows that hold sketches: merged by Python."""
        found = self._reader.values(data, self._names, now_us)
        status = np.array(
            [[v is None for v in column] for column in found.values], np.uint8
        ).reshape(len(self._names), len(data))
        lists = dict(enumerate(found.values))
        return ViewColumns((), lists, status if status.any() else None, found.event_us)


def _layouts(fingerprint: bytes, types: Sequence[str]) -> dict[bytes, np.dtype[Any]]:
    """Rows of fixed cells without a null, by their first four bytes."""
    made = {}
    alike = len(set(types)) == 1
    for flags in (0, HAS_CREATED, HAS_OFFSET, HAS_CREATED | HAS_OFFSET):
        names, offsets = ["head", "event"], [0, 4]
        formats: list[Any] = ["<u4", "<i8"]
        at = 12
        for has, more in ((HAS_CREATED, _CREATED), (HAS_OFFSET, _ORIGIN)):
            for name, kind in more if flags & has else ():
                names, formats, offsets = [*names, name], [*formats, kind], [*offsets, at]
                at += np.dtype(kind).itemsize
        if alike:
            block = (_CELLS[types[0]], (len(types),))
            names, formats, offsets = [*names, "block"], [*formats, block], [*offsets, at]
        for i, kind in enumerate(types):
            cell = np.dtype(_CELLS[kind])
            names, formats = [*names, f"c{i}"], [*formats, cell]
            offsets = [*offsets, at]
            at += cell.itemsize
        fields: Any = {"names": names, "formats": formats, "offsets": offsets, "itemsize": at}
        made[bytes((flags,)) + fingerprint] = np.dtype(fields)
    return made


def _cell_table(types: Sequence[str], wanted: Sequence[tuple[int, int]]) -> Int64:
    """For `read_kernels.read_rows`: where each wanted (cell, row of its status) is."""
    sizes = [np.dtype(_CELLS[kind]).itemsize for kind in types]
    starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    rows = [
        (starts[i], sizes[i], int(column_kind(types[i]) == "float"), i, starts[-1], status_row)
        for i, status_row in wanted
    ]
    return np.array(rows, np.int64).reshape(-1, 6)


def columns_of(reader: ViewReader, names: Sequence[str]) -> RowColumns | WindowColumns:
    """The columnar reader of some features of a view."""
    if reader.view.kind == "window":
        return WindowColumns(reader, names)
    return RowColumns(reader.view, names)


def warm() -> None:
    """Load the compiled loops, so that the first requests do not wait for them."""
    view = ViewPlan("", "row", (), (FieldPlan("x", "DOUBLE"),))
    row = RowCodec.of(view).pack(1, None, -1, -1, [None])
    found = RowColumns(view, ["x"]).read([row, None], 1)
    read_kernels.count_statuses(
        found.status, np.zeros(len(STATUS_NAMES), np.int64), np.zeros(1, np.int64)
    )
    count = AggregationPlan("n", "", "count", None, 1)
    windowed = ViewPlan("", "window", (), (FieldPlan("n", "INT64"),), aggregations=(count,))
    columns_of(ViewReader("", windowed), ["n"]).read([None, WINDOW_HEADER], 1)
    words, sizes = WindowProgram.joined([WINDOW_HEADER])
    read_kernels.section_origins(words, sizes, 0, np.zeros(len(sizes) + 2, np.int64))
