"""Real ingest workers: started, killed, frozen, thrown out of their group, brought to the end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import redis
from kafka import KafkaAdminClient
from kafka.admin import MemberToRemove
from kafka.errors import KafkaError

from headwater import catalog_cache
from headwater.offline.replay import LogReader
from headwater.online.progress import Progress
from headwater.rebuild import missing
from tests.faults import crashing_worker
from tests.processes import Programs
from tests.waiting import until

Worker = ForkServerProcess
END_SECONDS = 120.0
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    ["__main__", "tests.faults.crashing_worker", "ingest.clients.kafka_python"]
)


class Crew:
    """The workers of one repository, in a consumer group of their own."""

    def __init__(
        self, repo: Path, bootstrap: str, redis_url: str, run: str,
        settings: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.repo, self.bootstrap, self.group = repo, bootstrap, f"faults-{run}"
        self.clock = repo / "clock"
        self.programs = Programs(
            repo,
            {
                "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
                "REDIS_URL": redis_url,
                "HEADWATER_GROUP": self.group,
                "HEADWATER_METRICS_PORT": "0",
                "HEADWATER_BATCH_RECORDS": "200",
                "HEADWATER_LOG_FLUSH_SECONDS": "0.2",
                **(settings or {}),
            },
        )
        self._admin = KafkaAdminClient(bootstrap_servers=bootstrap, reconnect_backoff_max_ms=1000)
        self.workers: dict[Worker, set[str]] = {}
        self.kills = 0

    def start(self, crash: str = "") -> Worker:
        """One more worker, once it is a member of the group. `crash`: see `crashing_worker`."""
        before = self._members()
        worker = self._spawn(crash)
        until(
            lambda: bool(self._members() - before) or not worker.is_alive(),
            END_SECONDS, "no worker joins",
        )  # fmt: skip
        self.workers[worker] = self._members() - before
        return worker

    def kill(self, worker: Worker) -> None:
        """SIGKILL, and the end of its session, for which nobody has the time to wait here."""
        worker.kill()
        worker.join()
        self.kills += 1
        self.evict(self.workers.pop(worker))

    def leave(self, worker: Worker) -> None:
        """SIGTERM: it commits and leaves the group."""
        _signal(worker, signal.SIGTERM)
        worker.join(END_SECONDS)
        assert worker.exitcode == 0, "a worker that was asked to stop failed"
        self.workers.pop(worker)

    def freeze(self, worker: Worker) -> None:
        """SIGSTOP until the session is over: the group gives its partitions to others."""
        _signal(worker, signal.SIGSTOP)
        self.evict(self.workers[worker])

    def thaw(self, worker: Worker) -> None:
        """SIGCONT: it goes on with whatever it was at, and does not know what it missed."""
        _signal(worker, signal.SIGCONT)

    def evict(self, members: set[str]) -> None:
        """End sessions at the broker, as their time-out does ten seconds later."""
        gone = [MemberToRemove(member_id=m) for m in members & self._members()]
        if gone:
            self._admin.remove_group_members(self.group, gone)

    def check(self) -> None:
        """No worker has ended by itself."""
        ended = [worker.exitcode for worker in self.workers if not worker.is_alive()]
        assert not ended, f"workers ended by themselves, with the codes {ended}"

    def finish(self) -> None:
        """Kill who is left; a clean worker takes in the rest and ends by itself."""
        for worker in list(self.workers):
            worker.kill()
            worker.join()
            self.workers.pop(worker)
        self.evict(self._members())
        last = self._spawn("", "--until-end")
        try:
            last.join(END_SECONDS)
            assert last.exitcode == 0, "the last worker failed"
        finally:
            last.kill()
            last.join()

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.join()
        self._admin.close()

    def logged(self) -> int:
        """How far the logs go, all partitions together; grows while workers work."""
        logs = [LogReader.open(s) for s in catalog_cache.load(self.repo).streams.values()]
        return sum(end for log in logs if log for end in log.ends().values())

    def working(self) -> None:
        """Blocks until some worker has appended something."""
        before = self.logged()
        until(
            lambda: self.logged() > before, END_SECONDS, "no worker takes anything in", self.check
        )

    def whole(self) -> None:
        """Blocks until no view lacks anything that its log holds."""
        catalog = catalog_cache.load(self.repo)
        with redis.Redis.from_url(self.programs.env["REDIS_URL"]) as client:
            progress = Progress(client, catalog.project)
            until(
                lambda: not missing(catalog, progress), END_SECONDS, "a view is not whole",
                self.check,
            )  # fmt: skip

    def _spawn(self, crash: str, *more: str) -> Worker:
        words = ["--repo", str(self.repo), *more]
        worker = _PROCESSES.Process(
            target=crashing_worker.run, daemon=True,
            args=(words, self.programs.env, crash, self.clock),
        )  # fmt: skip
        worker.start()
        return worker

    def _members(self) -> set[str]:
        deadline = time.monotonic() + END_SECONDS
        while True:
            try:
                found = self._admin.describe_groups([self.group])[self.group]
                return {member["member_id"] for member in found["members"]}
            except KafkaError:
                # The broker is being restarted, or has not loaded its groups yet.
                assert time.monotonic() < deadline, "the broker does not answer"
                time.sleep(0.2)


def _signal(worker: Worker, number: signal.Signals) -> None:
    assert worker.pid is not None
    os.kill(worker.pid, number)
