"""The arguments of a command as a template, and what an input makes of it. There is no shell in between.

Runs in: supervisor (checks it) | zygote, worker. Pure.

A value becomes one argument or a part of one, whatever is in it. An argument, or a list of arguments, is left out when
a placeholder in it has no value, and repeated for each item of an array in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from killable.workers.named_tuples import NamedTuple

NAME = r"[A-Za-z_][A-Za-z0-9_]{0,62}"
_PARTS = re.compile(rf"\{{\{{(?P<text>{NAME})\}}\}}|\{{(?P<name>{NAME})\}}")


class ArgumentPart(NamedTuple):
    """A part of an argument: a text of the author's, or a placeholder."""

    text: str = ""
    name: str = ""


class Value(NamedTuple):
    """What stands in for a placeholder."""

    text: str
    may_begin: bool = False
    """Whether an argument may begin with it although it begins with a dash: it is no user's, or that is allowed."""


Values = Mapping[str, Value | Sequence[Value]]
"""By name; a name that is absent has no value, and several are those of an array."""


class LeadingDash(ValueError):
    """An argument would begin with a dash that a user has sent."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def parse(text: str) -> list[ArgumentPart]:
    """Return the parts of an argument. `{name}` is a placeholder, `{{name}}` the text {name}; other braces are text."""
    parts: list[ArgumentPart] = []
    written, at = "", 0
    for found in _PARTS.finditer(text):
        written += text[at : found.start()]
        at = found.end()
        if found["text"]:
            written += f"{{{found['text']}}}"
            continue
        parts += [ArgumentPart(text=written)] if written else []
        parts.append(ArgumentPart(name=found["name"]))
        written = ""
    written += text[at:]
    return [*parts, ArgumentPart(text=written)] if written or not parts else parts


class Template:
    """The argv of a command."""

    def __init__(self, argv: Sequence[str | Sequence[str]]) -> None:
        listed = ([each] if isinstance(each, str) else each for each in argv)
        self.groups = [[parse(text) for text in group] for group in listed]

    def names(self) -> list[str]:
        """Return the placeholders, each once, in their order."""
        every = (part.name for group in self.groups for argument in group for part in argument)
        return list(dict.fromkeys(filter(None, every)))

    def leading(self) -> set[str]:
        """Return the placeholders with which an argument may begin."""
        found = set()
        for argument in (argument for group in self.groups for argument in group):
            for part in argument:
                if not part.name:
                    break
                found.add(part.name)
        return found

    def fill(self, values: Values) -> list[str]:
        """Return the arguments. Raise LeadingDash."""
        return [argument for group in self.groups for argument in _fill_group(group, values)]


def names_of(group: Sequence[Sequence[ArgumentPart]]) -> list[str]:
    """Return the placeholders of a group of arguments, each once."""
    return list(dict.fromkeys(part.name for argument in group for part in argument if part.name))


def _fill_group(group: Sequence[Sequence[ArgumentPart]], values: Values) -> Iterator[str]:
    names = names_of(group)
    if any(name not in values for name in names):
        return
    listed = {name: value for name in names if not isinstance(value := values[name], Value)}
    for number in range(max(map(len, listed.values()), default=0) if listed else 1):
        here: dict[str, Any] = {name: listed[name][number] if name in listed else values[name] for name in names}
        for argument in group:
            yield _fill(argument, here)


def _fill(argument: Sequence[ArgumentPart], values: Mapping[str, Value]) -> str:
    written = ""
    for part in argument:
        if not part.name:
            written += part.text
            continue
        value = values[part.name]
        if not written and value.text.startswith("-") and not value.may_begin:
            raise LeadingDash(part.name)
        written += value.text
    return written
