"""The author's API: what is a job, what is refused and how it says so, what a job gets for an input."""

from __future__ import annotations

import asyncio
import enum
import functools
import importlib
import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import Field

import killable
from killable.workers.authoring import job_functions
from killable.workers.authoring.context import Context
from killable.workers.authoring.identifiers import TYPE_NAME_RULE
from killable.workers.authoring.job_functions import (
    DeclarationError,
    InputError,
    job,
    preload,
    registered,
    run_preloads,
)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: int = 0


SECONDS = 'expected seconds, not negative: a number, or text like "250ms", "90s", "5m", "1h30m"'
BYTES = 'expected bytes, not negative: a whole number, or text like "1GiB", "64KiB", "10MB"'


@pytest.fixture(autouse=True)
def empty_registry() -> Iterator[None]:
    job_functions.clear()
    yield
    job_functions.clear()


Write = Callable[[str, str], ModuleType]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module of the user's and import it."""
    monkeypatch.syspath_prepend(tmp_path)
    written: list[str] = []

    def import_it(name: str, source: str) -> ModuleType:
        (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        written.append(name)
        return importlib.import_module(name)

    yield import_it
    for name in written:
        sys.modules.pop(name, None)


def refusal(declare: Callable[[], object]) -> str:
    """Return why a declaration is refused, without the place where it stands."""
    with pytest.raises(DeclarationError) as raised:
        declare()
    return re.sub(r"\S*test_job_functions:\S+ \(.+?test_job_functions\.py:\d+\)", "HERE", str(raised.value))


# --- what a declaration makes -----------------------------------------------------------------------------------------


def test_the_function_stays_what_it_was() -> None:
    def split(text: str) -> list[str]:
        return text.split()

    assert job(split) is split
    assert job(run_s=5)(split) is split
    assert split("a b") == ["a", "b"]
    assert registered()["split"].function is split


def test_everything_that_is_declared_is_in_the_catalogue() -> None:
    @job(
        "split-text",
        operations=("load", "run"),
        requires={"json": "pip install json"},
        run_s="5m",
        grace_s=2,
        memory_bytes="1GiB",
        ack_s=None,
    )
    def split(text: str, chunk: int = 4000, *, ctx: Context) -> Iterator[str]:
        """Split a text.

        More about it.
        """
        yield text[:chunk]

    (row,) = job_functions.catalogue()
    assert row == {
        "name": "split-text",
        "description": "Split a text.",
        "input_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {"text": {"type": "string"}, "chunk": {"type": "integer", "default": 4000}},
            "required": ["text"],
            "additionalProperties": False,
        },
        "limits": {"run_s": 300.0, "grace_s": 2.0, "memory_bytes": 1 << 30, "ack_s": None},
        "operations": ["load", "run"],
        "streams": True,
        "on_loss": "fail",
        "openai": "",
        "openai_model": "",
        "retry_on": [],
        "retry_codes": [],
        "available": True,
        "unavailable_reason": "",
    }
    assert json.loads(json.dumps(row)) == row
    Draft202012Validator.check_schema(row["input_schema"])


def test_what_is_not_declared_has_its_default() -> None:
    @job
    def nothing():  # type: ignore[no-untyped-def]
        pass

    (row,) = job_functions.catalogue()
    assert (row["name"], row["description"], row["limits"], row["operations"]) == ("nothing", "", {}, [])
    assert row["streams"] is False
    assert row["input_schema"]["properties"] == {}


def test_every_limit_may_be_declared() -> None:
    limits: dict[str, Any] = dict.fromkeys(job_functions.LIMITS, 1) | {"operation_s": {"load": 1}}

    @job(**limits)
    def nothing() -> None: ...

    assert registered()["nothing"].limits == limits


@pytest.mark.parametrize("wrong", [5, {"a b": 1}, {"load": -1}, {"load": 0}, {"load/": 1}, {1: 1}])
def test_the_times_of_operations_are_a_mapping_of_paths_to_seconds(wrong: Any) -> None:
    with pytest.raises(DeclarationError, match="operation_s"):

        @job(operation_s=wrong)
        def nothing() -> None: ...


def test_a_parameter_without_annotation_takes_anything() -> None:
    @job
    def echo(value, other=None):  # type: ignore[no-untyped-def]
        return value

    assert registered()["echo"].bind({"value": {"a": [1]}}, None) == {"value": {"a": [1]}}


