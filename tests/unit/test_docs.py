"""The documentation says what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from headwater.settings import Settings

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
