"""`killable.workers.quick_dataclasses` beside `dataclasses`: the same class, defined twice."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from killable.workers import quick_dataclasses

COMPILED = """
import sys
constructors = []

def note(event, arguments):
    if event == "compile" and isinstance(arguments[0], bytes) and b"def __init__" in arguments[0]:
        constructors.append(arguments[0])

sys.addaudithook(note)
import killable.supervisor.settings
print([each for each in constructors if not each.startswith(b"# ")])
"""


def defined_with(dataclass: Any) -> Any:
    @dataclass(frozen=True, kw_only=True, eq=False, repr=False)
    class Base:
        name: str
        count: int = 2

    @dataclass(frozen=True, kw_only=True, eq=False, repr=False)
    class Record(Base):
        total: int
        sizes: list[int] = dataclasses.field(default_factory=list)
        count: int = 3

    return Record


def slotted_with(dataclass: Any) -> Any:
    @dataclass(slots=True, kw_only=True, eq=False, repr=False, weakref_slot=True)
    class Slotted:
        name: str
        sizes: list[int] = dataclasses.field(default_factory=list)

    return Slotted


def members(made: Any) -> dict[str, Any]:
    return {each.name: getattr(made, each.name) for each in dataclasses.fields(made)}


@pytest.mark.parametrize("values", [{"name": "a", "total": 1}, {"name": "a", "total": 1, "sizes": [4], "count": 5}])
def test_it_is_what_the_library_makes(values: dict[str, Any]) -> None:
    ours, theirs = (defined_with(each)(**values) for each in (quick_dataclasses.dataclass, dataclasses.dataclass))
    assert members(ours) == members(theirs)
    assert members(dataclasses.replace(ours, name="z")) == members(dataclasses.replace(theirs, name="z"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        ours.name = "b"


def test_each_has_a_default_of_its_own_and_its_slots() -> None:
    slotted = slotted_with(quick_dataclasses.dataclass)
    one, other = slotted(name="a"), slotted(name="b")
    one.sizes.append(1)
    assert (one.sizes, other.sizes) == ([1], [])
    assert slotted.__slots__ == slotted_with(dataclasses.dataclass).__slots__ and not hasattr(one, "__dict__")


def test_the_library_can_extend_it() -> None:
    @dataclasses.dataclass(frozen=True)
    class Further(defined_with(quick_dataclasses.dataclass)):  # type: ignore[misc]
        more: int = 7

    assert members(Further(name="a", total=1)) == {"name": "a", "total": 1, "sizes": [], "count": 3, "more": 7}


@pytest.mark.parametrize("values", [{}, {"name": "a"}, {"name": "a", "total": 1, "other": 2}])
def test_a_wrong_name_and_a_missing_value_are_refused(values: dict[str, Any]) -> None:
    for each in (quick_dataclasses.dataclass, dataclasses.dataclass):
        with pytest.raises(TypeError):
            defined_with(each)(**values)


def test_no_constructor_is_compiled_for_the_settings_of_a_supervisor() -> None:
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
