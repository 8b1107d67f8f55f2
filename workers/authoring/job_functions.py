"""The author's API: `@job` registers a function as a job type, `@preload` makes a value that jobs share.

Runs in: any (declaring) | zygote (the catalogue) | worker (binding inputs).
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, TypeVar, overload

from killable.workers.authoring import preloads
from killable.workers.authoring import registered_types as registry
from killable.workers.authoring.function_signature import (
    Function,
    check_function,
    check_requires,
    inner_of,
    place_of,
    read_parameters,
)
from killable.workers.authoring.identifiers import TYPE_NAME, TYPE_NAME_RULE
from killable.workers.authoring.input_schema import input_type_of
from killable.workers.authoring.input_types import InputFault, InputType, join
from killable.workers.authoring.limits_and_caps import LIMITS, parse_limit
from killable.workers.authoring.openai_kinds import why_not
from killable.workers.authoring.preloads import preload, run_preloads
from killable.workers.authoring.registered_types import DeclarationError, InputError, catalogue, registered
from killable.workers.authoring.requirements import missing
from killable.workers.authoring.retry import NOT_ASKED, RetryOn
from killable.workers.authoring.retry_on import ATTEMPTS_MAX, names_of, parse_retry_on
from killable.workers.protocol.codec import CODECS

__all__ = [
    "LIMITS",
    "DeclarationError",
    "InputError",
    "JobFunction",
    "catalogue",
    "clear",
    "job",
    "preload",
    "registered",
    "run_preloads",
]

F = TypeVar("F", bound=Callable[..., Any])


EXTRA_INPUT = ("forbid", "ignore", "allow")
ON_LOSS = ("fail", "rerun")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class JobFunction:
    """A registered job type."""

    name: str
    function: Function
    description: str
    """The first line of the docstring."""
    input: InputType
    limits: dict[str, Any] = field(default_factory=dict)
    """The type's own limits, in seconds and bytes. None: no such limit; absent: the server's default."""
    operations: tuple[str, ...] = ()
    codec: str = "json"
    requires: dict[str, str] = field(default_factory=dict)
    """Import name -> install line."""
    context_parameter: str | None = None
    streams: bool = False
    """Whether it is a generator function: its yields are the tokens, its return value is the result."""
    on_loss: str = "fail"
    """What becomes of its jobs that ran when the server died, with a journal: one of ON_LOSS."""
    openai: str = ""
    """The kind of OpenAI request that it answers, one of KINDS; empty: none."""
    openai_model: str = ""
    """The model's name in these requests."""
    retry_on: RetryOn = NOT_ASKED
    """For which ends its author wants another attempt."""

    @property
    def retried(self) -> tuple[type[Exception], ...]:
        """The exceptions after which its author wants another attempt."""
        return self.retry_on.exceptions

    def bind(self, input: Mapping[str, Any], context: Any) -> dict[str, Any]:
        """Return the keyword arguments of a call, converted to the types of the function's annotations.

        Members that were not given are left out: the function has their defaults. Raise InputError with every fault.
        """
        faults: list[InputFault] = []
        arguments = self.input.convert(input, "", faults)
        if faults:
            raise InputError(self.name, [fault._asdict() for fault in faults])
        bound: dict[str, Any] = arguments
        if self.context_parameter is not None:
            if self.context_parameter in bound:  # possible with `extra_input="allow"`
                fault = InputFault(join("", self.context_parameter), "is the parameter of the Context")
                raise InputError(self.name, [fault._asdict()])
            bound[self.context_parameter] = context
        return bound

    def describe(self) -> dict[str, Any]:
        """Return the description of this type for the supervisor, ready for JSON."""
        unavailable_reason = missing(self.requires)
        return {
            "name": self.name,
            "description": self.description,
            "input_schema": self.input.schema,
            "limits": dict(self.limits),
            "operations": list(self.operations),
            "streams": self.streams,
            "on_loss": self.on_loss,
            "openai": self.openai,
            "openai_model": self.openai_model,
            "retry_on": names_of(self.retry_on),
            "retry_codes": list(self.retry_on.codes),
            "available": not unavailable_reason,
            "unavailable_reason": unavailable_reason,
        }

    def __repr__(self) -> str:
        return f"<Job {self.name} {place_of(self.function)}>"


_executions: dict[str, object] = {}
"""Name of a job -> the execution of its module: a function of another execution is a reload, not a duplicate."""


@overload
def job(function: F, /) -> F: ...


