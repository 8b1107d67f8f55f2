"""The errors of the clients: those that only a client raises, and what answers and records become.

Runs in: any machine (no supervisor, no Linux). `error_classes` and `errors` in `workers` have those of jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from killable.workers.error_codes import CODES
from killable.workers.errors import KillableError, Refused

_NO_FACTS = frozenset({"title", "detail", "code", "retryable", "message", "self"})
"""Members of an error that are its message or its class, or that cannot be keyword arguments."""


class NotEnded(KillableError, TimeoutError):
    """The job had not ended when the wait was over; it continues. Facts: `job_id`, `record`."""

    code = "not_ended"
    exit_code = 75

    @property
    def retryable(self) -> bool:
        return True


class Restarted(KillableError):
    """An iteration over a job's tokens was at an attempt that has ended, and another one follows: the output begins
    again. The next iteration over the same handle begins with that attempt.

    Only the author of a job type has such jobs run again (`retry_on`, `Retry`, `on_loss`). Facts: `job_id`, `attempt`,
    `first_id`, the id of the next attempt's first event.
    """

    code = "restarted"
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
