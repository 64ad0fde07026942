"""On a Redis Cluster and under sentinels everything is right, also while slots and nodes move."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore
from redis.crc import key_slot

from headwater import catalog_cache
from headwater.codec import RowCodec, key_prefix
from headwater.errors import RebuildBusyError, StoreUnavailableError
from headwater.interning import texts
from headwater.local import LocalKafka
from headwater.local.process import HOST
from headwater.offline.log import EventLog
from headwater.online.cluster_link import ClusterLink, open_link
from headwater.online.commands import slots
from headwater.online.connect import Client, connect
from headwater.online.link import Link, pack
from headwater.online.progress import Place, Progress
from headwater.online.values import ViewReader
from headwater.online.writer import OnlineWriter
from headwater.rebuild import Rebuilder, missing
from headwater.rebuild.lock import RebuildLock
from tests.faults import project as faults
from tests.faults import truth
from tests.faults.compare import compare
from tests.faults.crew import Crew
from tests.faults.feed import Feed
from tests.integration.test_rebuild import assert_same, offline, online
from tests.logs import catalog as log_catalog
from tests.logs import fill_log
from tests.processes import Programs
from tests.redis_cluster import PASSWORD, Cluster, Node, Sentinels
from tests.serving import project as serving
from tests.serving.server import serve
from tests.waiting import until

PREFIX = b"prefix00"
CODEC = RowCodec(["value"], ["DOUBLE"], b"\0\0\0")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    """A client of the cluster, which is whole and empty when the test starts."""
    for node in cluster.nodes:
        if not node.server.running:
            node.start()
    until(cluster.whole)
    with connect(cluster.url, 2.0) as found:
        found.flushall(target_nodes="primaries")  # type: ignore[call-arg]
        yield found


class Move:
    """A slot on its way from its node to another one."""

    def __init__(self, cluster: Cluster, slot: int) -> None:
        self.cluster, self.slot = cluster, slot
        self.source = cluster.primary_of(slot)
        self.target = next(cluster.primary_of(s) for s in (0, 8000, 16000)
                           if cluster.primary_of(s) is not self.source)  # fmt: skip

    def begin(self) -> None:
        source, target = self.cluster.id_of(self.source), self.cluster.id_of(self.target)
        self.target.say("CLUSTER SETSLOT", self.slot, "IMPORTING", source)
        self.source.say("CLUSTER SETSLOT", self.slot, "MIGRATING", target)

    def move_keys(self, most: int = 1000) -> int:
        keys = self.source.say("CLUSTER GETKEYSINSLOT", self.slot, most)
        for key in keys:
            self.source.say("MIGRATE", HOST, self.target.port, key, 0, 5000, "AUTH", PASSWORD)
        return len(keys)

    def end(self) -> None:
        target = self.cluster.id_of(self.target)
        for node in (self.target, self.source):
            node.say("CLUSTER SETSLOT", self.slot, "NODE", target)


def row(at: int, value: float = 0.0) -> bytes:
    return CODEC.pack(at, None, -1, -1, [value])


def keys_in(slot: int, count: int) -> list[bytes]:
    """Texts of entities whose keys share a slot, found by trying numbers."""
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        if key_slot(b"%d" % number) == slot:
            found.append(b"%d" % number)
        number += 1
    return found


def test_slots_are_those_that_redis_computes() -> None:
    chance = random.Random(3)
    tags = [b"", b"}", b"}x", b"a}b", b"{", *(chance.randbytes(n % 20 + 1) for n in range(5000))]
    found = slots(PREFIX, texts(tags))
    assert found.tolist() == [key_slot(PREFIX + b"{" + tag + b"}") for tag in tags]


def test_rows_of_all_slots_are_written_read_and_deleted(client: Client) -> None:
    writer, tags = OnlineWriter(client, "p"), [b"%d" % i for i in range(3000)]
    writer.load_rows(PREFIX, texts(tags), texts([row(10, i) for i in range(3000)]))
    # Some are newer, some older: newest wins whichever way they come.
    writer.load_rows(PREFIX, texts(tags), texts([row(5 + i % 10, -1.0) for i in range(3000)]))
    keys = [PREFIX + b"{" + tag + b"}" for tag in tags]
    wanted = [row(max(10, 5 + i % 10), -1.0 if i % 10 >= 5 else i) for i in range(3000)]
    assert writer.read(keys) == wanted == writer.read_texts(PREFIX, texts(tags))
    assert writer.write_rows(keys[:2], [row(1), row(99)]) == 1
    other = writer.write_rows([b"prefix01{7}"], [row(1)])
    assert writer.delete_prefix(PREFIX) == 3000
    assert other == 1
    assert client.dbsize() == 1


def test_a_wrong_password_is_refused_in_words(cluster: Cluster) -> None:
    with pytest.raises(StoreUnavailableError, match=r"(?i)auth|password|WRONGPASS"):
        connect(re.sub("//.*@", "//:wrong@", cluster.url), 2.0)


def test_writes_and_reads_go_on_while_a_slot_moves(cluster: Cluster, client: Client) -> None:
    """MOVED, ASK, and TRYAGAIN for the service's MGET of several keys of one slot."""
    writer, move = OnlineWriter(client, "p"), Move(cluster, 77)
    tags = [*keys_in(77, 6), b"elsewhere", b"another"]
    keys = [PREFIX + b"{" + tag + b"}" for tag in tags]
    writer.write_rows(keys[:4], [row(1)] * 4)
    move.begin()
    assert move.move_keys(2) == 2
    with pytest.raises(StoreUnavailableError, match="moving slots"):
        writer.delete_prefix(PREFIX)

    async def read(before_the_end: Any) -> list[Any]:
        link = open_link(cluster.url, 2.0)
        try:
            before_the_end()
            first = await link_get(link, keys)
            move.move_keys()
            move.end()
            return [first, await link_get(link, keys)]
        finally:
            await link.close()

    def write() -> None:
        assert writer.write_rows(keys, [row(2, 5.0)] * 8) == 8
        assert writer.read(keys) == [row(2, 5.0)] * 8

    assert asyncio.run(read(write)) == [[row(2, 5.0)] * 8] * 2
    assert writer.write_rows(keys, [row(3)] * 8) == 8
    assert {key_slot(key) for key in move.target.client.scan_iter()} >= {77}
    assert writer.delete_prefix(PREFIX) == 8


