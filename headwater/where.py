"""Where in a repository's files an object is defined, so that a message can name file and line."""

from __future__ import annotations

import ast
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

#: What makes an object of each kind: a class that is called, or a decorator of a function.
_MAKERS = {
    "entity": {"Entity"},
    "Kafka source": {"KafkaSource"},
    "push source": {"PushSource"},
    "file source": {"FileSource"},
    "feature view": {"FeatureView", "BatchFeatureView", "StreamFeatureView", "stream_feature_view"},
    "on-demand feature view": {"OnDemandFeatureView", "on_demand_feature_view"},
    "feature service": {"FeatureService"},
}


class Place(NamedTuple):
    path: Path
    line: int
    end: int


class Definitions:
    """Every definition whose name stands in the source as text, by kind and name.

    A name that is put together when the file runs has no place.
    """

    def __init__(self, repo: Path) -> None:
        self._repo = repo
        self._places: dict[tuple[str, str], list[Place]] = {}
        self._fields: list[tuple[str, Place]] = []
        for path in sorted(repo.rglob("*.py")):
            if any(part.startswith(".") for part in path.relative_to(repo).parts):
                continue
            try:
                tree = ast.parse(path.read_text())
            except (SyntaxError, UnicodeDecodeError, OSError):
                continue
            for node in ast.walk(tree):
                self._note(path, node)

    def _note(self, path: Path, node: ast.AST) -> None:
        for maker, name, call in _made(node):
            end = getattr(node, "end_lineno", None) or call.lineno
            place = Place(path, call.lineno, end)
            if maker == "Field":
                self._fields.append((name, place))
            for kind, makers in _MAKERS.items():
                if maker in makers:
                    self._places.setdefault((kind, name), []).append(place)

    def at(self, kind: str, name: str, field: str = "") -> str:
        """ "FILE:LINE" of an object, or of a field within it; "" where that is unknown."""
        if (kind, name) not in self._places:
            return ""
        held = self._places[kind, name][0]
        inside = [
            place for called, place in self._fields
            if called == field and place.path == held.path and held.line <= place.line <= held.end
        ]  # fmt: skip
        path, line, _ = inside[0] if inside else held
        return f"{_shown(path, self._repo)}:{line}"

    def every(self, name: str, kinds: Iterable[str]) -> list[str]:
        """ "FILE:LINE" of each object of some kinds that has a name."""
        found = [place for kind in kinds for place in self._places.get((kind, name), ())]
        return [f"{_shown(p.path, self._repo)}:{p.line}" for p in sorted(found)]

    def of_text(self, text: str) -> str:
        """The place of the object that a text such as "feature view 'x'" names."""
        for kind, name in self._places:
            if f"{kind} {name!r}" in text:
                return self.at(kind, name)
        return ""


def kind_of(made_by: str) -> str:
    """What messages call an object of a class."""
    return next((kind for kind, makers in _MAKERS.items() if made_by in makers), made_by)


def of_error(error: BaseException, repo: Path) -> str:
    """ "FILE:LINE" of the repository's own line that an exception went through last, or ""."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(Path(error.filename), repo)}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(repo):
            return f"{_shown(path, repo)}:{frame.lineno}"
    return ""


def _shown(path: Path, repo: Path) -> str:
    """Relative to the working directory where it lies below, as an editor opens it."""
    here = Path.cwd()
    if path.is_relative_to(here):
        return str(path.relative_to(here))
    return str(path.relative_to(repo.parent) if path.is_relative_to(repo.parent) else path)


def _made(node: ast.AST) -> Iterator[tuple[str, str, ast.Call]]:
    """(class or decorator, name of the object, the call) that a node makes."""
    if isinstance(node, ast.Call):
        name = _argument(node)
        if name:
            yield _called(node), name, node
    elif isinstance(node, ast.FunctionDef):
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call):
                yield _called(decorator), _argument(decorator) or node.name, decorator


def _called(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _argument(call: ast.Call) -> str:
    """The `name` that a call is given as text."""
    given = [k.value for k in call.keywords if k.arg == "name"] or call.args[:1]
    if given and isinstance(given[0], ast.Constant) and isinstance(given[0].value, str):
        return given[0].value
    return ""
