"""events.md: the events of a job, their data and their order."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, cast

from killable.api.http.app_settings import HttpSettings
from killable.api.http.sse import PING, RETRY
from killable.supervisor.jobs import event_log, job, job_events, job_output, output_lines
from killable.supervisor.jobs.event_log import OUTPUT_EVENTS
from killable.supervisor.models import TERMINAL_STATES, Outcome
from killable.workers.authoring.context import Context
from killable.workers.protocol.codec import JsonCodec
from killable.workers.protocol.messages import dump_json
from pages.markdown import code, document, fence, table

WHEN = {
    "started": "the job was assigned to a worker",
    "token": "the job yielded or emitted a value",
    "log": "the job, or a process that it started, printed a line to stdout or stderr",
    "progress": "the job called `ctx.progress`",
    "checkpoint": "the job called `ctx.checkpoint`",
    "file": "the job called `ctx.save_file`",
    "retrying": "an attempt ended, and another one follows",
    "restored": "the server died, and the next one runs the job: events before this one are lost; `error` is how the "
    "attempt ended that ran then, or null",
    "completed": "the job returned",
    "failed": "the job ended by an error, a crash or a limit",
    "cancelled": "the job was cancelled, and no process of it is left",
    "timed_out": "a deadline of the job passed",
}
"""When each event is written. What the events are called, and what is in them, comes from the code."""


def page() -> str:
    data = _samples()
    assert set(WHEN) == set(data) == _written() | OUTPUT_EVENTS | set(TERMINAL_STATES)
    rows = ((code(name), when, ", ".join(map(code, _members(name, data[name])))) for name, when in WHEN.items())
    shown = enumerate(("started", "token"))
    wire = RETRY.decode() + "\n\n".join(f"id: {n}\nevent: {name}\ndata: {data[name].decode()}" for n, name in shown)
    ping = PING.decode().strip()
    return document(
        "Events",
        INTRO,
        table(("Event", "Written when", "Members of its data"), rows),
        ORDER,
        DATA,
        WIRE.replace("PING_S", f"{HttpSettings().ping_s:g}").replace("PING", ping),
        fence(wire),
        READING,
    )


def _written() -> set[str]:
    """Return the names that the code appends by a literal."""
    found = set()
    for module in (job, job_events, job_output, event_log):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "append":
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found.add(first.value)
    return found


def _members(name: str, data: bytes) -> Iterable[str]:
    if name == "token":
        return ("text", "base64", "value")
    if name == "checkpoint":
        return ()
    return cast(Mapping[str, Any], json.loads(data))


class _Output:
    """Keeps what a context writes."""

    def __init__(self) -> None:
        self.written: Any = None

    def progress(self, value: dict[str, Any]) -> None:
        self.written = value

    token = checkpoint = send = progress


def _samples() -> dict[str, bytes]:
    """Return the data of one event of each name, made by the code that makes them."""
    output = _Output()
    Context(cast(Any, output), job_id="").progress(1, 2, "chunks")
    sample = cast(Any, _job())
    log = cast(Any, sample.log)
    job_events.note_restored(sample)
    failed = Outcome("failed", "worker_lost")
    ends = dict.fromkeys(TERMINAL_STATES, job_events.terminal_data(sample))
    return ends | {
        "started": job_events.started_data(sample),
        "token": JsonCodec().encode_token("Once"),
        "log": output_lines.OutputLines().feed(b"loaded\n")[0],
        "progress": dump_json(output.written),
        "checkpoint": b"null",
        "file": dump_json({"name": "out.webm", "size": 1, "content_type": "video/webm"}),
        "retrying": job_events.retry_data(sample, failed, 1.0),
        "restored": log.last,
    }


class _Log:
    """Keeps the last event that was written."""

    tokens = 1
    last = b""

    def __len__(self) -> int:
        return 7

    def append(self, name: str, data: bytes) -> None:
        self.last = data


def _job() -> SimpleNamespace:
    return SimpleNamespace(
        id="job-3f2a91c0-5d1e-4c7b-9a60-2f8e1b7d4c35",
        type=SimpleNamespace(name="split", codec="json"),
        attempts=1,
        worker_id="w-7",
        pid=4242,
        started_at="2026-01-31T12:00:00.000Z",
        submission=SimpleNamespace(correlation_id="req-1"),
        node=None,
        limits={"attempts_max": 3},
        certificate=None,
        outcome=Outcome("completed"),
        result=b"2",
        partial=None,
        log=_Log(),
    )


INTRO = """
A job writes events. `GET /v1/jobs/ID/stream` serves them as server-sent events to any number of readers, from any
point, also after the job has ended. `killable stream --events` prints them; `job.events()` of the Python clients
yields them as `Event(id, name, data)`.
"""
ORDER = """
## Order

1. `started` is the first event of a job that got a worker. A job that ended in the queue has only its last event.
2. `token`, `log`, `progress`, `checkpoint` and `file` follow in the order in which the job wrote them. Printed
   lines and yielded values take different pipes, so the order between `log` and the others is only approximate.
3. After `retrying` comes `started` again, with the next `attempt`; its id is `first_id`. An attempt that has written
   a token is followed by another one only if the type says so (`retry_on`, `Retry`, `on_loss`). Its tokens are void
   then: the output of a job is that of its latest attempt.
4. Exactly one of `completed`, `failed`, `cancelled`, `timed_out` is the last event. It is written when no process of
   the job exists any more, except with the code `unkillable`.

Ids count from 0 without gaps. Only after a server's death is there a gap: before `restored`, or before the last event
of a job that was lost.
"""
DATA = """
## Data

The data of an event is one line of JSON, in ASCII.

- `token` has exactly one member: `text` for a string, `base64` for bytes, `value` for any other value.
- `checkpoint` is the value itself, or has one member `value` if that is no object; `log` is one line of text without
  its end.
- `error` has `code`, `message`, `retryable` and the facts of that [code](codes.md); it is null for a job that
  completed.
- `certificate` is described in [Certificate](certificate.md).
- `result` and `partial` are the values, or `{"$ref": "/v1/jobs/ID/result"}` where they are large.
"""
WIRE = """
## On the wire

The first event of a connection has `retry`. A comment (`PING`) follows every PING_S s, whatever else is sent.
"""
READING = """
## Resume a stream

Send the id of the last event that you have as `Last-Event-ID`, or as `?after=ID`; the stream continues after it. A
reader that has the last event gets 204, at which an `EventSource` stops. With `?markers=true` a line `data: [DONE]`,
`data: [CANCELLED]` or `data: [ERROR] message` follows the last event.
"""