async def link_get(link: Link | ClusterLink, keys: list[bytes]) -> Any:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    link.send(pack((b"MGET", *keys)), future.set_result)
    return await future


def test_progress_is_as_far_as_the_node_that_lost_most(cluster: Cluster, client: Client) -> None:
    progress, place = Progress(client, "p"), Place(PREFIX, "orders", 0)
    epoch = progress.epoch()
    assert progress.move({place: (None, 0)}) == {}
    assert progress.move({place: (0, 500)}) == {}
    assert progress.move({place: (400, 600)}) == {place: 500}
    assert progress.stands(epoch, {place: 500})
    assert progress.epoch() == epoch
    home = cluster.primary_of(key_slot(b"headwater:p:progress"))
    other = next(cluster.primary_of(s) for s in (0, 8000, 16000)
                 if cluster.primary_of(s) is not home)  # fmt: skip
    witness = next(other.client.scan_iter(match="*progress*"))

    # A replica took over that had not heard of the last move.
    other.client.hset(witness, place.field(), 300)
    assert not progress.stands(epoch, {place: 500})
    assert progress.move({place: (500, 600)}) == {place: 300}
    assert progress.all() == {place: 300} == progress.read([place])
    assert progress.move({place: (300, 700)}) == {}
    assert progress.all() == {place: 700}

    # A node came back empty.
    other.client.flushall()
    assert not progress.stands(epoch, {place: 700})
    assert progress.read([place]) == {}
    assert progress.epoch() != epoch
    assert progress.move({place: (None, 0)}) == {}
    assert progress.move({place: (0, 10)}) == {}
    assert progress.all() == {place: 10}

    # Back to the beginning for a rebuild, whose epoch keeps late moves of others out.
    assert progress.move({place: (10, 0)}) == {}
    assert progress.move({place: (10, 11)}) == {place: 0}
    progress.forget(PREFIX)
    assert progress.all() == {}


def test_a_rebuild_makes_good_what_one_node_lost(
    tmp_path: Path, cluster: Cluster, client: Client
) -> None:
    found = log_catalog(tmp_path)
    fill_log(EventLog(found.streams["orders"]), 1, 300)
    now = time.time_ns() // 1000
    truths = {name: offline(found, name, now) for name in found.views}

    def check() -> None:
        assert missing(found, Progress(client, found.project)) == []
        for name in found.views:
            assert_same(online(client, found, name, now), truths[name])  # type: ignore[arg-type]

    assert Rebuilder(found, client, window_rows=97, write_rows=250).run() == 2 * 3 * 300
    check()
    for slot in (0, 8000, 16000):
        cluster.primary_of(slot).client.flushall()
        assert missing(found, Progress(client, found.project))
        Rebuilder(found, client).run()
        check()
    Rebuilder(found, client).run(reset=True)
    check()