def test_a_generator_behind_a_decorator_of_the_users_streams() -> None:
    def plain(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @job
    @plain
    def count(upto: int) -> Iterator[int]:
        yield from range(upto)

    assert registered()["count"].streams
    assert registered()["count"].bind({"upto": 3}, None) == {"upto": 3}


def test_registered_is_a_copy() -> None:
    registered()["intruder"] = None  # type: ignore[assignment]
    assert registered() == {}


def test_repr_says_where_a_job_stands() -> None:
    @job
    def split(text: str) -> None: ...

    assert re.fullmatch(
        r"<Job split \S*test_job_functions:\S+split \(.+test_job_functions\.py:\d+\)>", repr(registered()["split"])
    )


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "a-b_c9", "a" * 63])
def test_names(name: str) -> None:
    job(name)(lambda: None)
    assert list(registered()) == [name]


@pytest.mark.parametrize("name", ["", "A", "9a", "_a", "a b", "a.b", "ä", "a\n", "a" * 64])
def test_names_that_are_refused(name: str) -> None:
    assert refusal(lambda: job(name)(lambda: None)) == (
        f'@job HERE: {name!r} is not a valid name for a job type ({TYPE_NAME_RULE}); give another, as in @job("name")'
    )


def test_two_jobs_of_one_name_are_refused_naming_both(write: Write, tmp_path: Path) -> None:
    source = "from killable import job\n@job\ndef split(text: str): ...\n"
    write("mine", source)
    with pytest.raises(DeclarationError) as raised:
        write("yours", "\n" + source)
    assert str(raised.value) == (
        f"two job types are named 'split': mine:split ({tmp_path}/mine.py:2) and yours:split ({tmp_path}/yours.py:3);"
        ' give one another name, as in @job("another-name")'
    )
    assert registered()["split"].function.__module__ == "mine"


def test_two_functions_of_one_name_in_one_module_are_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(DeclarationError) as raised:
        write("mine", "from killable import job\n@job\ndef split(a): ...\n@job\ndef split(b): ...\n")
    assert f"mine:split ({tmp_path}/mine.py:2) and mine:split ({tmp_path}/mine.py:4)" in str(raised.value)


def test_a_reload_replaces(write: Write, tmp_path: Path) -> None:
    module = write("mine", "from killable import job\n@job\ndef split(text: str): ...\n")
    (tmp_path / "mine.py").write_text(
        "from killable import job\n# edited\n\n@job\ndef split(text: str, more: int): ...\n"
    )
    importlib.reload(module)
    assert registered()["split"].function is module.split
    assert list(registered()["split"].input.schema["properties"]) == ["text", "more"]


def test_a_cell_that_is_run_again_replaces() -> None:
    notebook: dict[str, Any] = {"__name__": "__main__"}
    cell = "from killable import job\n@job\ndef split(text: str): ...\n"
    exec(compile(cell, "<cell 1>", "exec"), notebook)
    exec(compile("\n" + cell, "<cell 2>", "exec"), notebook)
    assert registered()["split"].function is notebook["split"]


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_the_refusal_names_module_file_and_line(write: Write, tmp_path: Path) -> None:
    with pytest.raises(DeclarationError) as raised:
        write("mine", "from killable import job\n@job\ndef split(*texts): ...\n")
    assert str(raised.value) == (
        f"@job mine:split ({tmp_path}/mine.py:2): parameter '*texts' is not supported:"
        " the members of an input have names; use a parameter that takes a list"
    )


async def coroutine() -> None: ...


async def async_generator() -> Any:
    yield 1


def keywords(**options: int) -> None: ...


def positional(a: int, /) -> None: ...


