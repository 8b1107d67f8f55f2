"""The job types of this process, by name, and the errors of their declarations and inputs.

Runs in: zygote, worker. Imports nothing that reads a declaration: an Executor's workers have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

_FAULTS_SHOWN = 10
"""The most faults in the message; `facts` has all of them."""


class DeclarationError(ValueError):
    """A function cannot be used with its decorator; the message names the function and the cause."""


class InputError(ValueError):
    """An input does not fit its job's parameters; `facts` has one `{pointer, message}` per fault."""

    def __init__(self, job: str, facts: list[dict[str, str]]) -> None:
        super().__init__(job, facts)  # pickle and copy need both
        self.job = job
        self.facts = facts

    def __str__(self) -> str:
        faults = "; ".join(f"{fact['pointer'] or 'it'} {fact['message']}" for fact in self.facts[:_FAULTS_SHOWN])
        more = f"; and {len(self.facts) - _FAULTS_SHOWN} more" if len(self.facts) > _FAULTS_SHOWN else ""
        return f"the input of {self.job!r} does not fit: {faults}{more}"


class InputRefused(InputError):
    """A job refuses its input for a reason that its declaration cannot say: `raise InputRefused("...", "prompt")`.

    The job ends as `input.invalid`; over OpenAI's routes that is a 400 with this `param` and `code`. Facts go along as
    text.
    """

    def __init__(self, message: str, member: str = "", *, code: str = "", **facts: object) -> None:
        pointer = "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in member.split(".") if step)
        fault = {"pointer": pointer, "message": message}
        if code:
            fault["code"] = code
        super().__init__("", [fault | {name: str(value) for name, value in facts.items()}])

    def __str__(self) -> str:
        return self.facts[0]["message"]

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_refused, (self.facts,)


def _rebuild_refused(facts: list[dict[str, str]]) -> InputRefused:
    refused = InputRefused("")
    refused.facts = facts
    return refused


class RegisteredJob(Protocol):
    """What runs a job of one type: a declared function, or the call of an Executor."""

    @property
    def name(self) -> str: ...

    @property
    def function(self) -> Callable[..., Any]: ...

    @property
    def retried(self) -> tuple[type[Exception], ...]:
        """The exceptions after which its author wants another attempt."""
        ...

    def bind(self, input: Mapping[str, Any], context: Any) -> dict[str, Any]:
        """Return the keyword arguments of a call. Raise InputError."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the description of this type for the supervisor, ready for JSON."""
        ...


_jobs: dict[str, RegisteredJob] = {}


def register(declared: RegisteredJob) -> None:
    """Register a job type, in place of an earlier one of the same name."""
    _jobs[declared.name] = declared


def registered() -> dict[str, RegisteredJob]:
    """Return the job types declared in this process, by name."""
    return dict(_jobs)


def catalogue() -> list[dict[str, Any]]:
    """Return the description of each job type for the supervisor, in the order of declaration, ready for JSON.

    Each call checks again whether the required packages are installed.
    """
    return [declared.describe() for declared in _jobs.values()]


def clear() -> None:
    """Forget all job types (for tests)."""
    _jobs.clear()
