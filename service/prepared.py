"""A plan made ready: how to write its keys, read its columns and cut its answer. Pure but for time.

One is kept for each set of features that is asked for, so that a request only does what differs
from the last one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import orjson

from headwater.codec import entity_texts, key_values
from headwater.online.columns import ViewColumns, Words, columns_of
from service import answer
from service.answer import Run
from service.budgets import Budgets, Clocks
from service.feature_log import Recorder
from service.found import Found, Replaced
from service.log_records import LogRecords
from service.metrics import Metrics, Spread, Tally
from service.on_demand import Computed
from service.replies import Reply
from service.requests import FeaturePlan, check_columns
from service.single import SingleEntities, Turn
from service.uses import Use

#: Keys in one MGET, which holds Redis up while it runs.
MGET_KEYS = 1000


class One:
    """A request for one entity on its way.

    head: its answer up to the features. begun: when it came, and when Redis was asked, by the
    clock of `time.perf_counter`. data: what Redis held, once it has answered.
    """

    __slots__ = ("begun", "caller", "data", "entities", "head", "prepared", "respond")
    data: Sequence[bytes | None]

    def __init__(
        self, prepared: Prepared, head: bytes, entities: Mapping[str, Sequence[Any]], caller: str,
        begun: tuple[float, float], respond: Callable[[Reply], None],
    ) -> None:  # fmt: skip
        self.prepared, self.head, self.entities = prepared, head, entities
        self.caller, self.begun, self.respond = caller, begun, respond


class Prepared:
    """Answers requests for one set of features."""

    def __init__(
        self, plan: FeaturePlan, metrics: Metrics, max_entities: int, log: LogRecords,
        clocks: Clocks, recorder: Recorder | None = None, service: str = "",
    ) -> None:  # fmt: skip
        self.plan, self._limit = plan, max_entities
        self._log, self._recorder = log, recorder
        self._readers = [columns_of(read.reader, read.features) for read in plan.reads]
        self.types = [_kinds(read) for read in plan.reads]
        self._computed = [Computed(view, plan) for view in plan.on_demand]
        self._any_time = ["UNIX_TIMESTAMP" in kinds for kinds in self.types]
        self._runs = _runs(plan)
        self._heads = [[_head(r.reader.prefix, size) for size in range(64)] for r in plan.reads]
        #: Told of what was found; `ended` says when the request has its answer.
        self.tally = Tally(
            metrics,
            [(r.reader.view.name, r.features, r.reader.view.kind == "row") for r in plan.reads],
        )
        self._budgets = Budgets(plan, metrics, clocks)
        self._metrics, self._service = metrics, service
        self._uses: dict[str, Use] = {}
        self._oldest_us = [self._budgets.oldest_us(at) for at in range(len(plan.reads))]
        self._single = (
            SingleEntities(plan, self._readers)
            if SingleEntities.fits(plan, self._readers)
            else None
        )
        # A plan whose views enforce nothing pays for one look at this.
        self._enforced = bool(self._budgets)
        #: The key columns, where all reads share them.
        self.one_key = plan.reads[0].columns if len({r.columns for r in plan.reads}) == 1 else ()
        self._templates: dict[int, bytes] = {}
        self._names: dict[tuple[str, ...], bytes] = {}
        self._feature_names = [output.name for output in plan.outputs]

    def check(self, entities: Any) -> int:
        """The number of entities. Raises BadRequestError saying what is wrong with them."""
        return check_columns(self.plan, entities, self._limit)

    def ended(self, caller: str, n: int, to: Spread, seconds: float, read_seconds: float) -> None:
        """A request for n entities has its answer: as `Tally.ended`."""
        self.tally.ended(to, self._use(caller).at, n, seconds, read_seconds)

    def _use(self, caller: str) -> Use:
        use = self._uses.get(caller)
        if use is None:
            features = _features(self.plan)
            use = self._uses[caller] = self._metrics.uses.of(caller, self._service, features)
        return use

    def commands(self, entities: Mapping[str, Sequence[Any]], n: int) -> list[bytes]:
        """The MGETs, as Redis reads them, of the first read's keys, then of the next one's."""
        if n == 1 and self.one_key:
            columns = [self._key(name, entities[name]) for name in self.one_key]
            return [self.command(entity_texts(columns, 1)[0])]
        made: dict[tuple[str, ...], tuple[list[bytes], list[int]]] = {}
        parts: list[bytes] = []
        for read, heads in zip(self.plan.reads, self._heads, strict=True):
            if read.columns not in made:
                texts = entity_texts([self._key(name, entities[name]) for name in read.columns], n)
                made[read.columns] = texts, list(map(len, texts))
            texts, sizes = made[read.columns]
            pairs = texts * 2
            pairs[1::2] = texts
            try:
                pairs[::2] = [heads[size] for size in sizes]
            except IndexError:
                pairs[::2] = [_head(read.reader.prefix, size) for size in sizes]
            parts += pairs
        return [
            b"*%d\r\n$4\r\nMGET%b\r\n" % (len(part) // 2 + 1, b"".join(part))
            for part in (
                parts[at : at + 2 * MGET_KEYS] for at in range(0, len(parts), 2 * MGET_KEYS)
            )
        ]

    def command(self, text: bytes) -> bytes:
        """The MGET of one entity whose key all views share: `text` is its hash tag, in braces."""
        template = self._templates.get(len(text))
        if template is None:
            reads = self.plan.reads
            heads = [_head(read.reader.prefix, len(text)) + b"%b" for read in reads]
            template = b"*%d\r\n$4\r\nMGET%b\r\n" % (len(reads) + 1, b"".join(heads))
            if len(self._templates) < 256:
                self._templates[len(text)] = template
        return template % ((text,) * len(self.plan.reads))

    def _key(self, name: str, values: Sequence[Any]) -> Sequence[Any]:
        return key_values(self.plan.key_types[name], values)

    def columns(self, data: Sequence[bytes | None], n: int, now_us: int) -> list[ViewColumns]:
        """The columns of each read from the values of `keys`."""
        if len(self._readers) == 1:
            return [self._readers[0].read(data, now_us)]
        return [
            reader.read(data[i * n : (i + 1) * n], now_us) for i, reader in enumerate(self._readers)
        ]

    def answer(
        self, entities: Mapping[str, Sequence[Any]], data: Sequence[bytes | None], n: int,
        provenance: bool = False,
    ) -> bytes:  # fmt: skip
        """The body of the answer, counted in the metrics and logged.

        Raises BadRequestError (on demand), PastObjectiveError.
        """
        now_us = time.time_ns() // 1000
        parts = self._head(entities, n)
        self._write(self.look(entities, data, n, now_us), parts)
        return answer.close(parts, self._provenance(data, n, now_us) if provenance else b"")

    def _head(self, entities: Mapping[str, Sequence[Any]], n: int) -> list[bytes]:
        """An answer up to its features."""
        echoed = [v for k, v in entities.items() if k in self.plan.echoed]
        return answer.head(self._names_of(entities), [*map(orjson.dumps, echoed)], n)

    def head(self, entities: Mapping[str, Sequence[Any]]) -> bytes | None:
        """The answer for one entity up to its features; None where `answers` does not fit."""
        return None if self._single is None else b"".join(self._head(entities, 1))

    def answers(self, asked: Sequence[One], read_at: float, to: Spread) -> list[bytes] | None:
        """As `answer`, of requests for one entity each; None where `answer` must make them.

        read_at: when Redis had answered. to: where the time of a request is counted.
        """
        assert self._single is not None  # noqa: S101 (narrows the type for mypy)
        now_us = time.time_ns() // 1000
        if self._enforced and self._budgets.any_view_past(now_us):
            return None
        turn = self._single.read([one.data for one in asked], now_us)
        if self._enforced and self._any_older(turn.words, now_us):
            return None
        bodies = self._single.write([one.head for one in asked], turn.words)
        caller = asked[0].caller
        use = self._use(caller).at
        if len(asked) > 1 and any(one.caller != caller for one in asked):
            use = -1
            for one in asked:
                self._use(one.caller).count(1, 1)
        begun, ended_at = [one.begun for one in asked], time.perf_counter()
        self.tally.singles(to, use, turn.words, turn.sizes, now_us, begun, read_at, ended_at)
        if self._recorder is not None:
            wanted = self._recorder.sample(len(asked))
            if wanted:
                self._record_turn(self._recorder, now_us, asked, turn, wanted)
        return bodies

    def _record_turn(
        self, recorder: Recorder, now_us: int, asked: Sequence[One], turn: Turn, at: Sequence[int]
    ) -> None:
        """Take note of some of the requests that were answered together."""
        assert self._single is not None  # noqa: S101 (narrows the type for mypy)
        if not recorder.takes_turns:
            for one in (asked[i] for i in at):
                found = self.found(one.entities, one.data, 1, now_us)
                recorder.take(now_us, 1, one.entities, one.data, found)
            return
        if len(at) < len(asked):
            turn = self._single.some([one.data for one in asked], turn, at)
        recorder.take_turn(now_us, [asked[i].entities for i in at], turn)

    def _any_older(self, found: Words, now_us: int) -> bool:
        """Whether some value is past the age above which values are not simply served."""
        return any(
            oldest_us and ((times != 0) & (times < now_us - oldest_us)).any()
            for times, oldest_us in zip(found.event_us, self._oldest_us, strict=True)
        )

    def look(
        self, entities: Mapping[str, Sequence[Any]], data: Sequence[bytes | None], n: int,
        now_us: int = 0,
    ) -> Found:  # fmt: skip
        """The columns of the answer as of now, counted in the metrics and logged.

        Raises BadRequestError (on demand), PastObjectiveError.
        """
        found = self.found(entities, data, n, now_us or time.time_ns() // 1000)
        replaced = found.replaced
        counted = [
            (view.event_us, replaced[at].status if at in replaced else view.status)
            for at, view in enumerate(found.columns)
        ]
        self.tally.count(counted, n, found.now_us, data)
        self._record(found.now_us, n, entities, data, found)
        return found

    def found(
        self, entities: Mapping[str, Sequence[Any]], data: Sequence[bytes | None], n: int,
        now_us: int,
    ) -> Found:  # fmt: skip
        """The columns of the answer as of a time, counted nowhere.

        Raises BadRequestError (on demand), PastObjectiveError.
        """
        columns = self.columns(data, n, now_us)
        replaced: Mapping[int, Replaced] = {}
        if self._enforced:
            columns, replaced = self._budgets.hold(columns, now_us)
        made = [view.columns(columns, entities, n) for view in self._computed]
        return Found(columns, made, now_us, replaced)

    def _record(self, now_us: int, n: int, entities: Any, data: Any, served: Found) -> None:
        if self._recorder is not None and self._recorder.sample(1):
            self._recorder.take(now_us, n, entities, data, served)

    def provenances(self, data: Sequence[bytes | None], n: int) -> dict[str, Any]:
        """What the values of each view were made of, as Arrow columns."""
        return self._log.provenances(data, n)

    def _provenance(self, data: Sequence[bytes | None], n: int, now_us: int) -> bytes:
        """What the values were made of, as a member of the answer."""
        found = orjson.dumps(self._log.described(data, n), option=answer.TIMES)
        return b',"provenance":{"request_timestamp":%b,"catalog":"%b","feature_views":%b}' % (
            answer.time_text(now_us), self._log.version.encode(), found,
        )  # fmt: skip

    def _write(self, found: Found, parts: list[bytes]) -> None:
        """Append the answer's feature columns, with a comma behind each."""
        pieces = [
            answer.pieces(columns, kinds, any_time)
            for columns, kinds, any_time in zip(
                found.columns, self.types, self._any_time, strict=True
            )
        ]
        for view, made in zip(self.plan.on_demand, found.computed, strict=True):
            of_view = {field.name: field.type for field in view.features}
            pieces.append(answer.computed(made, of_view, found.now_us))
        for source, at in self._runs:
            pieces[source].write(at, parts)

    def _names_of(self, entities: Mapping[str, Any]) -> bytes:
        key = tuple(entities)
        names = self._names.get(key)
        if names is None:
            echoed = [name for name in key if name in self.plan.echoed]
            names = orjson.dumps([*echoed, *self._feature_names])
            if len(self._names) < 64:
                self._names[key] = names
        return names


