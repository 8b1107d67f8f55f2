from __future__ import annotations

import abc
import collections
import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Any

import pytest

from killable.workers.protocol.change_detection import ITEMS_MAX, Snapshot


def make(start: int = 0) -> Callable[[], int]:
    count = start

    def add(step: int = 1) -> int:
        nonlocal count
        count += step
        return count

    return add


def make_class() -> type:
    class Made:
        level = 1
        known: tuple[str, ...] = ("a",)

        def method(self) -> int:
            return self.level

        @property
        def twice(self) -> int:
            return 2 * self.level

        @functools.lru_cache  # noqa: B019
        def cached(self) -> int:
            return 1

    Made.__module__, Made.__qualname__ = "__main__", "Made"
    return Made


def holds_after(value: Any, change: Callable[[], object]) -> bool:
    snapshot = Snapshot.of(value, "Made")
    assert snapshot is not None and snapshot.holds()
    change()
    return snapshot.holds()


def test_a_function_changes_with_its_variables_its_attributes_and_its_code() -> None:
    assert holds_after(make(), lambda: None)
    add = make()
    assert not holds_after(add, add)
    assert not holds_after(add, lambda: setattr(add, "mark", 1))
    assert not holds_after(add, lambda: setattr(add, "__defaults__", (2,)))
    assert not holds_after(add, lambda: setattr(add, "__code__", make().__code__.replace(co_name="other")))


def test_a_class_changes_with_its_attributes() -> None:
    made = make_class()
    assert holds_after(made, lambda: None)
    assert not holds_after(made, lambda: setattr(made, "level", 2))
    assert not holds_after(made, lambda: setattr(made, "other", 2))


def of_main(cls: type) -> type:
    cls.__module__ = "__main__"
    return cls


class Level(str):
    pass


class Mark(enum.Enum):
    LOW = 1
    HIGH = [1]  # noqa: RUF012


@pytest.mark.parametrize(
    "cls",
    [
        of_main(collections.namedtuple("P", "x y")),
        dataclasses.make_dataclass("M", [("a", int)]),
        of_main(type("Tee", (), {"v": 1})),
        of_main(type("Derived", (make_class(),), {})),
    ],
)
def test_a_class_that_nothing_else_brings_changes_under_any_name(cls: Any) -> None:
    assert holds_after(cls, lambda: None)
    assert not holds_after(cls, lambda: setattr(cls, "level", 2))
    assert not holds_after([cls(1, 2) if cls.__name__ == "P" else cls], lambda: setattr(cls, "level", 3))


def test_a_class_changes_with_its_base_that_nothing_else_brings() -> None:
    base = make_class()
    derived = of_main(type("Derived", (base,), {}))
    assert not holds_after(derived, lambda: setattr(base, "level", 2))


def test_an_abstract_class_changes_with_what_is_registered() -> None:
    base = of_main(abc.ABCMeta("Base", (), {}))
    assert holds_after(base, lambda: None)
    assert not holds_after(base, lambda: base.register(Level))  # type: ignore[attr-defined]


def test_an_enumeration_changes_with_its_members() -> None:
    of_main(Mark)
    assert holds_after([Mark.LOW], lambda: None)
    assert not holds_after(Mark, lambda: setattr(Mark.LOW, "seen", 1))
    assert not holds_after(Mark, lambda: Mark.HIGH.value.append(2))


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ({"a": 1}, lambda it: it.update(a=2)),
        ({"a": 1}, lambda it: it.update(b=1)),
        ([1, "x", None], lambda it: it.append(3)),
        ({1, 2}, lambda it: it.discard(1)),
        (([1], (2,)), lambda it: it[0].clear()),
    ],
)
def test_a_small_container_changes_with_its_items(value: Any, change: Callable[[Any], object]) -> None:
    assert holds_after(value, lambda: None)
    assert not holds_after(value, lambda: change(value))


class Other:
    pass


@pytest.mark.parametrize(
    "value", [Other(), [Other()], list(range(ITEMS_MAX + 1)), bytearray(3), functools.partial(make), Level("a")]
)
def test_what_may_change_unseen_has_no_snapshot(value: Any) -> None:
    assert Snapshot.of(value, "Made") is None


def test_a_variable_that_may_change_unseen_is_one_of_the_function() -> None:
    other = Other()
    assert Snapshot.of(lambda: other, "Made") is None


def test_an_empty_variable_has_no_snapshot() -> None:
    def outer() -> Callable[[], int]:
        def inner() -> int:
            return later

        found = inner
        if not found:
            later = 1
        return found

    assert Snapshot.of(outer(), "Made") is None
