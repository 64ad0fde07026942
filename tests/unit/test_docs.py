"""The documentation says what the code does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from headwater import cli
from headwater.settings import Settings
from tests.known_metrics import known_metrics

ROOT = Path(__file__).parents[2]


def test_every_setting_stands_in_the_docs_as_it_is() -> None:
    documented = [
        tuple(cell.strip() for cell in line.strip("| ").split(" | "))
        for line in (ROOT / "docs" / "settings.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    assert documented == [
        (
            f"`{f.metadata['variable']}`",
            f"`{f.default}`" if f.default != "" else "unset",
            f.metadata["doc"],
        )
        for f in fields(Settings)
    ]


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z.]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`?\bmake ([a-z.]+)", (ROOT / "README.md").read_text()))
    assert named >= {"demo", "test"}
    assert named <= targets


def test_every_file_that_the_readme_and_docs_link_to_exists() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_site_builds_without_a_broken_link_and_loads_nothing_from_other_hosts(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        loaded = re.findall(
            r'<(?:script|img|link)[^>]+(?:src|href)="(https?:[^"]+)', page.read_text()
        )
        assert not loaded, f"{page} loads {loaded}"


REFERENCE = (ROOT / "docs" / "reference.md").read_text()


def test_every_command_is_in_the_reference() -> None:
    names = [c.name or c.callback.__name__ for c in cli.app.registered_commands if c.callback]
    assert "apply" in names
    for name in names:
        assert f"`headwater {name}`" in REFERENCE


def test_every_metric_is_in_the_reference() -> None:
    names = {family.name for family in known_metrics()}
    assert len(names) > 10
    for name in names:
        assert f"`{name}`" in REFERENCE


def test_every_route_is_in_the_reference() -> None:
    source = "".join(path.read_text() for path in sorted((ROOT / "service").glob("*.py")))
    routes = re.findall(r'@app\.(get|post|delete)\(\s*"([^"]+)"', source)
    assert len(routes) > 8
    for method, path in routes:
        assert f"`{method.upper()} {path}`" in REFERENCE


def test_every_page_is_in_the_reference() -> None:
    source = "".join(path.read_text() for path in sorted((ROOT / "service/ui").glob("*.py")))
    routes = re.findall(r'@(?:pages\.)?ui\.(get|post|delete)\(\s*"([^"]+)"', source)
    assert ("get", "/") in routes
    for method, path in routes:
        # A converter of the framework is no part of an address.
        assert f"`{method.upper()} /ui{path.replace(':path}', '}')}`" in REFERENCE