def test_a_lock_that_was_lost_deletes_nothing(client: Client) -> None:
    OnlineWriter(client, "p").write_rows([b"prefix00{1}", b"prefix00{2}"], [row(1), row(1)])
    with RebuildLock(client, "p") as lock:
        with pytest.raises(RebuildBusyError), RebuildLock(client, "p"):
            pass
        assert lock.unlink([b"prefix00{1}"]) == 1
        client.set("headwater:p:rebuild", "another host 1")
        with pytest.raises(RebuildBusyError):
            lock.unlink([b"prefix00{2}"])
    assert OnlineWriter(client, "p").read([b"prefix00{1}", b"prefix00{2}"]) == [None, row(1)]


def test_a_worker_and_the_service_through_resharding_and_failover(
    template: Path, tmp_path: Path, cluster: Cluster, client: Client, kafka: LocalKafka
) -> None:
    """Every window and row is right after slots moved and primaries died under the worker."""
    run = f"c{uuid.uuid4().hex[:8]}"
    repo = faults.copy(template, tmp_path / run, run)
    feed, crew = Feed(kafka.bootstrap, run, 5), Crew(repo, kafka.bootstrap, cluster.url, run)
    try:
        feed.send(1500)
        crew.start()
        crew.working()
        moves = [Move(cluster, slot) for slot in sorted({key_slot(b"%d" % i) for i in range(9)})]
        for move in moves:
            move.begin()
        feed.send(500)
        for move in moves:
            while move.move_keys(3):
                pass
            move.end()
        crew.working()
        home = cluster.primary_of(key_slot(b"headwater:faults:progress"))
        others = [cluster.primary_of(slot) for slot in (0, 8000, 16000)]
        for dead in (next(node for node in others if node is not home), home):
            slot = next(s for s in range(16384) if cluster.primary_of(s) is dead)
            dead.server.kill()
            feed.send(500)
            until(partial(served_by_another, cluster, slot, dead))
            crew.working()
            dead.start()
            until(cluster.whole)
        crew.finish()
        found = compare(repo, partial(truth.read_topic, kafka.bootstrap), client)  # type: ignore[arg-type]
        assert found.messages == feed.sent
        assert min(found.windows, found.rows, found.logged, found.dead) > 0
        assert_served(repo, cluster.url, client)
    finally:
        crew.close()
        feed.close()


def served_by_another(cluster: Cluster, slot: int, dead: Node) -> bool:
    try:
        return cluster.primary_of(slot) is not dead
    except LookupError:
        return False