def undefined(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def malformed(a: "1 +") -> None: ...  # type: ignore[valid-type]  # noqa: F722


def opaque(a: list[complex]) -> None: ...


def bare_context(text: str, ctx) -> None: ...  # type: ignore[no-untyped-def]


def inner_context(contexts: list[Context]) -> None: ...


def opaque_rest(**more: complex) -> None: ...


def wrong_default(a: int = "x") -> None: ...  # type: ignore[assignment]


def implicit_optional(a: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013


def wrong_bound(a: Annotated[int, Field(ge=1)] = 0) -> None: ...


def sentinel(a: Any = object) -> None: ...


def not_a_number(a: float = float("nan")) -> None: ...


def deep_default(a: list = [[{1j}]]) -> None: ...  # type: ignore[type-arg]  # noqa: B006


class Class:
    def method(self, text: str) -> str: ...  # type: ignore[empty-body]

    def untyped(self, text) -> str: ...  # type: ignore[no-untyped-def, empty-body]

    @classmethod
    def of_class(cls, text: str) -> str: ...  # type: ignore[empty-body]

    def __call__(self, text: str, ctx: Context) -> Iterator[str]:
        """Yield it."""
        yield text


def two_contexts(one: Context, two: Context) -> None: ...


def field_default(a: int = Field(1, ge=1)) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (coroutine, "async def is not supported; write def, with asyncio.run(...) inside"),
        (async_generator, "async def is not supported; write def, with asyncio.run(...) inside"),
        (keywords, "parameter '**options' takes members of any name, which needs @job(extra_input=\"allow\")"),
        (positional, "parameter 'a' is positional-only, but the members of an input are passed by name; remove the /"),
        (
            undefined,
            "parameter 'a' has an annotation that cannot be evaluated (name 'Nowhere' is not defined):"
            " import its names above the job",
        ),
        (
            opaque,
            "parameter 'a' complex has no JSON form (str, int, float, bool, None, bytes, list, dict, tuple, set,"
            " Literal, Enum, datetime, date, time, timedelta, Decimal, UUID, Path, InputFile, TypedDict, dataclass,"
            " unions of them and Any have one)",
        ),
        (
            opaque_rest,
            "parameter '**more' complex has no JSON form (str, int, float, bool, None, bytes, list, dict, tuple, set,"
            " Literal, Enum, datetime, date, time, timedelta, Decimal, UUID, Path, InputFile, TypedDict, dataclass,"
            " unions of them and Any have one)",
        ),
        (two_contexts, "parameter 'two' is a second Context besides 'one'; only one is allowed"),
        (
            bare_context,
            "parameter 'ctx' has no annotation, so it would be a member of the input; write ctx: Context",
        ),
        (inner_context, "parameter 'contexts' has Context inside a larger annotation; write ctx: Context"),
        (
            wrong_default,
            "parameter 'a' has the default 'x', which does not fit (must be an integer, is a string);"
            " write an annotation that takes it",
        ),
        (
            implicit_optional,
            "parameter 'a' has the default None, which does not fit (must be an integer, is null); write int | None",
        ),
        (
            wrong_bound,
            "parameter 'a' has the default 0, which does not fit (Input should be greater than or equal to 1);"
            " write an annotation that takes it",
        ),
        (
            sentinel,
            "parameter 'a' has a default that is not JSON, <class 'object'>; use None and create it in the function",
        ),
        (
            not_a_number,
            "parameter 'a' has a default that is not JSON, nan; use None and create it in the function",
        ),
        (
            deep_default,
            "parameter 'a' has a default that is not JSON, [[{1j}]]; use None and create it in the function",
        ),
        (
            Class.method,
            "parameter 'self' would be a member of the input; below the class, write"
            ' job("name")(Class().method), or use a staticmethod',
        ),
        (
            Class.untyped,
            "parameter 'self' would be a member of the input; below the class, write"
            ' job("name")(Class().method), or use a staticmethod',
        ),
        (field_default, "parameter 'a' has a Field as its default; write Annotated[int, Field(...)]"),
    ],
)
def test_functions_that_are_refused(function: Callable[..., Any], message: str) -> None:
    assert refusal(lambda: job(function)) == f"@job HERE: {message}"
    assert registered() == {}


def test_an_annotation_that_is_no_expression_is_refused() -> None:
    assert refusal(lambda: job(malformed)).startswith(
        "@job HERE: parameter 'a' has an annotation that cannot be evaluated: "
    )


@pytest.mark.parametrize("thing", [Point, functools.partial(len, "x"), 5, len, Point(1), object()])
def test_what_is_no_function_is_refused(thing: Any) -> None:
    assert refusal(lambda: job()(thing)) == (
        f"@job is for functions written in Python, not for {thing!r}; write a def that calls it"
    )


def test_a_classmethod_in_its_class_is_refused() -> None:
    thing: Any = Class.__dict__["of_class"]
    assert refusal(lambda: job(thing)) == (
        "@job HERE: a classmethod cannot be registered inside its class;"
        ' below the class, write job("name")(Class.method)'
    )


