"""The faults, as a table: each is done some times, at seeded random moments, while events come."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis

from headwater.local import LocalKafka, LocalRedis
from tests.faults.crew import END_SECONDS, Crew, Worker
from tests.faults.feed import Feed
from tests.waiting import until


@dataclass
class Stage:
    """What a fault may act upon."""

    crew: Crew
    feed: Feed
    kafka: LocalKafka
    redis: LocalRedis
    chance: random.Random
    #: Events that each round sends.
    events: int = 1000

    def pause(self, longest: float = 0.5) -> None:
        """A random moment: where in its work a worker is hit must not be the same each time."""
        time.sleep(self.chance.random() * longest)

    def send(self) -> None:
        self.feed.send(self.events)


#: One round of a fault. There is a worker when it begins, and there must be one when it ends.
Fault = Callable[[Stage], None]


def sigkill(stage: Stage) -> None:
    (worker,) = stage.crew.workers
    stage.send()
    stage.crew.working()
    stage.pause()
    stage.crew.kill(worker)
    stage.crew.start()


def zombie(stage: Stage) -> None:
    """Frozen past its session; another takes over, works, and the first goes on regardless."""
    (worker,) = stage.crew.workers
    stage.send()
    stage.pause()
    stage.crew.freeze(worker)
    other = stage.crew.start()
    stage.send()
    stage.crew.working()
    stage.crew.thaw(worker)
    stage.send()
    stage.pause()
    stage.crew.kill(stage.chance.choice([worker, other]))


def rebalance(stage: Stage) -> None:
    """Workers join and leave, orderly or not, while all of them work."""
    stage.send()
    if len(stage.crew.workers) < 3:
        stage.crew.start()
    stage.send()
    stage.pause()
    while len(stage.crew.workers) > stage.chance.choice([1, 2]):
        leaving = stage.chance.choice(list(stage.crew.workers))
        if stage.chance.random() < 0.5:
            stage.crew.leave(leaving)
        else:
            stage.crew.kill(leaving)
    stage.send()


def broker_restart(stage: Stage) -> None:
    stage.send()
    stage.pause()
    stage.kafka.kill()
    stage.pause(2.0)
    stage.kafka.start()
    stage.send()
    stage.crew.working()


def broker_away(stage: Stage) -> None:
    """Nothing answers for minutes: more than any session, request or transaction takes."""
    stage.send()
    stage.pause()
    stage.kafka.kill()
    time.sleep(150)
    stage.crew.check()
    stage.kafka.start()
    stage.send()
    stage.crew.working()


def redis_frozen(stage: Stage) -> None:
    """It takes connections and commands, and does not answer for longer than anybody waits."""
    stage.send()
    stage.pause()
    with redis.Redis.from_url(stage.redis.url) as client:
        client.client_pause(15_000, all=True)
    stage.send()
    stage.crew.working()


def redis_restart(stage: Stage) -> None:
    """Killed and started again; what it had acknowledged is in its file of appends."""
    stage.send()
    stage.pause()
    stage.redis.kill()
    stage.send()
    stage.pause(2.0)
    stage.redis.start()
    stage.crew.working()


def redis_emptied(stage: Stage) -> None:
    """Its data are gone while it goes on; the log has them all."""
    stage.send()
    stage.crew.working()
    stage.pause()
    with redis.Redis.from_url(stage.redis.url) as client:
        client.flushall()
    stage.send()
    stage.crew.working()


def redis_lost(stage: Stage) -> None:
    """It comes back empty."""
    stage.send()
    stage.crew.working()
    stage.pause()
    stage.redis.kill()
    _empty(stage.redis.folder)
    stage.redis.start()
    stage.send()
    stage.crew.working()


def redis_rewound(stage: Stage) -> None:
    """It comes back as it was a while ago: restored from a snapshot."""
    stage.send()
    stage.crew.working()
    stage.redis.stop()
    snapshot = stage.crew.repo / "snapshot"
    shutil.rmtree(snapshot, ignore_errors=True)
    shutil.copytree(stage.redis.folder, snapshot)
    stage.redis.start()
    stage.send()
    stage.crew.working()
    stage.pause()
    stage.redis.kill()
    _empty(stage.redis.folder)
    shutil.copytree(snapshot, stage.redis.folder, dirs_exist_ok=True)
    stage.redis.start()
    stage.send()
    stage.crew.working()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def disk_full(stage: Stage) -> None:
    """No byte is left under the log for a while. Needs root, for a small file system of its own."""
    log = stage.crew.repo / "data" / "log"
    if not log.is_mount():
        log.mkdir(parents=True, exist_ok=True)
        # The logs that are there move to the small file system.
        kept = shutil.copytree(log, stage.crew.repo / "kept", dirs_exist_ok=True)
        (worker,) = stage.crew.workers
        stage.crew.kill(worker)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", log], check=True)
        shutil.copytree(kept, log, dirs_exist_ok=True)
        stage.crew.start()
    filler = log / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
    stage.send()
    stage.pause(4.0)
    filler.unlink()
    stage.send()
    stage.crew.working()


def clock_jump(stage: Stage) -> None:
    """The worker's clock is wrong by hours, either way, and comes right again."""
    wrong = stage.chance.choice([-7200, -90, 90, 7200])
    stage.crew.clock.write_text(str(wrong))
    stage.send()
    stage.crew.working()
    if stage.chance.random() < 0.5:
        stage.crew.kill(*stage.crew.workers)
        stage.crew.start()
        stage.send()
        stage.pause()
    stage.crew.clock.write_text("0")
    stage.send()


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        sigkill, zombie, rebalance, broker_restart, redis_restart, redis_emptied, redis_lost,
        redis_rewound, disk_full, clock_jump,
    )
}  # fmt: skip


#: Those that take minutes or much waiting.
LONG_FAULTS: dict[str, Fault] = {fault.__name__: fault for fault in (broker_away, redis_frozen)}


def crash(stage: Stage, step: str, nth: int) -> None:
    """A worker that kills itself at the nth call of a step; see `crashing_worker`."""
    worker = _until_it_ends(stage, f"{step}:{nth}")
    assert worker.exitcode == -signal.SIGKILL, "the worker ended by itself"
    stage.crew.kill(worker)


def fail(stage: Stage, step: str, nth: int) -> None:
    """A worker that is asked to stop as the nth call of a step fails; see `crashing_worker`."""
    worker = _until_it_ends(stage, f"{step}:{nth}")
    assert worker.exitcode == 0, "the worker did not end in order"
    stage.crew.workers.pop(worker)


def _until_it_ends(stage: Stage, moment: str) -> Worker:
    worker = stage.crew.start(moment)

    def ended() -> bool:
        stage.feed.send(50)
        return not worker.is_alive()

    until(ended, END_SECONDS, f"the worker never came to {moment}")
    return worker


def anything(stage: Stage) -> None:
    """One of the faults, whichever."""
    stage.chance.choice([f for f in FAULTS.values() if f is not disk_full])(stage)
    for worker in list(stage.crew.workers)[1:]:
        stage.crew.kill(worker)


def run(fault: Fault, stage: Stage, rounds: int) -> None:
    """Rounds of a fault with a worker at work, then the end of it all."""
    stage.crew.start()
    for _ in range(rounds):
        fault(stage)
        stage.crew.check()
    stage.send()
    stage.crew.finish()
