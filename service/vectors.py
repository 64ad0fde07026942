"""Answers requests for features: plan, one read of Redis, columns, bytes. No task, no future.

A request is carried by callbacks from its bytes to its answer, since a task for each costs as much
as the read. `service.protocol` calls this straight from the socket, the documented route through
`answer`; both do the same. `service.line` says which requests begin, wait or are refused.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import orjson

from headwater.catalog import Catalog
from headwater.errors import BadRequestError, StoreUnavailableError
from headwater.online import columns
from headwater.online.cluster_link import ClusterLink
from headwater.online.link import Done, Gather, Link
from headwater.settings import Settings
from service import counting, log_blocks, single
from service.access import ANONYMOUS
from service.arrow import MEDIA_TYPE, stream
from service.budgets import Clocks, PastObjectiveError
from service.feature_log import FeatureLogs
from service.line import AT_ONCE, TURN_SECONDS, Line
from service.log_records import LogRecords
from service.metrics import Metrics, Spread
from service.prepared import One, Prepared
from service.replies import Reply, failed, refused
from service.requests import Planner
from service.shapes import Known, Shapes

logger = logging.getLogger("headwater.service")
_MAX_PLANS = 1000
#: Gets a request's answer, once.
Respond = Callable[[Reply], None]
#: Said often, and quickly, when it has to be said.
BUSY = failed("too many requests are under way; try again shortly", 503, 1)


class Asked(NamedTuple):
    """A request for features, not checked yet."""

    service: Any
    features: Any
    full_feature_names: bool
    entities: Any
    provenance: bool = False


class Form(NamedTuple):
    """How requests are read and answers written: `read` a body, `write` Redis's values.

    Both raise BadRequestError, `write` PastObjectiveError too. `route` and `method` are what the
    metrics call it.
    """

    read: Callable[[bytes], Asked]
    write: Callable[[Prepared, Any, Sequence[bytes | None], int, bool], bytes]
    media_type: str
    route: str = "/get-online-features"
    method: str = "POST"


def parse(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises BadRequestError (400) for anything else."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        hint = "; it is compressed, which is not taken" if body[:2] == b"\x1f\x8b" else ""
        raise BadRequestError(f"the body is no JSON: {error}{hint}", 400) from error
    if not isinstance(data, dict):
        raise BadRequestError("the body must be a JSON object", 400)
    return data


#: Words for yes and no that Feast's server takes.
_FLAGS = dict.fromkeys(("1", "on", "t", "true", "y", "yes"), True) | dict.fromkeys(
    ("0", "off", "f", "false", "n", "no"), False
)


def truth(value: Any) -> bool:
    """A flag of a request; none is no. Raises BadRequestError."""
    if isinstance(value, bool) or value is None:
        return bool(value)
    found = _FLAGS.get(str(value).lower())
    if found is None:
        raise BadRequestError('"full_feature_names" must be true or false')
    return found


def _asked(body: bytes) -> Asked:
    get = parse(body).get
    return Asked(
        get("feature_service"), get("features"), truth(get("full_feature_names")), get("entities"),
        get("provenance") is True,
    )  # fmt: skip


def _arrow(
    prepared: Prepared, entities: Any, data: Sequence[bytes | None], n: int, provenance: bool
) -> bytes:
    found = prepared.look(entities, data, n)
    more = prepared.provenances(data, n) if provenance else {}
    return stream(prepared.plan, entities, found.columns, found.computed, n, more)


JSON = Form(_asked, Prepared.answer, "application/json")
ARROW = Form(_asked, _arrow, MEDIA_TYPE)


class Wishes(NamedTuple):
    """What a request asks for beside its body: an answer by the loop's time, and in what form;
    and whose it is."""

    deadline: float | None = None
    form: Form = JSON
    caller: str = ANONYMOUS


class Vectors:
    """Answers for one catalogue at a time; `use` changes it between two requests."""

    def __init__(self, settings: Settings, metrics: Metrics, logs: FeatureLogs) -> None:
        self._settings, self._metrics, self._logs = settings, metrics, logs
        self._level = metrics.in_flight.labels("/get-online-features")
        self.link: Link | ClusterLink | None = None
        self.line: Line[tuple[float, bytes, Wishes, Respond]] = Line(
            settings.max_concurrent_requests,
            lambda what: asyncio.get_running_loop().call_soon(what),
        )
        #: Requests for one entity that have Redis's values.
        self._turn: defaultdict[Prepared, list[One]] = defaultdict(list)
        #: When Redis answered the first of them, and where the time of all is counted.
        self._turn_at = 0.0
        self._answered: Spread | None = None
        self._refused: Spread | None = None
        #: What views are held to; whoever looks at Redis sets it.
        self.clocks = Clocks()

    def warm(self) -> None:
        """Load the compiled loops, before the first request; the first time ever, compile them."""
        columns.warm()
        counting.warm()
        single.warm()
        log_blocks.warm()

    def use(self, catalog: Catalog) -> Planner:
        planner = Planner(catalog)
        self._logs.retire()
        self._plans: dict[tuple[Any, bool], Prepared] = {}
        self.shapes = Shapes()
        self.planner = planner
        return planner

    def prepared(self, service: Any, features: Any, full: bool) -> Prepared:
        """The plan of a request. Raises BadRequestError for what there is not."""
        if service is not None and not isinstance(service, str):
            raise BadRequestError('"feature_service" must be a name')
        if features is not None and not isinstance(features, list):
            raise BadRequestError('"features" must be a list of "view:feature" texts')
        try:
            key = (service or tuple(features or ()), full)
            found = self._plans.get(key)
        except TypeError:
            found = None
        if found is None:
            if not all(isinstance(f, str) for f in features or ()):
                raise BadRequestError('"features" must be a list of "view:feature" texts')
            plan = self.planner.plan(service, features, full)
            if len(self._plans) >= _MAX_PLANS:
                self._logs.retire()
                self._plans.clear()
                self.shapes = Shapes()
            catalog = self.planner.catalog
            records = LogRecords(catalog, service or "", plan)
            recorder = self._logs.recorder(catalog, service or "", records, plan.reads)
            limit = self._settings.max_entities
            found = Prepared(
                plan, self._metrics, limit, records, self.clocks, recorder, service or ""
            )
            self._plans[key] = found
        return found

    def handle(self, body: bytes, wishes: Wishes, respond: Respond) -> None:
        """Answer a request's body; `respond` is called once, now or later, with every outcome."""
        start, line = time.perf_counter(), self.line
        if line.is_full:
            self.refuse(wishes.form, respond, start)
            return
        line.under_way += 1
        self._level.set(line.under_way)
        if line.at_once and not line.waiting:
            line.at_once -= 1
            self._begin(start, body, wishes, respond)
            return
        if not line.waiting:
            asyncio.get_running_loop().call_soon(self._begin_waiting)
        line.waiting.append((start, body, wishes, respond))

    def refuse(self, form: Form, respond: Respond, start: float) -> None:
        """Answer `BUSY`, now or soon; start: when the request came, by perf_counter."""
        if self.line.refuses_at(start):
            self._end(form, start, respond, BUSY)
        else:
            self.line.refusals.append(partial(self._end, form, start, respond, BUSY))

    def count_refusal(self, start: float) -> None:
        """Of a request for JSON or Arrow, before it is answered `BUSY`."""
        count = self._refused
        if count is None:
            count = self._refused = self._metrics.answered(JSON.route, JSON.method, BUSY.status)
        count.observe(time.perf_counter() - start)

    def _begin(self, start: float, body: bytes, wishes: Wishes, respond: Respond) -> None:
        form = wishes.form
        try:
            known = self.understand(body, form)
        except BadRequestError as error:
            self._leave()
            self._end(form, start, respond, refused(error))
            return
        except Exception:
            logger.exception("a request failed")
            self._leave()
            message = "the service failed on this request; its log says why"
            self._end(form, start, respond, failed(message, 500))
            return
        prepared, n, entities, commands, head, provenance = known
        asked = time.perf_counter()
        if head is not None:
            one = One(prepared, head, entities, wishes.caller, (start, asked), respond)
            self._read(commands, partial(self._have, one), wishes.deadline)
            return

        def done(data: list[bytes | None] | Exception) -> None:
            self._leave()
            read_seconds = time.perf_counter() - asked
            reply = self._reply(prepared, entities, data, n, form, provenance)
            self._end_read(prepared, form, wishes.caller, n, (start, read_seconds), respond, reply)

        self._read(commands, done, wishes.deadline)

    def _leave(self) -> None:
        """A request's work is over, or all but."""
        line = self.line
        line.under_way -= 1
        line.at_once = AT_ONCE
        self._level.set(line.under_way)

    def _begin_waiting(self) -> None:
        """Begin those that waited longest, for as long as a turn of the loop has for it."""
        waiting, until = self.line.waiting, time.perf_counter() + TURN_SECONDS
        count = 0
        while waiting:
            self._begin(*waiting.popleft())
            count += 1
            if waiting and time.perf_counter() > until:
                asyncio.get_running_loop().call_soon(self._begin_waiting)
                break
        self.line.begun(count)

    # A request is counted before it is answered: who has the answer finds it in the metrics.

    def _end(self, form: Form, start: float, respond: Respond, reply: Reply) -> None:
        count = self._metrics.answered(form.route, form.method, reply.status)
        count.observe(time.perf_counter() - start)
        respond(reply)

    def _end_read(
        self, prepared: Prepared, form: Form, caller: str, n: int, times: tuple[float, float],
        respond: Respond, reply: Reply,
    ) -> None:  # fmt: skip
        """times: when the request came, and how long the store took."""
        start, read_seconds = times
        to = self._metrics.answered(form.route, form.method, reply.status)
        prepared.ended(caller, n, to, time.perf_counter() - start, read_seconds)
        respond(reply)

    def understand(self, body: bytes, form: Form) -> Known:
        """What a body asks for. Raises BadRequestError."""
        known = self.shapes.find(body) if form is JSON else None
        if known is not None:
            return known
        service, features, full, entities, provenance = form.read(body)
        prepared = self.prepared(service, features, full)
        n = prepared.check(entities)
        alone = n == 1 and form is JSON and not provenance
        head = prepared.head(entities) if alone else None
        known = Known(prepared, n, entities, prepared.commands(entities, n), head, provenance)
        if alone:
            self.shapes.learn(body, known)
        return known

    def _have(self, one: One, data: list[bytes | None] | Exception) -> None:
        """Redis has answered for a request for one entity: it waits for its turn's end."""
        self._leave()
        if isinstance(data, Exception):
            self._answer_alone(one, data, time.perf_counter())
            return
        if not self._turn:
            self._turn_at = time.perf_counter()
            asyncio.get_running_loop().call_soon(self._answer_turn)
        one.data = data
        self._turn[one.prepared].append(one)

    def _answer_turn(self) -> None:
        """Answer the requests for one entity that Redis answered in this turn of the loop."""
        turn, self._turn = self._turn, defaultdict(list)
        to = self._answered
        if to is None:
            to = self._answered = self._metrics.answered(JSON.route, JSON.method, 200)
        for prepared, asked in turn.items():
            bodies = None
            try:
                bodies = prepared.answers(asked, self._turn_at, to)
            except Exception:
                logger.exception("answers failed")
            if bodies is None:
                for one in asked:
                    self._answer_alone(one, one.data, self._turn_at)
            else:
                for one, body in zip(asked, bodies, strict=True):
                    one.respond(Reply(200, body))

    def _answer_alone(
        self, one: One, data: Sequence[bytes | None] | Exception, read_at: float
    ) -> None:
        reply = self._reply(one.prepared, one.entities, data, 1, JSON, False)
        start, asked = one.begun
        times = start, read_at - asked
        self._end_read(one.prepared, JSON, one.caller, 1, times, one.respond, reply)

    def _read(self, commands: list[bytes], done: Done, deadline: float | None) -> None:
        if not commands:
            done([])
        elif self.link is None:
            done(StoreUnavailableError("the service has not started yet; try again shortly"))
        elif len(commands) == 1:
            self.link.send(commands[0], done, deadline)
        else:
            gather = Gather(len(commands), done)
            for i, command in enumerate(commands):
                self.link.send(command, gather.part(i), deadline)

    async def values(self, prepared: Prepared, entities: Any, n: int) -> list[bytes | None]:
        """Redis's values of a request's keys. Raises StoreUnavailableError."""
        future: asyncio.Future[list[bytes | None]] = asyncio.get_running_loop().create_future()

        def done(data: list[bytes | None] | Exception) -> None:
            if future.done():
                return
            if isinstance(data, Exception):
                future.set_exception(data)
            else:
                future.set_result(data)

        self._read(prepared.commands(entities, n), done, None)
        return await future

    def _reply(
        self,
        prepared: Prepared,
        entities: Any,
        data: Sequence[bytes | None] | Exception,
        n: int,
        form: Form,
        provenance: bool,
    ) -> Reply:
        if isinstance(data, Exception):
            self._metrics.store_errors.labels("redis", "request", "unavailable").inc()
            return failed(str(data), 503, 1)
        try:
            body = form.write(prepared, entities, data, n, provenance)
            return Reply(200, body, media_type=form.media_type)
        except BadRequestError as error:
            return refused(error)
        except PastObjectiveError as error:
            self._metrics.refused.labels(error.view, form.route).inc()
            return failed(str(error), 503, 1)
        except Exception:
            logger.exception("an answer failed")
            return failed("the service failed on this request; its log says why", 500)

    async def answer(self, body: bytes, wishes: Wishes) -> Reply:
        """As `handle`, awaited."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def respond(reply: Reply) -> None:
            if not future.done():
                future.set_result(reply)

        self.handle(body, wishes, respond)
        return await future