def _head(prefix: bytes, length: int) -> bytes:
    """What stands before the hash tag of a key in a command: its length, the view's prefix."""
    return b"\r\n$%d\r\n%b" % (len(prefix) + length, prefix)


def _features(plan: FeaturePlan) -> list[str]:
    """Every "view:feature" that a plan reads or computes."""
    read = [f"{read.reader.view.name}:{name}" for read in plan.reads for name in read.features]
    made = [o for o in plan.outputs if o.on_demand >= 0]
    computed = [f"{plan.on_demand[o.on_demand].name}:{o.feature}" for o in made]
    return list(dict.fromkeys([*read, *computed]))


def _kinds(read: Any) -> list[str]:
    types = {field.name: field.type for field in read.reader.view.features}
    return [types[name] for name in read.features]


def _runs(plan: FeaturePlan) -> list[Run]:
    """The answer's features as runs from one source."""
    places = []
    for output in plan.outputs:
        if output.on_demand >= 0:
            names = plan.on_demand[output.on_demand].feature_names
            places.append((len(plan.reads) + output.on_demand, names.index(output.feature)))
        else:
            places.append((output.read, output.at))
    cuts = [0, *(i for i, (a, b) in enumerate(pairwise(places), 1) if a[0] != b[0]), len(places)]
    runs = []
    for start, end in pairwise(cuts):
        source = places[start][0]
        at = tuple(place[1] for place in places[start:end])
        if source < len(plan.reads) and at == tuple(range(len(plan.reads[source].features))):
            runs.append(Run(source, None))
        else:
            runs.append(Run(source, at))
    return runs
