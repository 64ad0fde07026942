"""Makes the shop: applied, loaded, its events taken in, three of them bad."""

from __future__ import annotations

import hashlib
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from kafka import KafkaProducer

from tests.processes import Programs, feature_store

PROJECT = "watched"
TOPIC = f"{PROJECT}-clicks"
USERS = 200
KEYS = {"ann": "read", "bob": "read+write", "root": "admin+read+write"}
_US = pa.timestamp("us", tz="UTC")


def make(
    folder: Path, redis_url: str, kafka: str, name: str = PROJECT, **settings: str
) -> Programs:
    """The project and the programs that run it; the worker has ended.

    name: of the project and its topic, for Redis and Kafka are those of other modules as well.
    """
    (folder / "data").mkdir(parents=True)
    (folder / "feature_store.yaml").write_text(feature_store(name, redis_url))
    definitions = Path(__file__).with_name("definitions.py").read_text()
    (folder / "features.py").write_text(definitions.replace(TOPIC, f"{name}-clicks"))
    now = datetime.now(UTC).replace(microsecond=0)
    users = list(range(USERS))
    # Every third user's row is a week old, far beyond the ttl of three hours.
    times = [now - (timedelta(days=7) if u % 3 == 0 else timedelta(hours=1)) for u in users]
    columns: dict[str, Any] = {"user_id": users, "at": pa.array(times, _US)}
    ages = [None if u % 4 == 0 else 20 + u % 50 for u in users]
    cities = [("Ulm", "Köln", "Bern")[u % 3] for u in users]
    _write(folder, "profiles", {**columns, "city": cities, "age": pa.array(ages, pa.int64())})
    _write(folder, "forgotten", {**columns, "shoe_size": [36.0 + u % 10 for u in users]})
    labels = pa.array([now - timedelta(minutes=30 + u % 20) for u in users], _US)
    _write(folder, "labels", {
        "user_id": users, "event_timestamp": labels, "bought": [u % 2 for u in users]
    })  # fmt: skip
    programs = Programs(folder, {
        "REDIS_URL": redis_url, "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "HEADWATER_GROUP": f"{name}-{time.time_ns()}", **settings,
    })  # fmt: skip
    programs.headwater("apply")
    _send(kafka, f"{name}-clicks", now)
    assert programs.ingest("--until-end").wait(120) == 0
    return programs


def _write(folder: Path, name: str, columns: dict[str, Any]) -> None:
    pq.write_table(pa.table(columns), folder / "data" / f"{name}.parquet")


def _send(kafka: str, topic: str, now: datetime) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka)
    for i in range(USERS * 3):
        at = now - timedelta(minutes=50) + timedelta(seconds=4 * i)
        event = {"user_id": i % USERS, "amount": 1.5 * (i % 7), "at": at.isoformat()}
        producer.send(topic, json.dumps(event).encode(), partition=0)
    late = {"user_id": 1, "amount": 2.0, "at": (now - timedelta(days=2)).isoformat()}
    for bad in (json.dumps(late).encode(), b'{"user_id": "x"}', b"\xff\x00 <b>broken</b>"):
        producer.send(topic, bad, partition=0, key=b"k")
    producer.flush()
    producer.close()


def api_keys() -> str:
    """HEADWATER_API_KEYS of `KEYS`; each key's secret is its name."""
    return ",".join(
        f"{name}:{scopes}:{hashlib.sha256(name.encode()).hexdigest()}"
        for name, scopes in KEYS.items()
    )


def as_key(name: str) -> dict[str, str]:
    """The headers of a client that has the key of that name."""
    return {"authorization": f"Bearer {name}"}
