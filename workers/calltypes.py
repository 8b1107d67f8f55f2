"""The job types of an Executor's pool: call a function that came with the job, once, or item by item.

Runs in: worker. The function was pickled by the program that owns the Executor (`pickles`): whoever wrote the one wrote
the other.
"""

from __future__ import annotations

import typing
from collections.abc import Generator, Iterable, Mapping
from types import GeneratorType
from typing import Any

from killable.workers.calls import CALL, STREAM
from killable.workers.context import Context
from killable.workers.jobs import job


@job(CALL, codec="pickle")
def call(ctx: Context, function: Any, args: Any, kwargs: Any) -> Any:
    """Call it. A generator's yields are sent one by one, and its return value is the result."""
    return function(*args, **_with_context(function, kwargs, ctx))


@job(STREAM, codec="pickle")
def stream(ctx: Context, function: Any, args: Any, kwargs: Any) -> Any:
    """Call it, and send one by one what it returns or yields."""
    found = function(*args, **_with_context(function, kwargs, ctx))
    return found if isinstance(found, GeneratorType) else _each(found)


def _each(items: Iterable[Any]) -> Generator[Any, None, None]:
    yield from items


def _with_context(function: Any, kwargs: Mapping[str, Any], ctx: Context) -> Mapping[str, Any]:
    """Give it its Context, if it has a parameter that is annotated so."""
    annotations = getattr(function, "__annotations__", None)
    if not annotations or not any(_may_be_context(kind) for kind in annotations.values()):
        return kwargs
    for name, kind in typing.get_type_hints(function).items():
        if kind is Context and name != "return" and name not in kwargs:
            return {**kwargs, name: ctx}
    return kwargs


def _may_be_context(kind: object) -> bool:
    return kind is Context or (isinstance(kind, str) and kind.endswith("Context"))
