"""Both servers on one Redis: their repositories, their data, and the processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from headwater import catalog_cache
from headwater.codec import RowCodec, key_prefix, pack_sections, redis_keys
from headwater.local.process import free_ports
from headwater.online.connect import connect
from headwater.online.writer import OnlineWriter
from headwater.windows import Column, EventBatch, WindowProgram, source_id
from tests.benchmarks.serving import load

BIN = Path(sys.executable).parent
DAY_US = 86_400_000_000
#: Of the service that Feast's Python server has as well as ours.
RPC_METHOD = "/GrpcFeatureServer/GetOnlineFeatures"
ROW_FEATURES = [f"view_{v}:f{v}_{i}" for v in range(3) for i in range(10)]

_CONFIG = """\
project: bench
provider: local
registry: data/registry.db
online_store:
  type: {type}
  connection_string: {redis}
offline_store: {{type: file}}
entity_key_serialization_version: 3
"""


def make_repo(folder: Path, store: str, redis: str) -> Path:
    """An applied repository whose online store is `store`."""
    (folder / "data").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("definitions.py"), folder / "features.py")
    (folder / "feature_store.yaml").write_text(_CONFIG.format(type=store, redis=redis))
    frame = rows(2, 0)
    frame.to_parquet(folder / "data" / "rows.parquet")
    command = [str(BIN / "feast"), "-c", str(folder), "apply", "--skip-source-validation"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return folder


def rows(entities: int, view: int) -> pd.DataFrame:
    """One row of each entity: its key, its time, ten floats."""
    chance = np.random.default_rng(view)
    now = pd.Timestamp.now("UTC").floor("us")
    data = {"customer_id": np.arange(entities, dtype=np.int64), "event_timestamp": now}
    data |= {f"f{view}_{i}": chance.normal(size=entities) for i in range(10)}
    return pd.DataFrame(data)


def fill_feast(repo: Path, entities: int) -> None:
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(repo))
    for view in range(3):
        store.write_to_online_store(f"view_{view}", rows(entities, view))


def fill_rows(repo: Path, redis: str, entities: int) -> None:
    catalog = catalog_cache.load(repo)
    writer = OnlineWriter(connect(redis), catalog.project)
    for v in range(3):
        view, frame = catalog.views[f"view_{v}"], rows(entities, v)
        codec, time_us = RowCodec.of(view), int(frame.event_timestamp[0].value // 1000)
        cells = frame[[f"f{v}_{i}" for i in range(10)]].values.tolist()
        keys = redis_keys(key_prefix(catalog.project, view), [list(range(entities))], entities)
        writer.write_rows(keys, [codec.pack(time_us, None, -1, -1, row) for row in cells])


def fill_windows(repo: Path, redis: str, entities: int, events: int) -> list[str]:
    """State of so many events an entity over eight days; returns the windowed features."""
    catalog = catalog_cache.load(repo)
    view = catalog.views["windows"]
    chance, now = np.random.default_rng(9), time.time_ns() // 1000
    n = entities * events
    ts = np.sort(now - chance.integers(0, 8 * DAY_US, n))
    batch = EventBatch(
        chance.integers(0, entities, n), ts, np.arange(n), np.full(n, source_id("payments", 0)), ts,
        {c: Column(chance.normal(50, 9, n), np.ones(n, np.bool_)) for c in ("amount", "items")},
    )  # fmt: skip
    sections = WindowProgram.of(view).fold([None] * entities, batch, now)
    keys = redis_keys(key_prefix(catalog.project, view), [list(range(entities))], entities)
    client = connect(redis)
    for at in range(0, entities, 1000):
        part = zip(keys[at : at + 1000], sections[at : at + 1000], strict=True)
        client.mset({key: pack_sections([section]) for key, section in part})
    return [f"windows:{name}" for name in view.feature_names]


class Running:
    """A server that answers; `start_seconds` from its start to its first vector."""

    def __init__(self, url: str, pid: int, start_seconds: float) -> None:
        self.url, self.pid, self.start_seconds = url, pid, start_seconds

    def rss_mb(self) -> float:
        import psutil

        process = psutil.Process(self.pid)
        tree = [process, *process.children(recursive=True)]
        return float(sum(p.memory_info().rss for p in tree)) / 1e6


@contextmanager
def headwater(
    repo: Path, redis: str, program: tuple[str, ...] = ("-m", "service"), **settings: str
) -> Iterator[Running]:
    (port,) = free_ports(1)
    command = [sys.executable, "-P", *program, "--repo", str(repo)]
    env = {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")}
    env |= {"REDIS_URL": redis, "HEADWATER_PORT": str(port), **settings}
    with _process(command, env, port) as running:
        yield running


@contextmanager
def feast_rpc(repo: Path) -> Iterator[tuple[str, int]]:
    """Feast's own Python gRPC server: its address and process."""
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    command = [str(BIN / "feast"), "-c", str(repo), "listen", "-a", address, "-w", "8",
               "-r", "3600"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until_calls_are_answered(address)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait(30)


def until_calls_are_answered(address: str) -> None:
    """Raises where a call is not answered, or an answer is not whole."""
    import grpc
    from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse

    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(RPC_METHOD)
        data = call(rpc_message(ROW_FEATURES, 1), timeout=120, wait_for_ready=True)
    (value,) = GetOnlineFeaturesResponse.FromString(data).results[-1].values
    if value.WhichOneof("val") != "double_val":
        raise RuntimeError(f"the answer from {address} holds no value")


def rpc_message(features: list[str], n: int) -> bytes:
    """A GetOnlineFeaturesRequest for n entities."""
    from feast.protos.feast.serving import ServingService_pb2 as serving
    from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value

    ids = RepeatedValue(val=[Value(int64_val=7 * i + 1) for i in range(n)])
    listed = serving.FeatureList(val=features)
    request = serving.GetOnlineFeaturesRequest(features=listed, entities={"customer_id": ids})
    data: bytes = request.SerializeToString()
    return data


@contextmanager
def feast(repo: Path) -> Iterator[Running]:
    (port,) = free_ports(1)
    command = [str(BIN / "feast"), "-c", str(repo), "serve", "--no-access-log", "-p", str(port),
               "-w", "1", "--max-requests", "1000000", "--registry_ttl_sec", "3600"]  # fmt: skip
    with _process(command, dict(os.environ), port) as running:
        yield running


@contextmanager
def _process(command: list[str], env: dict[str, str], port: int) -> Iterator[Running]:
    url = f"http://127.0.0.1:{port}"
    head, tail = load.body(ROW_FEATURES)
    start = time.perf_counter()
    log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=log)
    try:
        while not _answers(url + "/get-online-features", f"{head}1{tail}".encode()):
            if process.poll() is not None or time.perf_counter() - start > 120:
                log.seek(0)
                raise RuntimeError(f"{command[0]} does not answer: {log.read()[-2000:]!r}")
            time.sleep(0.02)
        yield Running(url, process.pid, time.perf_counter() - start)
    except RuntimeError as error:
        log.seek(0)
        error.add_note(f"the server says: {log.read()[-2000:].decode(errors='replace')}")
        raise
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str, body: bytes) -> bool:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