@overload
def job(
    name: str | None = None,
    *,
    operations: Sequence[str] = (),
    codec: str = "json",
    extra_input: str = "forbid",
    requires: Mapping[str, str] | None = None,
    on_loss: str = "fail",
    openai: str = "",
    openai_model: str = "",
    retry_on: type[Exception] | str | Sequence[type[Exception] | str] = (),
    **limits: float | str | Mapping[str, float | str | None] | None,
) -> Callable[[F], F]: ...


def job(
    name: Any = None,
    *,
    operations: Sequence[str] = (),
    codec: str = "json",
    extra_input: str = "forbid",
    requires: Mapping[str, str] | None = None,
    on_loss: str = "fail",
    openai: str = "",
    openai_model: str = "",
    retry_on: type[Exception] | str | Sequence[type[Exception] | str] = (),
    **limits: float | str | Mapping[str, float | str | None] | None,
) -> Any:
    """Register a function as a job type, and return it unchanged.

    `name` defaults to the function's name. The function's parameters are the members of the input, except the one
    annotated `Context`. Unknown members are refused; `extra_input="ignore"` drops them, `extra_input="allow"` passes
    them to the ** parameter. `operations` are aliases of the type. `requires` maps import names to install lines: if
    one is not installed, the type is listed as unavailable. `on_loss="rerun"` says that the job may run more than once
    (it is idempotent): with a journal, a job that ran when the server or its machine died is run again, three times at
    most, instead of failing. `retry_on` names exceptions and codes of endings ("crash", "timeout.run") after which it
    is run again, in all `attempts_max` times (then 3 by default): what it has streamed is void, and readers are told.
    `openai` has the type answer OpenAI's requests of one kind (chat, completions, embeddings, tokenize, detokenize);
    `openai_model` is the model's name there, by default that of the type. `limits` are the type's defaults (LIMITS has
    the names): seconds also as "5m", bytes also as "1GiB", None for no such limit.

    Raise DeclarationError, with function and cause, for a function that cannot be a job.
    """
    declare = functools.partial(
        _declare,
        operations=operations,
        codec=codec,
        extra_input=extra_input,
        requires=requires,
        on_loss=on_loss,
        openai=openai,
        openai_model=openai_model,
        retry_on=retry_on,
        limits=limits,
    )
    if name is None or isinstance(name, str):
        return functools.partial(declare, name=name)
    return declare(name, name=None)


def clear() -> None:
    """Forget all job types and preloads (for tests)."""
    registry.clear()
    _executions.clear()
    preloads.clear()


def _declare(
    function: F,
    *,
    name: str | None,
    operations: Sequence[str],
    codec: str,
    extra_input: str,
    requires: Mapping[str, str] | None,
    on_loss: str,
    openai: str,
    openai_model: str,
    retry_on: object,
    limits: Mapping[str, object],
) -> F:
    check_function("job", function)
    inner = inner_of(function)
    name = _check_name(function, name)
    if codec not in CODECS:
        raise _refusal(function, f"codec is {' or '.join(CODECS)}, not {codec!r}")
    if extra_input not in EXTRA_INPUT:
        raise _refusal(function, f"extra_input is {' or '.join(EXTRA_INPUT)}, not {extra_input!r}")
    if on_loss not in ON_LOSS:
        raise _refusal(function, f"on_loss is {' or '.join(ON_LOSS)}, not {on_loss!r}")
    wanted = _parse_retry_on(function, retry_on)
    parsed = {limit: _parse_limit(function, limit, value) for limit, value in limits.items()}
    if wanted != NOT_ASKED:
        parsed.setdefault("attempts_max", ATTEMPTS_MAX)
    members, context, rest = read_parameters(function, typed=codec == "json")
    _check_rest(function, rest, extra_input)
    declared = JobFunction(
        name=name,
        function=function,
        description=(inspect.getdoc(inner) or "").partition("\n")[0],
        input=input_type_of(members, extra=extra_input, rest=None if rest is None else rest[1]),
        limits=parsed,
        operations=_check_operations(function, name, operations),
        codec=codec,
        requires=check_requires("job", function, requires),
        context_parameter=context,
        streams=inspect.isgeneratorfunction(inner),
        on_loss=on_loss,
        openai=openai,
        openai_model=openai_model or (name if openai else ""),
        retry_on=wanted,
    )
    _check_openai(declared)
    _register(declared)
    return function


