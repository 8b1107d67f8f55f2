"""codes.md: every error code, what it means, its HTTP status, and whether a retry helps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from killable.api.cli.display.exit_codes import EXIT_CODES, CommandExit
from killable.api.http.statuses import STATUSES
from killable.workers.error_classes import error_class
from killable.workers.error_codes import CODES, CodeRow
from killable.workers.errors import KillableError
from pages.markdown import code, document, prose, table

ENDINGS = {
    "cancelled": "Cancelled",
    "timed_out": "Timed out",
    "failed": "Failed",
}
"""Terminal states, and their headings in the order of the page."""


def page() -> str:
    states = {state: [(name, row) for name, row in CODES.items() if row.state == state] for state in ENDINGS}
    refusals = [(name, row) for name, row in CODES.items() if row.state is None]
    sections = (
        part
        for state, title in ENDINGS.items()
        for part in (f"### {title}: state `{state}`", table(ENDING_COLUMNS, map(_ending, states[state])))
    )
    by_status = sorted(refusals, key=lambda each: STATUSES[each[0]])
    return document(
        "Error codes",
        INTRO,
        "## How a job ends",
        ENDINGS_INTRO,
        *sections,
        "## Why a request is refused",
        REFUSALS_INTRO,
        table(REFUSAL_COLUMNS, map(_refusal, by_status)),
        "## Python classes",
        CLASSES_INTRO,
        table(("Class", "Also a", "Codes"), _classes(CODES)),
    )


ENDING_COLUMNS = ("Code", "Meaning", "HTTP", "Exit code", "Retry helps", "Python class")
REFUSAL_COLUMNS = ("Code", "Meaning", "HTTP", "Exit code", "Retry helps")


def _ending(item: tuple[str, CodeRow]) -> tuple[str, ...]:
    return (*_refusal(item), code(error_class(item[0]).__name__))


def _refusal(item: tuple[str, CodeRow]) -> tuple[str, ...]:
    name, row = item
    return (
        code(name),
        row.title,
        str(STATUSES[name]),
        str(int(EXIT_CODES.get(name, CommandExit.FAILED))),
        "yes" if row.retryable else "",
    )


def _classes(codes: Mapping[str, CodeRow]) -> Iterable[tuple[str, str, str]]:
    by_class = sorted(codes, key=lambda name: error_class(name).__name__)
    for kind, names in groupby(by_class, key=error_class):
        yield code(kind.__name__), _standard_bases(kind), ", ".join(map(code, names))


def _standard_bases(kind: type[KillableError]) -> str:
    """Return the classes outside this library by which an `except` catches it."""
    bases = [base for base in kind.__mro__ if not issubclass(base, KillableError)]
    bases = [base for base in bases if base not in (object, BaseException, Exception)]
    named = [base for base in bases if not any(base is not other and issubclass(other, base) for other in bases)]
    return ", ".join(code(f"{_module(base)}{base.__name__}") for base in named)


def _module(kind: type) -> str:
    return "" if kind.__module__ == "builtins" else "concurrent.futures."


INTRO = """
A code says why a job ended or why a request was refused. Codes are stable: programs compare them, never messages. The
code is `error.code` in Python and `code` in an [HTTP problem](http.md), in a record and in the last event of a job.
"""
ENDINGS_INTRO = """
Every job that does not complete ends with one of these. "HTTP" is the status where the code answers a request. "Exit
code" is the one of the [command](exit-codes.md). "Retry helps" means that the same job may well complete when it is
run again; these are repeated by `attempts_max`, the others only if `retry_on` of the type names them.
"""
REFUSALS_INTRO = "A refused request starts nothing and changes nothing. In Python it raises `Refused`."
CLASSES_INTRO = prose(
    """
    All are subclasses of `KillableError`; those of a job that ended are also subclasses of `JobError`.
    A refused request raises `Refused`, also where a job can end with its code (`input.invalid`).
    """
)
