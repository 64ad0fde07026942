"""A project's catalogue without importing Feast, which costs seconds.

The registry file's hash names the cached JSON; a process of its own makes it when missing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from headwater import catalog as plans
from headwater import registered, registry_place
from headwater.errors import HeadwaterError


def load(repo: Path) -> plans.Catalog:
    """The catalogue that the repository's registry holds, with the views registered over HTTP.

    Raises HeadwaterError without a registry.
    """
    own = load_own(repo)
    extra = registered.stamp(repo)
    if not extra:
        return own
    version = hashlib.blake2b(own.version.encode() + extra, digest_size=8).hexdigest()
    return msgspec.structs.replace(registered.merged(own, registered.read(repo)), version=version)


def load_own(repo: Path) -> plans.Catalog:
    """The catalogue that the repository's registry holds. Raises HeadwaterError without one."""
    folder = repo / "data"
    while True:
        cached = folder / f".catalog-{_own_fingerprint(repo)}.json"
        with contextlib.suppress(FileNotFoundError):
            return plans.decode(cached.read_bytes())
        folder.mkdir(exist_ok=True)
        with _alone(folder):
            # Whoever waited finds it made; all processes of a project see a change at once.
            if not cached.exists():
                for old in folder.glob(".catalog-*.json"):
                    old.unlink(missing_ok=True)
                _build(repo, cached)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time on this machine."""
    with (folder / ".catalog.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fingerprint(repo: Path) -> str:
    """Changes when a definition does; cheap enough to ask every second."""
    own, extra = _own_fingerprint(repo), registered.stamp(repo)
    return own + hashlib.blake2b(extra, digest_size=8).hexdigest() if extra else own


def configuration(repo: Path) -> Path:
    """The project's `feature_store.yaml`, applied or not. Raises HeadwaterError without one."""
    config = repo / "feature_store.yaml"
    if not config.exists():
        raise HeadwaterError(
            f"there is no feature_store.yaml in {repo}; give the Feast project with --repo, "
            "or make one with `headwater init`"
        )
    return config


def _own_fingerprint(repo: Path) -> str:
    config = configuration(repo)
    digest = hashlib.blake2b(config.read_bytes(), digest_size=8)
    digest.update(str(repo.resolve()).encode())  # plans hold absolute paths
    for part in registry_place.stored(repo, config.read_text()):
        digest.update(part)
    return digest.hexdigest()


def _build(repo: Path, target: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-P", "-W", "ignore", "-m", "headwater.catalog_feast",
            repo.resolve(), target.resolve(),
        ],
        cwd=repo,  # as Feast's `apply`: a registry's path may be relative to it
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise HeadwaterError(f"the catalogue of {repo} cannot be read: {lines[-1]}")
