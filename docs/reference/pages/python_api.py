"""api.md: every public name of `killable`, and what its functions return, from signatures and docstrings."""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

import killable
from killable.workers.authoring.limits_and_caps import LIMITS, Limits
from pages.markdown import attributes, code, document, fence, first_sentence, prose, slug, table

WIDTH = 100


class Section(NamedTuple):
    """Names that belong together. A name that `killable` does not export stands with the module that has it."""

    title: str
    intro: str
    names: tuple[str, ...]


SECTIONS = (
    Section(
        "Running functions",
        "Run functions of your own program in processes, and stop them.",
        (
            "Executor",
            "JobFuture",
            "Stream",
            "AsyncStream",
            "stopped",
        ),
    ),
    Section(
        "Writing jobs",
        "Declare the functions that a server offers, and use the job's context in them.",
        (
            "job",
            "preload",
            "Context",
            "killable.workers.authoring.operations:Operation",
            "InputFile",
            "Limits",
            "Stopping",
            "OperationTimedOut",
            "InputRefused",
            "Retry",
        ),
    ),
    Section(
        "Clients",
        "Start, follow and cancel jobs of a server, from any machine.",
        (
            "Client",
            "killable.api.client.client:JobHandle",
            "AsyncClient",
            "killable.api.client.async_client:AsyncSubmission",
            "killable.api.client.async_client:AsyncJobHandle",
            "killable.api.client.submission:JobOptions",
            "Event",
            "Ending",
        ),
    ),
    Section(
        "Testing jobs",
        "Imported from `killable.testing`, where `UnitContext` is `Context`. pytest has them as fixtures:"
        " [Use it with pytest](../how-to/pytest.md).",
        (
            "killable.api.testing.unit_context:UnitContext",
            "killable.api.testing.job_server:JobServer",
            "killable.api.testing.job_server:run_job",
            "killable.api.testing.live_jobs:LiveJob",
            "killable.api.testing.finished_job:FinishedJob",
        ),
    ),
    Section(
        "Errors",
        "[Error codes](codes.md) says which code is raised as which class.",
        (
            "KillableError",
            "Refused",
            "JobError",
            "JobCancelled",
            "JobTimedOut",
            "JobFailed",
            "OutOfMemory",
            "WorkerCrashed",
            "WorkerExited",
            "WorkerKilled",
            "Unreachable",
            "NotEnded",
            "Restarted",
        ),
    ),
)

SPECIAL = frozenset(("__enter__", "__exit__", "__aenter__", "__aexit__", "__iter__", "__aiter__", "__await__"))
"""Methods that are used by syntax; shown where they have a docstring."""
MADE_BY_USERS = {"Executor", "Client", "AsyncClient", "UnitContext", "JobServer", "Retry"}
"""Only these have a constructor that is called outside of this library."""


def page() -> str:
    exported = {name for section in SECTIONS for name in section.names if ":" not in name}
    assert exported == set(killable.__all__) - {"__version__"}, exported ^ set(killable.__all__)
    parts: list[str] = []
    for section in SECTIONS:
        objects = [(name.rpartition(":")[2], _load(name), _is_inner(name)) for name in section.names]
        overview = ((f"[`{name}`](#{slug(name)})", first_sentence(_doc(each))) for name, each, _ in objects)
        parts += [f"## {section.title}", section.intro, table(("Name", "What it is"), overview)]
        parts += [part for name, each, inner in objects for part in _entry(name, each, inner)]
    return document("Python API", INTRO, *parts)


def _is_inner(name: str) -> bool:
    """Return whether users get it from something else, and do not import it."""
    return ":" in name and not name.startswith("killable.api.testing")


def _doc(each: Any) -> str:
    """Return the documentation of an object; an annotation has it at its mark."""
    is_annotation = typing.get_origin(each) is typing.Annotated
    return inspect.getdoc(type(each.__metadata__[0]) if is_annotation else each) or ""


def _load(name: str) -> Any:
    module, _, attribute = name.rpartition(":")
    return getattr(import_module(module), attribute) if module else getattr(killable, name)


def _entry(name: str, each: Any, inner: bool) -> Iterator[str]:
    yield f"### {name}"
    if typing.get_origin(each) is typing.Annotated:
        yield prose(_doc(each))
        return
    if not inspect.isclass(each):
        forms = typing.get_overloads(each) or [each]
        yield fence("\n".join(_signature(name, form) for form in forms))
        yield prose(each.__doc__)
        return
    yield f"Not imported by name: {_RETURNED_BY[name]}" if inner else ""
    if issubclass(each, BaseException):
        bases = ", ".join(code(base.__name__) for base in each.__bases__)
        yield f"Extends {bases}."
    if name in MADE_BY_USERS:
        yield fence(_signature(name, each))
    yield prose(each.__doc__)
    if name in MADE_BY_USERS:
        yield prose(each.__init__.__doc__)
    yield table(("Attribute", "Type", "Meaning"), _attributes(each))
    methods = dict(_methods(each))
    like = _load(LIKE[name]) if name in LIKE else object
    repeated = [
        method for method, function in methods.items() if function.__doc__ == getattr(like, method, each).__doc__
    ]
    for method, function in methods.items():
        if method not in repeated:
            yield f"#### `{name}.{method}`"
            yield fence(_signature(method, function, of_class=True))
            yield prose(function.__doc__)
    if repeated:
        names = ", ".join(f"[`{method}`](#{slug(f'{like.__name__}.{method}')})" for method in repeated)
        yield f"As in [`{like.__name__}`](#{slug(like.__name__)}), with `await`: {names}."