@pytest.mark.parametrize("thing", [functools.partial(coroutine), functools.partial(functools.partial(coroutine))])
def test_an_async_function_is_refused_however_it_comes(thing: Any) -> None:
    assert refusal(lambda: job("name")(thing)) == (
        "@job HERE: async def is not supported; write def, with asyncio.run(...) inside"
    )


@pytest.mark.parametrize("thing", [functools.partial(positional, 1), Class()])
def test_a_callable_without_a_name_is_given_one(thing: Any) -> None:
    assert refusal(lambda: job(thing)) == (
        f'@job HERE: {thing!r} has no name of its own; give it one, as in @job("name")'
    )
    job("name")(thing)
    assert registered()["name"].function is thing


def test_callables_take_what_their_signature_says() -> None:
    """A partial, bound methods, an object: the schema has what is left to give; the function is what was registered."""

    def cut(text: str, size: int, *, upper: bool = False) -> str:
        """Cut a text."""
        text = text[:size]
        return text.upper() if upper else text

    job("short")(functools.partial(cut, size=3))
    job("bound")(Class.of_class)
    job("method")(Class().method)
    job("object")(Class())
    properties = {name: list(each.input.schema["properties"]) for name, each in registered().items()}
    assert properties == {
        "short": ["text", "size", "upper"], "bound": ["text"], "method": ["text"], "object": ["text"]
    }  # fmt: skip
    short = registered()["short"]
    assert short.input.schema["properties"]["size"] == {"type": "integer", "default": 3}
    assert short.description == "Cut a text."
    assert short.function(**short.bind({"text": "abcdef", "upper": True}, None)) == "ABC"
    called = registered()["object"]
    assert (called.description, called.streams, called.context_parameter) == ("Yield it.", True, "ctx")


def test_a_staticmethod_is_a_function() -> None:
    class Tools:
        @job
        @staticmethod
        def shout(text: str) -> str:
            return text.upper()

    assert Tools.shout("a") == "A"
    assert registered()["shout"].function(text="a") == "A"


def test_two_partials_of_one_function_are_two_jobs() -> None:
    job("one")(functools.partial(takes, 1))
    with pytest.raises(DeclarationError, match="two job types are named 'one'"):
        job("one")(functools.partial(takes, 2))


