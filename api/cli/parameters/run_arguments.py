"""The arguments of `killable run` where they are plainly right, and the limits that a command can have.

Runs in: any machine. Without Click, which takes a third of the time of a short command. What is not read here, help and
every fault, is Click's (`declarations/commands`); what is, means the same there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from killable.workers.authoring.limits_and_caps import LIMITS, UNSET, Limits
from killable.workers.named_tuples import NamedTuple

LIMITS_OF_COMMANDS = {
    "run_s": "Time that it may take.",
    "grace_s": "Time for its clean-up after the signal; then SIGKILL. 0: SIGKILL at once.  [default: 5]",
    "memory_bytes": "Memory of all its processes together, mapped files aside.",
    "cpu_s": "Processor time of all its processes and threads, on all cores together.",
    "processes_max": "Processes at once.",
    "threads_max": "Threads of all its processes at once.",
    "files_max": "Open files of each of its processes.",
}
"""The limits that a command can have, and what help says of them: it has no tokens, no queue and no attempts."""
MEMORY = "--memory"
"""A second name of the option of `memory_bytes`."""
GRACE = "-k"
"""That of `grace_s`, as timeout(1) has it."""
DEFAULT_SIGNAL = "TERM"
_NONE: dict[str, Any] = {
    name: limit.default if limit.default_of_executor is UNSET else limit.default_of_executor
    for name, limit in LIMITS.items()
}
"""No limit, but a grace."""
_OPTIONS = {f"--{name.replace('_', '-')}": name for name in LIMITS_OF_COMMANDS} | {
    GRACE: "grace_s", MEMORY: "memory_bytes", "-s": "signal", "--signal": "signal", "--report": "report",
}  # fmt: skip


class LimitFault(ValueError):
    """A limit that no command can have."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.option = f"--{name.replace('_', '-')}"


class RunArguments(NamedTuple):
    """What `killable run` was asked for."""

    argv: tuple[str, ...]
    signal: str
    as_json: bool
    report: str
    """The path of a file; empty: none."""
    limits: Limits


def read_arguments(arguments: Sequence[str]) -> RunArguments | None:
    """Return what the arguments behind `run` ask for; None if that is for Click to say."""
    found: dict[str, str] = {}
    as_json = False
    words = iter(arguments)
    argv: list[str] = []
    for word in words:
        if word == "--" or not word.startswith("-") or word == "-":
            argv = [*([] if word == "--" else [word]), *words]
        elif word == "--json":
            as_json = True
        else:
            option, equals, value = word.partition("=")
            name = _OPTIONS.get(option)
            if name is None or (equals and option in ("-s", GRACE)):
                return None
            found[name] = value if equals else next(words, "")
    signal, report = found.pop("signal", DEFAULT_SIGNAL), found.pop("report", None)
    if not argv or report == "":
        return None
    try:
        limits = limits_of_command({name: _limit(name, text) for name, text in found.items()})
    except ValueError:
        return None
    return RunArguments(tuple(argv), signal, as_json, report or "", limits)


def _limit(name: str, text: str) -> Any:
    """Return a limit as an option gives it. Raise ValueError."""
    return None if text == "none" else LIMITS[name].unit.parse(text)


def limits_of_command(given: Mapping[str, Any]) -> Limits:
    """Return all limits. Raise LimitFault for one that no command can have."""
    for name, value in given.items():
        if value == 0 and not LIMITS[name].may_be_zero:
            raise LimitFault(name, "must be more than 0; without the option there is no limit")
        if value is None and not LIMITS[name].may_be_none:
            raise LimitFault(name, "cannot be none")
    return Limits(**{**_NONE, **given})  # type: ignore[typeddict-item]
