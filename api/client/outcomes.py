"""The values and errors of the clients: a job's events, how it ended, and the errors that only a client raises.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from killable.workers.errors import CODES, KillableError, Refused

Record = dict[str, Any]
"""A JSON object from the server. Its documentation lists the members; newer servers may add some."""

TERMINAL = frozenset({"completed", "failed", "cancelled", "timed_out"})
_NO_FACTS = frozenset({"title", "detail", "code", "retryable", "message", "self"})
"""Members of an error that are its message or its class, or that cannot be keyword arguments."""


class NotEnded(KillableError, TimeoutError):
    """The job had not ended when the wait was over; it continues. Facts: `job_id`, `record`."""

    code = "not_ended"
    exit_code = 75

    @property
    def retryable(self) -> bool:
        return True


class Unreachable(KillableError):
    """No killable server answered: the connection was refused, timed out or broke, or something else answered.

    Also raised if the server closed while its journal's disk did not respond: it may have accepted the job (the fact
    `is_accepted` is "unknown"). Facts: `url`, and `status`, the HTTP status, which is absent if no answer came.
    """

    code = "unreachable"
    exit_code = 69

    @property
    def retryable(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a job: its sequence number, name and data."""

    id: int
    name: str
    data: Record

    @property
    def is_terminal(self) -> bool:
        return self.name in TERMINAL


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended, or that it is still stopping after a wait that was too short."""

    job_id: str
    state: str
    """`completed`, `failed`, `cancelled`, `timed_out`, or `stopping` while it has not ended."""
    certificate: Record | None
    """The timed proof that every process of the job is gone; times are in ms after the request."""
    error: Record | None = None
    had_ended: bool = False
    """The job had ended before the cancel; `state` and `error` show how."""

    @property
    def is_over(self) -> bool:
        return self.state != "stopping"


def token_of(data: Mapping[str, Any]) -> Any:
    """Return what the job emitted, from the data of a token event: str, bytes or a JSON value."""
    if "text" in data:
        return data["text"]
    if "base64" in data:
        return base64.b64decode(data["base64"])
    return data.get("value")


def job_error(members: Mapping[str, Any]) -> KillableError:
    """Return the typed error of a job that did not complete, from its record or its terminal event."""
    error = members.get("error") or {"code": members.get("state", "worker_lost")}
    code = str(error["code"])
    message = str(error.get("message") or (CODES[code].title if code in CODES else code))
    facts = {name: value for name, value in error.items() if name not in _NO_FACTS}
    facts |= {name: members.get(name) for name in ("job_id", "certificate", "partial", "tokens")}
    from killable.workers.error_classes import error_class  # multiprocessing comes with it: only for an error

    ended = error_class(code)(message, code=code, **facts)
    if error.get("traceback"):
        ended.add_note(f"in the worker:\n{error['traceback']}")
    return ended


def problem_error(members: Mapping[str, Any], **more: Any) -> KillableError:
    """Return the typed error of a problem answer (RFC 9457), with `more` facts: Refused, or Unreachable.

    A problem is about a request, also where a job could end with its code: no job has the facts of a JobError.
    """
    code = str(members["code"])
    detail = str(members.get("detail") or members.get("title") or code)
    facts = {name: value for name, value in members.items() if name not in _NO_FACTS and name != "type"}
    if facts.get("is_accepted") == "unknown":
        return Unreachable(detail, **facts | more)
    return Refused(detail, code=code, **facts | more)
