"""Clients are told the pattern of a parameter as its author has written it, where that means the same to them."""

from __future__ import annotations

import re

import pytest

from killable.workers.commands.command_spec import Parameter
from killable.workers.commands.parameter_types import parameter_type

pytestmark = pytest.mark.row("G11")

TEXTS = ("", "a", "b", "ab", "ba", "aab", "xab", "abx", "a$", "^a", "a|b", "|", "^", "$", "]", "^a|b$", "\\", "a\\")
ANCHORED = ("^[^x]*$", "^(a|b)$", "^(?:a|(b|c))+$", "^$", r"^a\\$", r"^[]|^$()]$", r"^[^]|]$", r"^[\]|]$", "^a{1,2}b$")
OTHERS = (
    *("[^x]*", "^a|b$", "^a$|^b$", r"^a\$", r"\^a$", "^a", "a$", "^(a)|(b)$", r"^\(a|b\)$", r"^a\\\$"),
    *("^(?#[)a|b(?#])$", "[^a]$", "^[$]"),
)


def told(pattern: str) -> str:
    found: str = parameter_type(Parameter(pattern=pattern), begins=False).schema["pattern"]
    return found


@pytest.mark.parametrize("pattern", ANCHORED)
def test_an_anchored_pattern_is_told_as_it_is(pattern: str) -> None:
    assert told(pattern) == pattern


@pytest.mark.parametrize("pattern", OTHERS)
def test_any_other_pattern_is_told_with_anchors(pattern: str) -> None:
    assert told(pattern) == f"^(?:{pattern})$"


@pytest.mark.parametrize("pattern", ANCHORED + OTHERS)
def test_what_clients_find_is_what_the_server_takes(pattern: str) -> None:
    """JSON Schema searches for a pattern; a parameter's is for the whole text."""
    for text in TEXTS:
        assert bool(re.search(told(pattern), text)) == bool(re.fullmatch(pattern, text)), text
