"""What a project's registry holds, wherever its configuration puts it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from headwater.errors import HeadwaterError
from headwater.registry_place import stored

SQL = "project: mine\nregistry: {registry_type: sql, path: '%s'}\n"


def database(path: Path, *rows: tuple[str, bytes]) -> None:
    with sqlite3.connect(path) as opened:
        opened.execute("CREATE TABLE entities (project_id TEXT, entity_proto BLOB)")
        opened.executemany("INSERT INTO entities VALUES (?, ?)", rows)


def test_a_file_is_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "r.db").write_bytes(b"definitions")
    for config in ("registry: r.db", "registry: {path: r.db, cache_ttl_seconds: 60}"):
        assert b"".join(stored(tmp_path, config)) == b"definitions"
    with pytest.raises(HeadwaterError, match="no registry yet"):
        list(stored(tmp_path, "project: mine"))


def test_a_database_is_beside_the_configuration_and_may_hold_other_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, elsewhere = tmp_path / "repo", tmp_path / "elsewhere"
    repo.mkdir()
    elsewhere.mkdir()
    database(repo / "r.db", ("mine", b"b"), ("other", b"c"), ("mine", b"a"))
    for start in (repo, elsewhere):
        monkeypatch.chdir(start)
        for path in ("sqlite:///r.db", f"sqlite:///{repo}/r.db", "sqlite+pysqlite:///r.db"):
            assert list(stored(repo, SQL % path)) == [b"a", b"b"]
    monkeypatch.setenv("PLACE", "r.db")
    assert list(stored(repo, SQL % "sqlite:///${PLACE}")) == [b"a", b"b"]


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(HeadwaterError, match="no registry yet"):
        list(stored(tmp_path, SQL % "sqlite:///r.db"))
    assert not list(tmp_path.iterdir())
    with sqlite3.connect(tmp_path / "r.db") as empty:
        empty.execute("CREATE TABLE others (x TEXT)")
    with pytest.raises(HeadwaterError, match="no tables of Feast"):
        list(stored(tmp_path, SQL % "sqlite:///r.db"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("registry: s3://bucket/registry.db", "cannot be watched"),
        ("registry: sqlite:///r.db", "registry_type: sql"),
        ("registry: {registry_type: remote, path: 'localhost:6570'}", "localhost:6570"),
        (SQL % "oracle+none://localhost/x", "NoSuchModuleError"),
        (SQL % "mysql+pymysql://localhost/x", "needs the package 'pymysql'"),
        (SQL % "sqlite:////no/such/folder/r.db", "no registry yet"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, config: str, words: str) -> None:
    with pytest.raises(HeadwaterError, match=words):
        list(stored(tmp_path, config))
