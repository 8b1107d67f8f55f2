"""log.md: every record of the server's log, with its level, meaning and fields."""

from __future__ import annotations

from collections.abc import Iterator

from killable.supervisor.telemetry.log_sampling import PERIOD_S
from killable.supervisor.telemetry.log_vocabulary import EVENTS, FIELDS, OF_ENDS, OF_JOBS, PARTS, LogEvent, message_id
from pages.markdown import code, document, prose, table

COLUMNS = ("Event", "Level", "Meaning", "Fields", "MESSAGE_ID")


def page() -> str:
    sections = (part for name, title in PARTS.items() for part in (f"### {title}: `killable.{name}`", _table(name)))
    return document(
        "Log",
        prose(INTRO),
        "## Events",
        prose(EVENTS_INTRO),
        *sections,
        "## Fields",
        table(("Field", "Meaning"), ((code(name), about) for name, about in FIELDS.items())),
    )


def _table(part: str) -> str:
    rows = ((name, event) for name, event in EVENTS.items() if event.part == part)
    return table(COLUMNS, (_row(name, event) for name, event in rows))


def _row(name: str, event: LogEvent) -> tuple[str, ...]:
    about = event.about + (r" \*" if event.is_sampled else "")
    return code(name), ", ".join(event.levels), about, ", ".join(_fields(event)), code(message_id(name))


def _fields(event: LogEvent) -> Iterator[str]:
    """Yield the fields; those of a job, and of its end, by one name each."""
    rest = list(event.fields)
    for name, group in (("*job*", OF_JOBS), ("*end*", OF_ENDS)):
        if set(group) <= set(rest):
            yield name
            rest = [field for field in rest if field not in group]
    yield from map(code, rest)


INTRO = """
The server's log has one record for each line: `time`, `level`, `logger`, `event` and the fields of the event.
[Logging](../how-to/logging.md) has its settings. Names of events and fields are stable.

Where stderr is journald's, a record has the fields there too: `JOB_ID`, `KILLABLE_EVENT`, `MESSAGE_ID`, `PRIORITY`, and
each other one as `KILLABLE_` and its name in capitals.

A library's record has its text as `event`, and none of these fields.
"""
EVENTS_INTRO = rf"""
\* `log_burst` bounds these, and the records of libraries: of more than so many in {PERIOD_S:g} s the rest is counted in
one `left_out`. All others are always logged, and so is every error.

*job* stands for {", ".join(map(code, OF_JOBS))}; *end* for {", ".join(map(code, OF_ENDS))}. Fields without a value are
left out.
"""
