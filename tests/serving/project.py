"""Makes the project for a store, and its data."""

from __future__ import annotations

import base64
import random
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

VIEWS = ("numbers", "doubles", "texts", "pairs", "everywhere")
USERS, SESSIONS = 40, 20
_CONFIG = """\
project: {project}
provider: local
registry: data/registry.db
online_store: {store}
offline_store: {{type: file}}
entity_key_serialization_version: 3
"""


def write(folder: Path, store: str, project: str = "serving") -> Path:
    """A repository that is not applied yet; `store` is the YAML of its online store."""
    (folder / "data").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("definitions.py"), folder / "features.py")
    (folder / "feature_store.yaml").write_text(config(project, store))
    return folder


def config(project: str, store: str) -> str:
    """A `feature_store.yaml`; `store` is the YAML of its online store."""
    return _CONFIG.format(project=project, store=store)


def ours(redis_url: str) -> str:
    """Headwater's online store, as YAML."""
    return f"{{type: headwater.online.RedisOnlineStore, connection_string: '{redis_url}'}}"


def apply(repo: Path) -> None:
    """Feast's own command, in a process of its own."""
    command = [Path(sys.executable).parent / "feast", "-c", str(repo), "apply"]
    done = subprocess.run(
        [*command, "--skip-source-validation"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def frames(seed: int = 1) -> dict[str, dict[str, list[Any]]]:
    """Columns of each view as JSON has them: most keys, some nulls, some rows past their ttl."""
    chance = random.Random(seed)
    now = datetime.now(UTC).replace(microsecond=0)

    def time(at: int) -> str:
        old = timedelta(days=3) if at % 7 == 3 else timedelta(seconds=at * 11)
        return (now - old + timedelta(microseconds=(at % 3) * 1500)).isoformat()

    def maybe(value: Any) -> Any:
        return None if chance.random() < 0.15 else value

    users = [u for u in range(USERS) if u % 5]
    sessions = [f"s{i}" if i % 3 else f"é{i} {{x}}" for i in range(SESSIONS) if i % 4]
    both = [(u, s) for u in users[:10] for s in sessions[:5]]
    made: dict[str, dict[str, list[Any]]] = {
        "numbers": {
            "user_id": users,
            "i32": [maybe(chance.randint(-(2**31), 2**31 - 1)) for _ in users],
            "i64": [maybe(chance.randint(-(2**53), 2**53)) for _ in users],
            "f32": [maybe(chance.choice([0.1, -2.5, 1e30])) for _ in users],
            "f64": [maybe(chance.gauss(0, 1e6)) for _ in users],
            "flag": [maybe(chance.random() < 0.5) for _ in users],
            "seen_at": [maybe(time(u)) for u in users],
        },
        "doubles": {"user_id": users}
        | {f"d{i}": [chance.gauss(0, 1) if u % 3 else maybe(1.0) for u in users] for i in range(5)},
        "texts": {
            "session_id": sessions,
            "word": [maybe(chance.choice(["", "a,b", '"]', "日本"])) for _ in sessions],
            "raw": [maybe(base64.b64encode(chance.randbytes(5)).decode()) for _ in sessions],
            "words": [maybe(["x", "y,z"][: chance.randint(1, 2)]) for _ in sessions],
            "reals": [maybe([0.5, -1.25]) for _ in sessions],
            "wholes": [maybe([1, 2**40]) for _ in sessions],
            "flags": [maybe([True, False]) for _ in sessions],
            "times": [maybe(["2024-01-01T00:00:00+00:00"]) for _ in sessions],
            "labels": [maybe({"a": "b", "n": 1}) for _ in sessions],
        },
        "pairs": {
            "user_id": [u for u, _ in both],
            "session_id": [s for _, s in both],
            "score": [maybe(chance.random()) for _ in both],
        },
        "everywhere": {"rate": [0.25], "day": ["monday"]},
    }
    for columns in made.values():
        n = len(next(iter(columns.values())))
        columns["event_timestamp"] = [time(i) for i in range(n)]
    return made


def to_frame(columns: dict[str, list[Any]]) -> pd.DataFrame:
    """The same rows as Feast's SDK takes them."""
    frame = pd.DataFrame({name: pd.Series(v, dtype=object) for name, v in columns.items()})
    for name in {"event_timestamp", "seen_at"} & set(columns):
        frame[name] = [None if v is None else pd.Timestamp(v) for v in columns[name]]
    if "raw" in columns:
        frame["raw"] = [None if v is None else base64.b64decode(v) for v in columns["raw"]]
    if "times" in columns:
        frame["times"] = [
            None if v is None else [pd.Timestamp(t) for t in v] for v in columns["times"]
        ]
    return frame