def test_a_wrapper_that_runs_the_loop_itself_is_a_function() -> None:
    def in_a_loop(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(**given: Any) -> Any:
            return asyncio.run(function(**given))

        return wrapper

    @job
    @in_a_loop
    async def fetch(url: str) -> str:
        return url

    declared = registered()["fetch"]
    assert declared.function(**declared.bind({"url": "a"}, None)) == "a"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 5}, f"there is no limit 'timeout' (there are {', '.join(job_functions.LIMITS)})"),
        ({"run_S": 5}, "there is no limit 'run_S' (did you mean run_s?)"),
        ({"run_s": "5 minutes"}, f"run_s: {SECONDS}; got '5 minutes'"),
        ({"grace_s": None}, f"grace_s: {SECONDS}; got None"),
        ({"memory_bytes": 1.5}, f"memory_bytes: {BYTES}; got 1.5"),
        ({"processes_max": "many"}, "processes_max: expected a whole number, at least 1; got 'many'"),
        ({"output_bytes": None}, f"output_bytes: {BYTES}; got None"),
        ({"codec": "yaml"}, "codec is json or pickle, not 'yaml'"),
        ({"extra_input": "yes"}, "extra_input is forbid or ignore or allow, not 'yes'"),
        (
            {"extra_input": "allow"},
            'extra_input="allow" needs a parameter such as **more that takes them; "ignore" drops them',
        ),
        ({"operations": ("Load",)}, f"'Load' is not a valid name for an operation ({TYPE_NAME_RULE})"),
        (
            {"operations": ("load", "load")},
            "operations lists 'load' twice, or it is the job's own name; list it once",
        ),
        (
            {"operations": ("nothing",)},
            "operations lists 'nothing' twice, or it is the job's own name; list it once",
        ),
        ({"operations": "load"}, "operations is a tuple of names, not 'load'"),
        ({"operations": (1,)}, "operations is a tuple of names, not (1,)"),
        ({"requires": ("a",)}, "requires maps import names (top level) to install lines, not ('a',)"),
        ({"requires": {"a.b": "x"}}, "requires maps import names (top level) to install lines, not {'a.b': 'x'}"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    def nothing() -> None: ...

    assert refusal(lambda: job(**options)(nothing)) == f"@job HERE: {message}"
    assert registered() == {}


@pytest.mark.row("A2")
@pytest.mark.parametrize("operations", [("infer",), ("load", "infer"), ("one",)])
def test_two_types_that_answer_to_one_operation_are_refused(operations: tuple[str, ...]) -> None:
    job("one", operations=("infer",))(lambda: None)
    shared = operations[-1]
    assert refusal(lambda: job("two", operations=operations)(lambda: None)) == (
        f"two job types answer to {shared!r}: 'one', HERE, and 'two', HERE; an operation belongs to one of them"
    )
    assert list(registered()) == ["one"]
    assert refusal(lambda: job("infer")(lambda: None)) == (
        "two job types answer to 'infer': 'one', HERE, and 'infer', HERE; an operation belongs to one of them"
    )


# --- the Context ------------------------------------------------------------------------------------------------------


def first(ctx: Context, text: str) -> None: ...


def last(text: str, *, context: killable.Context) -> None: ...


def optional(text: str, c: Context | None = None) -> None: ...


@pytest.mark.parametrize(("function", "name"), [(first, "ctx"), (last, "context"), (optional, "c")])
def test_the_context_goes_to_the_parameter_that_is_annotated_so(function: Callable[..., Any], name: str) -> None:
    job(function)
    declared = registered()[function.__name__]
    assert declared.context_parameter == name
    assert list(declared.input.schema["properties"]) == ["text"]
    context = object()
    assert declared.bind({"text": "a"}, context) == {"text": "a", name: context}


@pytest.mark.parametrize("annotation", ["Context", "Context | None", "killable.Context"])
def test_the_context_may_stand_under_type_checking_only(write: Write, annotation: str) -> None:
    write(
        "mine",
        f"""from __future__ import annotations
from typing import TYPE_CHECKING
from killable import job
if TYPE_CHECKING:
    import killable
    from killable import Context
@job
def split(text: str, ctx: {annotation}) -> None: ...
""",
    )
    assert registered()["split"].context_parameter == "ctx"


def test_a_context_is_not_taken_from_the_input() -> None:
    job(first)
    with pytest.raises(InputError, match=r"/ctx is not known \(known: text\)"):
        registered()["first"].bind({"text": "a", "ctx": {}}, object())


def test_without_a_context_there_is_none() -> None:
    @job
    def plain(text: str) -> None: ...

    assert registered()["plain"].context_parameter is None
    assert registered()["plain"].bind({"text": "a"}, object()) == {"text": "a"}


# --- inputs -----------------------------------------------------------------------------------------------------------


def paint(
    color: Color, at: Point, times: Annotated[int, Field(ge=1)] = 1, layers: Annotated[int, range(1, 5)] = 1
) -> None: ...


def test_an_input_is_converted_to_what_the_annotations_say() -> None:
    job(paint)
    bound = registered()["paint"].bind({"color": "blue", "at": {"x": 3}, "times": 2, "layers": 4}, None)
    assert bound == {"color": Color.BLUE, "at": Point(3), "times": 2, "layers": 4}


def test_members_that_are_not_given_are_left_to_the_function() -> None:
    job(paint)
    assert set(registered()["paint"].bind({"color": "red", "at": {"x": 1}}, None)) == {"color", "at"}


def test_every_fault_of_an_input_is_told() -> None:
    job(paint)
    with pytest.raises(InputError) as raised:
        registered()["paint"].bind({"at": {"x": "a"}, "times": 0, "layers": 5, "colour": "red"}, None)
    assert raised.value.job == "paint"
    assert raised.value.facts == [
        {"pointer": "/color", "message": "is required"},
        {"pointer": "/colour", "message": "is not known (known: color, at, times, layers)"},
        {"pointer": "/at/x", "message": "must be an integer, is a string"},
        {"pointer": "/times", "message": "Input should be greater than or equal to 1"},
        {"pointer": "/layers", "message": "must be from 1 to 4, is 5"},
    ]
    assert str(raised.value).startswith("the input of 'paint' does not fit: /color is required; /colour is not known")
    twin = pickle.loads(pickle.dumps(raised.value))
    assert (str(twin), twin.facts) == (str(raised.value), raised.value.facts)


def test_an_input_that_is_no_object_is_told() -> None:
    job(paint)
    with pytest.raises(InputError, match="does not fit: it must be an object, is an array"):
        registered()["paint"].bind([], None)  # type: ignore[arg-type]


def test_unknown_members_are_dropped_where_the_job_says_so() -> None:
    @job(extra_input="ignore")
    def plain(text: str) -> None: ...

    assert registered()["plain"].bind({"text": "a", "more": 1}, None) == {"text": "a"}


def test_members_of_any_name_go_where_the_job_says_so() -> None:
    @job(extra_input="allow")
    def label(text: str, ctx: Context, **labels: Annotated[int, range(1, 4)]) -> None: ...

    declared = registered()["label"]
    assert declared.input.schema["additionalProperties"] == {"type": "integer", "minimum": 1, "maximum": 3}
    Draft202012Validator.check_schema(declared.input.schema)
    context = object()
    bound = declared.bind({"text": "a", "b": 1, "c-d/e": 3}, context)
    assert bound == {"text": "a", "b": 1, "c-d/e": 3, "ctx": context}
    with pytest.raises(InputError) as raised:
        declared.bind({"text": 1, "c-d/e": 4}, context)
    assert raised.value.facts == [
        {"pointer": "/text", "message": "must be a string, is a number"},
        {"pointer": "/c-d~1e", "message": "must be from 1 to 3, is 4"},
    ]
    with pytest.raises(InputError, match="/ctx is the parameter of the Context"):
        declared.bind({"text": "a", "ctx": 1}, context)


def test_members_of_any_kind_may_be_taken() -> None:
    @job(extra_input="allow")
    def keep(**more) -> None: ...  # type: ignore[no-untyped-def]

    declared = registered()["keep"]
    assert declared.input.schema["additionalProperties"] is True
    assert declared.bind({"a": [1], "b": None}, None) == {"a": [1], "b": None}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax came with Python 3.12")
def test_a_type_statement_stands_for_what_it_says(write: Write) -> None:
    write(
        "mine",
        "from killable import job\ntype Pair[T] = tuple[T, T]\ntype Names = list[str] | None\n"
        "@job\ndef take(names: Names = None): ...\n",
    )
    schema = registered()["take"].input.schema["properties"]["names"]
    assert schema == {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}], "default": None}


