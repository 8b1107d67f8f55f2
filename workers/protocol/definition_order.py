"""The order in which definitions can be loaded. Pure.

Runs in: the program (an Executor's).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

T = TypeVar("T", bound=tuple[str, ...])


def circles(refers: Mapping[T, Collection[T]], uses: Mapping[T, Collection[T]]) -> list[list[T]]:
    """Return all keys, each behind those that it refers to; those that refer to each other in a circle together.

    Where possible a key is also behind those that it uses. (Tarjan's strongly connected components.)
    """
    numbers: dict[T, int] = {}
    lowest: dict[T, int] = {}
    stack: list[T] = []
    found: list[list[T]] = []

    def visit(key: T) -> None:
        numbers[key] = lowest[key] = len(numbers)
        stack.append(key)
        for other in sorted(refers[key]):
            if other in refers and other not in numbers:
                visit(other)
                lowest[key] = min(lowest[key], lowest[other])
            elif other in stack:
                lowest[key] = min(lowest[key], numbers[other])
        if lowest[key] == numbers[key]:
            place = stack.index(key)
            found.append(stack[place:])
            del stack[place:]

    for key in _used_first(refers, uses):
        if key not in numbers:
            visit(key)
    return found


def _used_first(refers: Mapping[T, Collection[T]], uses: Mapping[T, Collection[T]]) -> Iterable[T]:
    order: dict[T, None] = {}
    begun: set[T] = set()
    for first in sorted(refers):
        waiting: list[tuple[T, bool]] = [(first, False)]
        while waiting:
            key, is_through = waiting.pop()
            if is_through:
                order[key] = None
            elif key in refers and key not in begun:
                begun.add(key)
                waiting.append((key, True))
                waiting += [(other, False) for other in sorted({*refers[key], *uses[key]}, reverse=True)]
    return order