def _check_name(function: Function, name: str | None) -> str:
    if name is None:
        name = getattr(function, "__name__", None)
    if name is None:  # a partial, an object with __call__
        raise _refusal(function, f'{function!r} has no name of its own; give it one, as in @job("name")')
    if not re.fullmatch(TYPE_NAME, name):
        raise _refusal(
            function,
            f'{name!r} is not a valid name for a job type ({TYPE_NAME_RULE}); give another, as in @job("name")',
        )
    return name


def _check_operations(function: Function, name: str, operations: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(operations, (tuple, list)) or not all(isinstance(operation, str) for operation in operations):
        raise _refusal(function, f"operations is a tuple of names, not {operations!r}")
    for operation in operations:
        if not re.fullmatch(TYPE_NAME, operation):
            raise _refusal(function, f"{operation!r} is not a valid name for an operation ({TYPE_NAME_RULE})")
        if [name, *operations].count(operation) > 1:
            raise _refusal(function, f"operations lists {operation!r} twice, or it is the job's own name; list it once")
    return tuple(operations)


def _check_rest(function: Function, rest: tuple[str, InputType] | None, extra_input: str) -> None:
    """Check that a ** parameter and `extra_input="allow"` are used together."""
    if rest is not None and extra_input != "allow":
        raise _refusal(
            function, f"parameter '**{rest[0]}' takes members of any name, which needs @job(extra_input=\"allow\")"
        )
    if rest is None and extra_input == "allow":
        raise _refusal(
            function, 'extra_input="allow" needs a parameter such as **more that takes them; "ignore" drops them'
        )


def _check_openai(declared: JobFunction) -> None:
    if not (declared.openai or declared.openai_model):
        return
    schema = declared.input.schema
    if why := why_not(
        declared.openai,
        declared.openai_model,
        takes=schema["properties"],
        needs=schema.get("required", ()),
        streams=declared.streams,
        codec=declared.codec,
    ):
        raise _refusal(declared.function, why)


def _parse_limit(function: Function, name: str, value: object) -> Any:
    try:
        return parse_limit(name, value)
    except (LookupError, ValueError) as error:
        raise _refusal(function, str(error)) from None


def _parse_retry_on(function: Function, value: object) -> RetryOn:
    try:
        return parse_retry_on(value)
    except ValueError as error:
        raise _refusal(function, str(error)) from None


def _register(declared: JobFunction) -> None:
    function = _inner(declared)
    execution = _execution_of(function)
    declared_so_far = {name: each for name, each in registered().items() if isinstance(each, JobFunction)}
    other = declared_so_far.get(declared.name)
    if other is not None:
        there = _inner(other)
        same_name = (function.__module__, function.__qualname__) == (there.__module__, there.__qualname__)
        again = declared.function == other.function or (same_name and execution is not _executions[declared.name])
        if not again:
            raise DeclarationError(
                f"two job types are named {declared.name!r}: {place_of(there)} and {place_of(function)};"
                ' give one another name, as in @job("another-name")'
            )
    for other in declared_so_far.values():
        _check_model(declared, other)
        shared = {other.name, *other.operations}.intersection((declared.name, *declared.operations))
        if shared and other.name != declared.name:
            raise DeclarationError(
                f"two job types answer to {min(shared)!r}: {other.name!r}, {place_of(other.function)}, and"
                f" {declared.name!r}, {place_of(function)}; an operation belongs to one of them"
            )
    registry.register(declared)
    _executions[declared.name] = execution


def _check_model(declared: JobFunction, other: JobFunction) -> None:
    asked = declared.openai, declared.openai_model
    if declared.openai and declared.name != other.name and asked == (other.openai, other.openai_model):
        raise DeclarationError(
            f"two job types answer openai={asked[0]!r} as {asked[1]!r}: {other.name!r}, {place_of(other.function)}, and"
            f" {declared.name!r}, {place_of(declared.function)}; give one another openai_model"
        )


def _inner(declared: JobFunction) -> FunctionType:
    inner = inner_of(declared.function)
    assert inner is not None, declared
    return inner


def _execution_of(function: FunctionType) -> object:
    """Return an object that identifies one execution of a function's module."""
    namespace = function.__globals__
    if "__file__" not in namespace:
        return object()  # a prompt or a notebook, where a cell runs repeatedly
    return namespace.get("__spec__")  # the import system makes a new one for each reload; a script has None, runs once


def _refusal(function: Function, why: str) -> DeclarationError:
    return DeclarationError(f"@job {place_of(function)}: {why}")