def test_bytes_come_as_they_go_out() -> None:
    @job
    def load(raw: bytes, key: bytes = b"\x00k") -> None: ...

    declared = registered()["load"]
    assert declared.input.schema["properties"]["key"]["default"] == {"base64": "AGs="}
    assert declared.bind({"raw": {"base64": "AP8="}}, None) == {"raw": b"\x00\xff"}
    with pytest.raises(InputError) as raised:
        declared.bind({"raw": {"base64": "AP8"}, "key": "text"}, None)
    assert raised.value.facts == [
        {"pointer": "/raw/base64", "message": "is not base64: Incorrect padding"},
        {"pointer": "/key", "message": 'must be an object with one member "base64", a string, is a string'},
    ]


def test_defaults_are_shown_as_they_would_be_given() -> None:
    @job
    def paints(
        color: Color = Color.RED,
        at: Point = Point(1),  # noqa: B008
        sizes: list[int] = (1, 2),  # type: ignore[assignment]
        times: Annotated[int, Field(ge=1)] = 2,
    ) -> None: ...

    properties = registered()["paints"].input.schema["properties"]
    assert {name: schema["default"] for name, schema in properties.items()} == {
        "color": "red",
        "at": {"x": 1, "y": 0},
        "sizes": [1, 2],
        "times": 2,
    }
    assert registered()["paints"].bind({}, None) == {}


def test_with_the_pickle_codec_values_pass_as_they_are() -> None:
    @job(codec="pickle")
    def shade(color: Color, raw: bytes = b"", missing: object = object) -> None: ...

    declared = registered()["shade"]
    assert declared.input.schema["properties"] == {
        "color": {},
        "raw": {"default": {"base64": ""}},
        "missing": {},
    }
    assert declared.bind({"color": Color.RED, "raw": b"a"}, None) == {"color": Color.RED, "raw": b"a"}
    with pytest.raises(InputError, match="/color is required"):
        declared.bind({}, None)


# --- requirements and preloads ----------------------------------------------------------------------------------------