def assert_served(repo: Path, url: str, client: Client) -> None:
    """The service gives over HTTP what is in Redis, for many entities at once and for one."""
    plans = catalog_cache.load(repo)
    names = ["user_latest", "user_windows"]
    users = list(range(60))
    with serve(repo, url) as server:
        until(lambda: server.get("/ready").status == 200)
        for asked in (users, users[:1]):
            for name in names:
                view = plans.views[name]
                reader = ViewReader(plans.project, view)
                data = OnlineWriter(client, plans.project).read(reader.keys([asked], len(asked)))
                found = reader.values(data, view.feature_names, time.time_ns() // 1000)
                answer = server.features(
                    [f"{n}:{f}" for n in names for f in plans.views[n].feature_names],
                    {"user_id": asked}, full_feature_names=True,
                ).columns()  # fmt: skip
                for feature, statuses in zip(view.feature_names, found.statuses, strict=True):
                    assert answer[f"{name}__{feature}"]["statuses"] == statuses
                if name == "user_latest":
                    values = dict(zip(view.feature_names, found.values, strict=True))
                    assert answer["user_latest__amount"]["values"] == values["amount"]


@pytest.fixture(scope="module")
def serving_repo(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Path:
    """The applied project, its rows in its views' batch sources."""
    folder = tmp_path_factory.mktemp("cluster") / "repo"
    repo = serving.write(folder, serving.ours(cluster.url))
    serving.apply(repo)
    serving.to_frame(serving.frames()["doubles"]).to_parquet(repo / "data" / "doubles.parquet")
    return repo


def test_materialize_the_plugin_and_the_command_line_use_the_cluster(
    serving_repo: Path, cluster: Cluster, client: Client
) -> None:
    """The plugin by `connection_string` alone, the commands by REDIS_URL."""
    programs = Programs(serving_repo, {"REDIS_URL": cluster.url})
    programs.headwater("materialize", "--view", "doubles")
    views = json.loads(programs.headwater("status", "--json"))["views"]
    assert next(v for v in views if v["feature_view"] == "doubles")["online_us"] > 0
    frame = serving.frames()["doubles"]
    store = FeatureStore(str(serving_repo))
    users = [{"user_id": user} for user in frame["user_id"]]
    ask = partial(store.get_online_features, ["doubles:d1"], users)
    found = [a for a, b in zip(ask().to_dict()["d1"], frame["d1"], strict=True) if a == b]
    assert len(found) > len(users) / 2
    newer = serving.to_frame(frame)
    newer["d1"], newer["event_timestamp"] = 7.5, datetime.now(UTC)
    store.write_to_online_store("doubles", newer)
    assert ask().to_dict()["d1"] == [7.5] * len(users)


def test_pushes_are_served_and_served_again_after_a_failover(
    serving_repo: Path, cluster: Cluster, client: Client
) -> None:
    repo = serving_repo
    frame = serving.frames()["doubles"]
    with serve(repo, cluster.url) as server:
        body = {"feature_view_name": "doubles", "df": frame}
        assert server.post("/write-to-online-store", body).status == 200
        got = server.features(["doubles:d0"], {"user_id": frame["user_id"]}).columns()
        present = [s for s in got["d0"]["statuses"] if s == "PRESENT"]
        assert len(present) > len(frame["user_id"]) / 2
        for value, wanted, status in zip(
            got["d0"]["values"], frame["d0"], got["d0"]["statuses"], strict=True
        ):
            assert status != "PRESENT" or value == wanted

        # A primary dies: what it had is unavailable for a moment, and then served again.
        slot = key_slot(b"1")
        dead = cluster.primary_of(slot)
        dead.server.kill()
        ask = partial(server.features, ["doubles:d0"], {"user_id": [1]})
        until(lambda: ask().status == 503)
        until(lambda: ask().status == 200)
        assert ask().columns()["d0"]["values"] == [got["d0"]["values"][frame["user_id"].index(1)]]
        until(lambda: server.get("/ready").status == 200)
        until(lambda: server.post("/write-to-online-store", body).status == 200)


@pytest.fixture(scope="module")
def sentinels() -> Iterator[Sentinels]:
    made = Sentinels()
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_writes_and_reads_follow_the_sentinels(sentinels: Sentinels) -> None:
    with connect(sentinels.url, 1.0) as client:
        writer, keys = OnlineWriter(client, "p"), [b"prefix00{%d}" % i for i in range(500)]
        assert writer.write_rows(keys, [row(1)] * 500) == 500
        client.wait(1, 5000)

        async def through_failover() -> Any:
            link = open_link(sentinels.url, 1.0)
            try:
                assert await link_get(link, keys) == [row(1)] * 500
                first, second = sentinels.servers
                first.server.kill()
                await asyncio.to_thread(until, lambda: second.say("ROLE")[0] == b"master")
                await asyncio.to_thread(until, lambda: written(writer, keys))
                deadline = time.monotonic() + 10
                while isinstance(found := await link_get(link, keys), Exception):
                    assert time.monotonic() < deadline, found
                    await asyncio.sleep(0.05)
                return found
            finally:
                await link.close()

        assert asyncio.run(through_failover()) == [row(2)] * 500


def written(writer: OnlineWriter, keys: list[bytes]) -> bool:
    try:
        return writer.write_rows(keys, [row(2)] * len(keys)) >= 0
    except StoreUnavailableError:
        return False


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis+ring://h:1", "no redis\\+ring"),
        ("redis+sentinel://h:1", "name of the service is missing"),
        ("redis+cluster://h:1/2", "no databases"),
        ("redis+cluster://:1", "host is missing"),
        ("redis+cluster://127.0.0.1:1", "did not take the request"),
        ("redis+sentinel://127.0.0.1:1/features", "did not take the request"),
    ],
)
def test_an_address_that_leads_nowhere_says_so(url: str, message: str) -> None:
    with pytest.raises(StoreUnavailableError, match=message):
        connect(url, 0.2)


def test_keys_have_a_prefix_without_braces(tmp_path: Path) -> None:
    """Slots are computed on it."""
    found = log_catalog(tmp_path)
    assert all(b"{" not in key_prefix(found.project, view) for view in found.views.values())
