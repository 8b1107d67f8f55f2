"""limits.md: every limit with its unit, its defaults, its cap and the code that a job ends with."""

from __future__ import annotations

from typing import Any, NamedTuple

from pages.markdown import code, document, table


class Limit(NamedTuple):
    """One limit as the page shows it. Values are spelled as in `killable.toml`."""

    name: str
    unit: str
    server: str
    executor: str
    cap: str
    may_be_none: bool
    codes: tuple[str, ...]
    """The error codes that a job ends with."""
    about: str
    like: str
    """The same limit in other systems."""


def limits_table() -> list[Limit]:
    """Return every limit. The only function here that knows where the code describes them."""
    from killable.supervisor.configuration.values_in_force import spelled
    from killable.workers.authoring.limits_and_caps import LIMITS, UNSET

    def shown(name: str, value: Any) -> str:
        return "none" if value == {} else spelled(name, value).strip('"')

    return [
        Limit(
            name=name,
            unit=limit.unit.value,
            server=shown(name, limit.default),
            executor=shown(name, limit.default if limit.default_of_executor is UNSET else limit.default_of_executor),
            cap=OWN if limit.of_resources else shown(name, limit.cap),
            may_be_none=limit.may_be_none,
            codes=limit.ends_as,
            about=f"{limit.bounds[0].upper()}{limit.bounds[1:]}",
            like=limit.like,
        )
        for name, limit in LIMITS.items()
    ]


def page() -> str:
    limits = limits_table()
    overview = (
        (
            code(each.name),
            each.unit,
            each.server,
            each.executor,
            each.cap,
            ", ".join(f"[{code(name)}](codes.md)" for name in each.codes) or "–",
        )
        for each in limits
    )
    meanings = (
        (
            code(each.name),
            each.about,
            "yes" if each.may_be_none else "no",
            code(f"--{each.name.replace('_', '-')}"),
            each.like,
        )
        for each in limits
    )
    return document("Limits", INTRO, table(COLUMNS, overview), MEANING, table(MEANING_COLUMNS, meanings), WHERE)


OWN = "the type's own"
COLUMNS = ("Limit", "Unit", "Default, server", "Default, Executor", "Cap", "Ends with")
MEANING_COLUMNS = ("Limit", "What it bounds", "Can be `none`", "Option of `killable submit`", "Like")

INTRO = """
A limit bounds one job. `none` means that there is no such limit. A cap is the largest value that a caller may request.
The operator sets it under `[caps]`; else it is the one below, or the value of the job type if that is higher. What a
job takes of the machine is capped at the value of its type: a caller may lower it. An Executor has no caps.
"""
MEANING = """
## What each limit bounds

The name is the same everywhere: in `@job(...)`, in `Executor(...)` and `with_limits(...)`, in `limits` of a request,
and under `[limits]` of `killable.toml`. The command has an option for each.
"""
WHERE = """
## How a value is written

| Unit | Number | Text (Python, `killable.toml`, command) |
| --- | --- | --- |
| seconds | `90`, `0.5` | `"250ms"`, `"90s"`, `"5m"`, `"1h30m"`, `"2d"` |
| bytes | `4096` | `"64KiB"`, `"2GiB"` (by 1024), `"10MB"` (by 1000) |
| count | `512` | `"512"` |

Over HTTP a limit is a JSON number. `null` (HTTP), `None` (Python) and `"none"` (`killable.toml`, command) remove a
limit.

## Which value is in force

The first of these that is set wins:

1. the submission: `limits` in the request, `--run-s` of the command, `with_limits` of an Executor
2. `[jobs.NAME.limits]` in `killable.toml`
3. the decorator: `@job(run_s=60)`
4. `[limits]` in `killable.toml`
5. the default

Then the caps apply. A submission over a cap is refused with [`limit_over_cap`](codes.md). A cap that is set under
`[caps]` also lowers a default or a decorator's value, which `killable check` and `serve` say; a value in
`killable.toml` over such a cap is a fault at the start. `killable config` shows each value in force and its source.

On a machine, or in a container, with less than 2.7 GiB of memory the default of `memory_bytes` is three quarters of it.
"""