def test_a_type_whose_requirement_is_missing_is_listed_as_unavailable() -> None:
    @job(requires={"json": "pip install json", "no_such_module": "pip install 'x[y]'", "nor_this": "apt install it"})
    def split(text: str) -> None: ...

    (row,) = job_functions.catalogue()
    assert row["available"] is False
    assert row["unavailable_reason"] == (
        "no_such_module is not installed: pip install 'x[y]'; nor_this is not installed: apt install it"
    )


def test_finding_a_requirement_does_not_import_it(write: Write, tmp_path: Path) -> None:
    (tmp_path / "needed.py").write_text("raise RuntimeError('imported')")
    write("mine", "from killable import job\n@job(requires={'needed': 'x'})\ndef split(text: str): ...\n")
    assert job_functions.catalogue()[0]["available"] is True


def test_a_preload_runs_once() -> None:
    made: list[object] = []

    @preload
    def model() -> object:
        """The model."""
        made.append(object())
        return made[-1]

    run_preloads(each_worker=True)
    assert made == []
    run_preloads(each_worker=False)
    run_preloads(each_worker=False)
    assert model() is model() is made[0]
    assert len(made) == 1
    assert (model.__name__, model.__doc__) == ("model", "The model.")  # type: ignore[attr-defined]


def test_a_preload_may_be_called_before_its_time() -> None:
    calls: list[int] = []

    @preload()
    def model() -> int:
        calls.append(1)
        return 7

    assert model() == 7
    run_preloads(each_worker=False)
    assert calls == [1]


def test_a_preload_for_each_worker_is_not_made_in_the_zygote() -> None:
    made: list[int] = []

    @preload(each_worker=True)
    def engine() -> int:
        made.append(1)
        return 1

    run_preloads(each_worker=False)
    assert made == []
    run_preloads(each_worker=True)
    assert made == [1]


def test_after_a_fork_a_preload_is_there_and_one_for_each_worker_is_made_anew() -> None:
    # In a process of its own: this one may have threads.
    code = """
import os
from killable import preload
@preload
def model(): return os.getpid()
@preload(each_worker=True)
def engine(): return os.getpid()
parent = os.getpid()
assert model() == engine() == parent
pid = os.fork()
if pid == 0:
    right = (model() == parent, engine() == os.getpid(), engine() == os.getpid())
    os._exit(0 if all(right) else 1)
print(os.waitpid(pid, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "0\n"


def test_a_preload_that_requires_what_is_missing_is_passed_over() -> None:
    @preload(requires={"no_such_module": "pip install it"})
    def model() -> None:
        raise AssertionError("must not run")

    run_preloads(each_worker=False)


def test_an_error_in_a_preload_comes_through_with_a_note_and_is_not_kept() -> None:
    answers: list[object] = [OSError("no such file"), "loaded"]

    @preload
    def model() -> object:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    with pytest.raises(OSError, match="no such file") as raised:
        run_preloads(each_worker=False)
    (note,) = raised.value.__notes__
    assert re.fullmatch(r"in <Preload \S*test_job_functions:\S+model \(.+test_job_functions\.py:\d+\) not made>", note)
    assert model() == "loaded"


def test_preloads_run_in_the_order_of_declaration_and_one_may_call_another() -> None:
    order: list[str] = []

    @preload
    def tokenizer() -> str:
        order.append("tokenizer")
        return "t"

    @preload
    def model() -> str:
        order.append("model " + tokenizer())
        return "m"

    run_preloads(each_worker=False)
    assert order == ["tokenizer", "model t"]


def takes(a: int = 1) -> int:
    return a


def yields() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("function", [takes, yields])
def test_preloads_that_are_refused(function: Any) -> None:
    assert refusal(lambda: preload(function)) == "@preload HERE: it must take no parameters and return its value"


def test_an_async_preload_is_refused() -> None:
    assert refusal(lambda: preload(coroutine)) == (
        "@preload HERE: async def is not supported; write def, with asyncio.run(...) inside"
    )
    assert refusal(lambda: preload(requires={1: ""})(takes)).startswith("@preload HERE: ")  # type: ignore[dict-item]


def test_a_reloaded_preload_replaces(write: Write) -> None:
    module = write("mine", "from killable import preload\nmade = []\n@preload\ndef model(): made.append(1)\n")
    importlib.reload(module)
    run_preloads(each_worker=False)
    assert module.made == [1]


def test_clear_forgets_everything() -> None:
    job(takes)
    preload(lambda: os._exit(99))
    job_functions.clear()
    run_preloads(each_worker=False)
    assert registered() == {}
    assert job_functions.catalogue() == []
