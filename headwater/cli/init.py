"""`headwater init`: a small project that works, with its own data and a test."""

from __future__ import annotations

import random
import re
import time
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from headwater.cli import terminal
from headwater.errors import HeadwaterError

#: File of the package -> file of the project.
_FILES = {
    "feature_store.yaml": "feature_repo/feature_store.yaml",
    "features.py.txt": "feature_repo/features.py",
    "test_features.py.txt": "tests/test_features.py",
    "orders.jsonl": "tests/orders.jsonl",
    "send.py.txt": "send.py",
    "README.md": "README.md",
    "gitignore.txt": ".gitignore",
}
_FILLED = {"feature_store.yaml", "README.md"}
_CUSTOMERS = ("ada", "bob", "cleo", "dan", "eve", "finn", "gus", "hal", "ida", "jo")
_DAYS, _ORDERS = 30, 2000


def init(
    folder: Annotated[Path, typer.Argument(help="folder to make, such as shop")],
) -> None:
    """Start a project: definitions that work, a month of orders, and a test."""
    project = re.sub(r"\W", "_", folder.resolve().name.lower(), flags=re.ASCII)
    if not re.match(r"[a-z]", project):
        raise HeadwaterError(f"{folder.name!r} begins with no letter; a project's name does")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HeadwaterError(f"{folder} exists and is not empty; give a new folder")
    for source, target in _FILES.items():
        text = (files("headwater") / "starter" / source).read_text()
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(project=project) if source in _FILLED else text)
    _write_data(folder / "feature_repo" / "data", time.time())
    console = terminal.console()
    console.print(f"{folder} has a project: {len(_FILES)} files, {_ORDERS:,} orders. Now:")
    console.print(f"  cd {folder}\n  headwater up        # then follow README.md")


def _write_data(folder: Path, now: float) -> None:
    """Orders of the last month, the same but for their times whenever they are made."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from headwater.arrow import TIMESTAMP

    folder.mkdir()
    chance = random.Random(7)  # noqa: S311 (sample data)
    until = int(now * 1e6)
    times = sorted(until - chance.randrange(_DAYS * 86_400_000_000) for _ in range(_ORDERS))
    orders = {
        "order_id": pa.array([f"h{number}" for number in range(_ORDERS)]),
        "customer_id": pa.array([chance.choice(_CUSTOMERS) for _ in times]),
        "amount": pa.array([round(chance.lognormvariate(3.2, 0.7), 2) for _ in times]),
        "ordered_at": pa.array(times, TIMESTAMP),
    }
    pq.write_table(pa.table(orders), folder / "orders.parquet")
    customers = {
        "customer_id": pa.array(_CUSTOMERS),
        "country": pa.array([chance.choice(["DE", "FR", "IT", None]) for _ in _CUSTOMERS]),
        "tier": pa.array([chance.choice(["basic", "silver", "gold"]) for _ in _CUSTOMERS]),
        "updated_at": pa.array([until - _DAYS * 86_400_000_000] * len(_CUSTOMERS), TIMESTAMP),
    }
    pq.write_table(pa.table(customers), folder / "customers.parquet")
