"""`killable explain`: report in sentences how one job ended, and why.

Runs in: any machine.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.text import Text

from killable.api.cli.display import console, errors
from killable.api.cli.display.state_colours import colour_of
from killable.api.cli.parameters.command_client import open_client
from killable.api.cli.parameters.job_lookup import events_so_far, find_job
from killable.api.explanation import story

if TYPE_CHECKING:
    from killable.api.client.client import Event, JobHandle

PROSE_CHARS = 96
"""The longest line that is still easy to read."""
INDENT = " " * 8


def explain(name: str, as_json: bool, url: str) -> None:
    with errors.reporting(as_json), open_client(url) as client:
        job = find_job(client, name)
        record = job.record()
        events = [*_between_attempts(job, record), *events_so_far(job, record, last=story.LAST_EVENTS)]
        distinct = {event.id: {"event": event.name, "data": event.data} for event in events}
        told = story.tell(record, [*distinct.values()])
        if as_json:
            console.print_json(story.members(record, told))
            return
        width = min(PROSE_CHARS, console.stdout_columns())
        console.print_lines(_lines(told, width, colour_of(str(record["state"]))))


def _between_attempts(job: JobHandle, record: dict[str, Any]) -> Iterator[Event]:
    """Yield the events of earlier attempts. They precede the start of the last attempt and the first token."""
    if record["attempts"] > 1:
        for event in events_so_far(job, record):
            if event.name == "token" or (event.name == "started" and event.data.get("attempt") == record["attempt"]):
                return
            if event.name in story.BETWEEN_ATTEMPTS:
                yield event


def _lines(told: story.Story, width: int, colour: str) -> Iterator[Text]:
    yield Text(told.headline, f"bold {colour}".rstrip())
    for paragraph in told.paragraphs:
        title = f"{paragraph.title:<{len(INDENT)}}"
        quoted = paragraph.title in ("Input", "Where", "Tokens", "Printed")
        first, *more = textwrap.wrap(
            title + paragraph.text, width, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False
        )
        yield Text()
        yield Text.assemble((first[: len(INDENT)], "bold cyan"), first[len(INDENT) :])
        yield from (Text(line) for line in more)
        yield from (Text(f"{INDENT}  {line}".rstrip(), "dim" if quoted else "") for line in paragraph.lines)
