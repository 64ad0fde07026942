"""The documentation says what the code does."""

from __future__ import annotations

import re
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
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


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
