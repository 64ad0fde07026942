"""The functions of definitions as plans: whole, so that who runs them needs none of the project."""

from __future__ import annotations

import contextlib
import dis
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle

from headwater.catalog import CodePlan
from headwater.errors import DefinitionError

_PLAIN = (int, float, str, bytes, type(None))


def plan_code(view: Any, repo: str, function: Any = None) -> CodePlan | None:
    """The function of a stream view or an on-demand view; None where it has none.

    repo: the project's folder. function: the view's, where its own is not as it was defined. What
    it uses of the project's modules is in the plan: by value in `body`, since a worker or a service
    does not import them, and in `text`, so that a change of it is a change of the view. Raises
    DefinitionError for a mode that cannot be run.
    """
    function = function or getattr(view, "udf", None)
    transformation = getattr(view, "feature_transformation", None)
    if function is None and transformation is not None:
        function = getattr(transformation, "udf", None)
    if function is None:
        return None
    mode = str(getattr(view.mode, "value", view.mode))
    if mode not in {"python", "pandas"}:
        raise DefinitionError(
            f"feature view {view.name!r}",
            f"its transformation has mode {mode!r}",
            'Use mode="python" or mode="pandas"',
        )
    text = getattr(view, "udf_string", "") or getattr(transformation, "udf_string", "") or ""
    own = _modules(repo)
    return CodePlan(
        getattr(function, "__name__", view.name),
        "pandas" if mode == "pandas" else "python",
        _by_value(function, own),
        "\n\n".join([text, *_used(function, {module.__name__ for module in own}, set())]),
    )


def _modules(repo: str) -> list[ModuleType]:
    """The project's modules that are loaded."""
    folder = Path(repo).resolve()
    return [
        module
        for module in list(sys.modules.values())
        if (file := getattr(module, "__file__", None))
        and Path(file).is_relative_to(folder)
        and "site-packages" not in Path(file).parts
    ]


def _by_value(function: Any, own: list[ModuleType]) -> bytes:
    for module in own:
        cloudpickle.register_pickle_by_value(module)
    try:
        body: bytes = cloudpickle.dumps(function)
    finally:
        for module in own:
            cloudpickle.unregister_pickle_by_value(module)
    return body


def _used(function: Any, own: set[str], seen: set[int]) -> Iterator[str]:
    """The text of what a function uses of the project's modules, in the order of the names."""
    function = inspect.unwrap(function) if callable(function) else function
    if not isinstance(function, FunctionType):
        return
    seen.add(id(function))
    for name in sorted(set(_names(function.__code__))):
        if name not in function.__globals__:
            continue
        value = function.__globals__[name]
        if isinstance(value, _PLAIN):
            yield f"{name} = {value!r}"
        elif _module_of(value) in own and id(value) not in seen:
            seen.add(id(value))
            with contextlib.suppress(OSError, TypeError):  # it was made by code that has no file
                yield inspect.getsource(value).rstrip()
            yield from _used(value, own, seen)


def _module_of(value: Any) -> str:
    if isinstance(value, ModuleType):
        return value.__name__
    return value.__module__ if isinstance(value, FunctionType | type) else ""


def _names(code: CodeType) -> Iterator[str]:
    """Every global name that a function looks up, in the functions within it too."""
    yield from (i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL")
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
