"""No field of a request of OpenAI's or Anthropic's is ignored silently: it is honoured, or refused by its name.

The fields are those of the installed packages' parameter types, however deep; one that comes with a newer package is
among them. A value is honoured if jobs are asked for something else with it than without it. What has no effect is
listed here, with its reason, and nothing else has none.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any, NotRequired, Required

import pytest
from support.late_import import LateImport
from typing_extensions import is_typeddict

from killable.api.openai.parsing import read_parsed
from killable.api.openai.request_inputs import FIELDS, Accepting, Asked, BadRequest

Path = tuple[str | int, ...]
Body = dict[str, Any]
Put = Callable[[Any], Body]

OF_CACHES = "it says what to keep in a cache: no answer is another one with it"
OF_AN_ANSWER = "it belongs to an earlier answer, as its server has told it: a chat template has no place for it"
OF_STORING = "an answer is kept as its job is"
OF_PACKAGES = "the package takes it for itself, and sends none"
WITHOUT_EFFECT = {
    "chat": {"messages/*/content/*/prompt_cache_breakpoint*": OF_CACHES},
    "completions": {},
    "embeddings": {},
    "responses": {
        "input/*/content/*/annotations*": OF_AN_ANSWER,
        "input/*/content/*/logprobs*": OF_AN_ANSWER,
        "input/*/content/*/prompt_cache_breakpoint*": OF_CACHES,
        "input/*/output/*/prompt_cache_breakpoint*": OF_CACHES,
        "input/*/id": OF_AN_ANSWER,
        "input/*/phase": OF_AN_ANSWER,
        "input/*/status": OF_AN_ANSWER,
    },
    "messages": {
        "cache_control*": OF_CACHES,
        "*/cache_control*": OF_CACHES,
        "*/citations*": OF_AN_ANSWER,
    },
}
"""Patterns of paths."""
ASKING_FOR_NOTHING: dict[str, dict[str, tuple[Any, ...]]] = {
    "chat": {
        "logprobs": (False,),
        "modalities/0": ("text",),
        "parallel_tool_calls": (True,),
        "response_format": ({"type": "text"},),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "stream": (False,),
        "stream_options/*": (False,),
        "tool_choice": ("none", "auto"),
        "verbosity": ("medium",),
    },
    "completions": {"echo": (False,), "stream": (False,), "stream_options/*": (False,)},
    "embeddings": {"encoding_format": ("float",)},
    "responses": {
        "background": (False,),
        "input/*/type": ("message",),
        "parallel_tool_calls": (True,),
        "service_tier": ("auto", "default"),
        "store": (True,),
        "stream": (False,),
        "stream_options/*": (False,),
        "text/format": ({"type": "text"},),
        "text/verbosity": ("medium",),
        "tool_choice": ("none", "auto"),
        "truncation": ("disabled",),
    },
    "messages": {
        "messages/*/is_error": (False,),
        "service_tier": ("auto", "standard_only"),
        "stream": (False,),
        "thinking": ({"type": "disabled"},),
        "tool_choice": ({"type": "auto"},),
        "tool_choice/disable_parallel_tool_use": (False,),
        "tools/*/type": ("custom",),
    },
}
"""Values that are the same as none; so is an object without members."""

WITHOUT_TOOLS = {
    "chat": {"parallel_tool_calls": (False,)},
    "responses": {"parallel_tool_calls": (False,)},
    "messages": {"tool_choice": ({"type": "none"},), "tool_choice/disable_parallel_tool_use": (True,)},
}
"""The same where there are no tools."""

PACKAGES = {
    "chat": (LateImport("openai.types.chat.completion_create_params"), "CompletionCreateParams"),
    "completions": (LateImport("openai.types.completion_create_params"), "CompletionCreateParams"),
    "embeddings": (LateImport("openai.types.embedding_create_params"), "EmbeddingCreateParams"),
    "responses": (LateImport("openai.types.responses.response_create_params"), "ResponseCreateParams"),
    "messages": (LateImport("anthropic.types.message_create_params"), "MessageCreateParams"),
}
MESSAGES = [{"role": "user", "content": "x"}]
BODIES: dict[str, Body] = {
    "chat": {"model": "m", "messages": MESSAGES},
    "completions": {"model": "m", "prompt": "x"},
    "embeddings": {"model": "m", "input": "x"},
    "responses": {"model": "m", "input": "x"},
    "messages": {"model": "m", "messages": MESSAGES, "max_tokens": 9},
}
FUNCTION = {"type": "function", "function": {"name": "x"}}
TOOLS = {
    "chat": FUNCTION,
    "responses": {"type": "function", "name": "x"},
    "messages": {"name": "x", "input_schema": {}},
}
NEEDED: dict[str, dict[str, Body]] = {
    "top_logprobs": {"chat": {"logprobs": True}, "responses": {"include": ["message.output_text.logprobs"]}},
    "stream_options": {kind: {"stream": True} for kind in ("chat", "completions", "responses")},
    "tool_choice": {kind: {"tools": [tool]} for kind, tool in TOOLS.items()},
    "parallel_tool_calls": {kind: {"tools": [tool]} for kind, tool in TOOLS.items()},
}
"""What a field is given with, as it says nothing alone: to the types that take it."""
CONTENT = ("messages", "prompt", "input", "max_tokens")
TYPES: dict[str, Callable[[str], set[str]]] = {
    "little": lambda kind: set(CONTENT),
    "tools": lambda kind: {*CONTENT, "tools"},
    "much": lambda kind: {*CONTENT, *FIELDS[kind]},
}
"""The parameters of job types that answer."""
DEPTH_MAX = 10


def bare(hint: Any) -> Any:
    """Return a type without what says whether its member is needed."""
    while typing.get_origin(hint) in (Required, NotRequired, typing.Annotated):
        hint = typing.get_args(hint)[0]
    return getattr(hint, "__value__", hint)


def least(hint: Any, turn: int = 0) -> Any:
    """Return a small value of a type: one of two, if there are two."""
    hint = bare(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if is_typeddict(hint):
        return {name: least(member, turn) for name, member in members_of(hint).items() if is_needed(hint, member)}
    if origin is typing.Literal:
        return args[0]
    if is_union(origin):
        return least(args[0], turn)
    if is_mapping(origin):
        return {"1": least(args[1], turn)}
    if origin is not None:
        return [least(args[0], turn)]
    return {bool: (True, True), int: (7, 8), float: (0.5, 0.25), str: ("x", "y")}.get(hint, ({"x": 1}, {"y": 1}))[turn]


def members_of(hint: Any) -> dict[str, Any]:
    return typing.get_type_hints(hint, include_extras=True)


def is_needed(hint: Any, member: Any) -> bool:
    """`__required_keys__` does not see the marks, which are strings there."""
    return typing.get_origin(member) is Required or (hint.__total__ and typing.get_origin(member) is not NotRequired)


def is_union(origin: Any) -> bool:
    return origin is typing.Union or getattr(origin, "__name__", "") == "UnionType"


def is_mapping(origin: Any) -> bool:
    return getattr(origin, "__name__", "") in ("dict", "Mapping")


def walk(
    hint: Any, path: Path, put: Put, without: Body, faults: Callable[[Body], list[str]], turn: int = 1
) -> Iterator[tuple[Path, Body, Body]]:
    """Yield the path of each member of a type with each of its values: a body with it, and the same without it.

    What is refused for what it is, such as an image, is not walked further. `turn`: the values are others than those
    around them, so that each is seen where it comes.
    """
    hint = bare(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if is_union(origin):
        for each in args:
            if each is not type(None):
                yield from walk(each, path, put, without, faults, turn)
    elif origin is typing.Literal:
        yield from ((path, put(value), without) for value in args)
    elif hint is bool:
        yield from ((path, put(value), without) for value in (True, False))
    elif origin is not None and not is_mapping(origin):
        yield from walk(args[0], (*path, 0), lambda value: put([value]), without, faults, turn)
    else:
        base = least(hint, turn)
        yield path, put(base), without
        if not is_typeddict(hint) or len(path) >= DEPTH_MAX:
            return
        for place in faults(put(base)):  # this server needs more than the type says
            name = place.removeprefix("/".join(map(str, path)) + "/")
            if name in members_of(hint):
                base[name] = least(members_of(hint)[name], turn)
        if not faults(put(base)):
            for name, member in members_of(hint).items():

                def put_member(value: Any, name: str = name) -> Body:
                    return put({**base, name: value})

                yield from walk(member, (*path, name), put_member, put(base), faults, 1 - turn)


def fields_of(kind: str) -> dict[str, Any]:
    """Return the members of a kind of request, which is one type or several."""
    module, name = PACKAGES[kind]
    hint = getattr(module, name)
    found: dict[str, Any] = {}
    for each in typing.get_args(hint) or (hint,):
        for member, type_ in members_of(each).items():
            found[member] = typing.Union[found[member], bare(type_)] if member in found else bare(type_)  # noqa: UP007
    del found["model"]
    return found


def read(kind: str, body: Body, taken: set[str]) -> Asked | list[str]:
    """Return what is asked for, or where the faults are."""
    try:
        return read_parsed(kind, body, {"m": Accepting("t", sorted(taken))})._replace(told=b"")
    except BadRequest as error:
        return [each["pointer"].removeprefix("/") for each in error.faults]


def is_at(pointers: list[str], place: str) -> bool:
    """Return whether a fault names the place, what it is in, or something in it."""
    return any(f"{place}/".startswith(f"{each}/") or f"{each}/".startswith(f"{place}/") for each in pointers)


def value_at(body: Any, path: Path) -> Any:
    for step in path:
        body = body[step]
    return body


class Walked:
    """The members of one kind of request, as a job type answers them."""

    def __init__(self, kind: str, taken: set[str]) -> None:
        self.kind, self.taken = kind, taken
        self.silent: list[str] = []
        self.astray: list[str] = []
        """Refused, but for another one's name."""
        self.listed: set[str] = set()
        """Those of the lists that were met."""
        self.values = 0
        for name, hint in fields_of(kind).items():
            self._walk(name, hint)

    def _walk(self, name: str, hint: Any) -> None:
        base = BODIES[self.kind] | (NEEDED.get(name, {}).get(self.kind, {}) if "tools" in self.taken else {})
        for path, body, without in walk(hint, (name,), lambda value: {**base, name: value}, base, self._faults):
            if body != without:
                self.values += 1
                self._look("/".join(map(str, path)), value_at(body, path), body, without)

    def _faults(self, body: Body) -> list[str]:
        found = read(self.kind, body, self.taken)
        return found if isinstance(found, list) else []

    def _look(self, place: str, value: Any, body: Body, without: Body) -> None:
        found = read(self.kind, body, self.taken)
        if isinstance(found, list):
            if not is_at(found, place):
                self.astray.append(f"{place}: {value!r} {found}")
        elif found == read(self.kind, without, self.taken) and not self._is_listed(place, value):
            self.silent.append(f"{place}: {value!r}")

    def _is_listed(self, place: str, value: Any) -> bool:
        patterns = [each for each in WITHOUT_EFFECT[self.kind] if fnmatchcase(place, each)]
        nothing = list(ASKING_FOR_NOTHING[self.kind].items())
        if "tools" not in self.taken:
            nothing += WITHOUT_TOOLS.get(self.kind, {}).items()
        patterns += [each for each, values in nothing if fnmatchcase(place, each) and value in values]
        self.listed.update(patterns)
        return bool(patterns) or value == {}


@pytest.mark.parametrize("kind", PACKAGES)
def test_no_field_of_a_package_is_ignored_silently(kind: str) -> None:
    walked = {name: Walked(kind, members(kind)) for name, members in TYPES.items()}
    assert {name: each.silent for name, each in walked.items() if each.silent} == {}
    assert {name: each.astray for name, each in walked.items() if each.astray} == {}
    assert min(each.values for each in walked.values()) > 5, "fields were found"
    met = set().union(*(each.listed for each in walked.values()))
    assert {*WITHOUT_EFFECT[kind], *ASKING_FOR_NOTHING[kind]} - met == set(), "a list has what nobody needs"
