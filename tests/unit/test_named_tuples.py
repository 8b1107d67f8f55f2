"""`killable.workers.named_tuples` beside `typing.NamedTuple`: the same class, defined twice."""

from __future__ import annotations

import copy
import pickle
import typing
from typing import Any

import pytest

from killable.workers import named_tuples


def defined_with(NamedTuple: Any, name: str) -> Any:
    class Record(NamedTuple):
        """A text."""

        name: str
        count: int = 2
        sizes: tuple[int, ...] = ()

        @property
        def total(self) -> int:
            return self.count + sum(self.sizes)

        @classmethod
        def empty(cls) -> typing.Self:
            return cls("")

    Record.__name__ = Record.__qualname__ = name
    return Record


Ours = defined_with(named_tuples.NamedTuple, "Ours")
Theirs = defined_with(typing.NamedTuple, "Theirs")


class Nothing(named_tuples.NamedTuple):
    """Has no fields."""


class Subclass(Ours):  # type: ignore[misc]
    """Has the fields of the class above."""


MADE: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...] = (
    (("a",), {}),
    (("a", 1, (2, 3)), {}),
    (("a", 1), {"sizes": (4,)}),
    (("a",), {"sizes": (4,)}),
    ((), {"sizes": (), "name": "b"}),
    ((), {"name": "b", "count": 5, "sizes": (1,)}),
)
REFUSED: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...] = (
    ((), {}),
    ((), {"count": 1}),
    (("a", 1, (), 4), {}),
    (("a",), {"name": "b"}),
    (("a", 1, ()), {"count": 1}),
    (("a",), {"other": 1}),
    (("a", 1, ()), {"other": 1}),
)


@pytest.mark.parametrize(("values", "named"), MADE)
def test_an_instance_is_as_one_of_typing(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    ours, theirs = Ours(*values, **named), Theirs(*values, **named)
    assert ours == theirs and isinstance(ours, tuple)
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert ours._asdict() == theirs._asdict()
    assert (ours.name, ours.count, ours.sizes, ours.total) == (theirs.name, theirs.count, theirs.sizes, theirs.total)
    assert ours._replace(name="z", count=9) == theirs._replace(name="z", count=9)
    for again in (copy.copy(ours), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), Ours._make(ours)):
        assert again == ours and type(again) is Ours
    assert type(Subclass(*values, **named)._replace(count=1)) is Subclass


@pytest.mark.parametrize("values", [(), ("a", 1), ("a", 1, (), 4)])
def test_a_list_of_values_is_taken_whole_or_refused(values: tuple[Any, ...]) -> None:
    for each in (Ours, Theirs):
        with pytest.raises(TypeError):
            each._make(values)


@pytest.mark.parametrize(("values", "named"), REFUSED)
def test_what_typing_refuses_is_refused(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    for each in (Theirs, Ours):
        with pytest.raises(TypeError):
            each(*values, **named)


def test_the_class_is_as_one_of_typing() -> None:
    for name in ("_fields", "_field_defaults", "__match_args__", "__doc__"):
        assert getattr(Ours, name) == getattr(Theirs, name)
    assert typing.get_type_hints(Ours) == typing.get_type_hints(Theirs)
    assert Ours.empty() == Theirs.empty()
    assert Nothing() == () and Nothing._fields == ()
    with pytest.raises(AttributeError):
        Ours("a").other = 1
    with pytest.raises(AttributeError):
        Ours("a").name = "b"
    with pytest.raises(TypeError):
        Ours("a")._replace(other=1)
    match Ours("a", 3):
        case Ours(name, count):
            assert (name, count) == ("a", 3)


def test_a_field_without_a_default_comes_first() -> None:
    with pytest.raises(TypeError, match="follows one"):
        exec("class Wrong(NamedTuple):\n    a: 'int' = 1\n    b: 'int'\n", {"NamedTuple": named_tuples.NamedTuple})