LIKE = {"AsyncClient": "Client", "AsyncJobHandle": "killable.api.client.client:JobHandle"}
"""Classes whose methods are those of another one, as coroutines: what both document in the same words stands once."""
_RETURNED_BY = {
    "Operation": "`with ctx.operation(...) as operation` gives it.",
    "JobHandle": "`Client.submit` and `Client.job` return it.",
    "AsyncSubmission": "`AsyncClient.submit` returns it.",
    "AsyncJobHandle": "`await client.submit(...)` and `AsyncClient.job` return it.",
    "JobOptions": "its members are keywords of `submit` and `run`.",
}


def _attributes(kind: type) -> Iterator[tuple[str, str, str]]:
    hidden = HIDDEN.get(kind.__name__, ())
    for name, (hint, about) in attributes(kind).items():
        if not name.startswith("_") and name not in hidden:
            limit = LIMITS[name] if kind is Limits else None
            yield code(name), code(_without_metadata(hint)), about if limit is None else _sentence(limit.bounds)
    for name, each in vars(kind).items():
        if isinstance(each, property) and not name.startswith("_") and name not in hidden:
            hint = inspect.get_annotations(each.fget)["return"] if each.fget else ""
            yield code(name), code(hint), " ".join((each.__doc__ or "").split())


def _without_metadata(hint: str) -> str:
    """Return the type of an `Annotated[type, ...]`."""
    tree = ast.parse(hint or "None", mode="eval").body
    if isinstance(tree, ast.Subscript) and ast.unparse(tree.value) == "Annotated" and isinstance(tree.slice, ast.Tuple):
        return ast.unparse(tree.slice.elts[0])
    return hint


def _sentence(phrase: str) -> str:
    return f"{phrase[0].upper()}{phrase[1:]}."


def _methods(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield what the class itself has: its public methods with a docstring, and the special ones with one."""
    for name, each in vars(kind).items():
        function = each.__func__ if isinstance(each, classmethod | staticmethod) else each
        is_shown = name in SPECIAL if name.startswith("_") else name not in HIDDEN.get(kind.__name__, ())
        if inspect.isfunction(function) and function.__doc__ and is_shown:
            yield name, function


HIDDEN = {
    "JobFuture": frozenset(
        (
            *("cancel_in_finalizer", "cancel_pending", "is_wanted", "wait_until_done"),
            *("fail", "begin", "begin_in_lane", "begin_cancelled", "note_cancelled"),
            *("on_accepted", "on_changed", "complete", "finish", "close_in_child"),
        )
    ),
    "Operation": frozenset(("is_being_left", "timed_out")),
    "Context": frozenset(("spans_told", "tmp_path_if_made")),
}
"""What the supervisor's thread or the worker calls."""


def _signature(name: str, each: Any, of_class: bool = False) -> str:
    signature = inspect.signature(each)
    parameters = list(signature.parameters.values())
    if of_class and parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    prefix = "async " if inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) else ""
    returns = (
        "" if inspect.isclass(each) or signature.return_annotation is inspect.Signature.empty else _returns(signature)
    )
    bare = signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    line = f"{prefix}{name}{_unquoted(str(bare))}{returns}"
    return line if len(line) <= WIDTH else f"{prefix}{name}(\n{_one_a_line(parameters)}){returns}"


def _returns(signature: inspect.Signature) -> str:
    hint = signature.return_annotation
    return f" -> {hint if isinstance(hint, str) else inspect.formatannotation(hint)}"


def _unquoted(text: str) -> str:
    """Annotations are kept as text, and shown in quotes."""
    for quote in ("'", '"'):
        parts = text.split(f": {quote}")
        text = parts[0] + "".join(f": {part.replace(quote, '', 1)}" for part in parts[1:])
    return text


def _one_a_line(parameters: Iterable[inspect.Parameter]) -> str:
    lines: list[str] = []
    has_star = False
    for each in parameters:
        if each.kind is inspect.Parameter.KEYWORD_ONLY and not has_star:
            lines.append("    *,\n")
        has_star |= each.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_POSITIONAL)
        lines.append(f"    {_unquoted(str(each))},\n")
    return "".join(lines)


INTRO = """
Everything here is imported from `killable`: `from killable import Executor`. The first section needs Linux; the
clients run anywhere. Durations are seconds, sizes are bytes. [Limits](limits.md) lists the limits that `Executor`,
`job` and `submit` take. `killable.__version__` is the version as text.
"""
