"""The tokens of one attempt of a job: what an earlier one has streamed is void when another one begins.

Runs in: any machine (no supervisor, no Linux). Pure.
"""

from __future__ import annotations

from typing import Any

from killable.api.client.errors import Restarted, job_error
from killable.api.client.events import BETWEEN_ATTEMPTS, Event, token_of
from killable.api.client.job_calls import JobCalls


class AttemptTokens:
    """Of one iteration over a job; the next one begins with the attempt that this one has heard of last."""

    def __init__(self, calls: JobCalls) -> None:
        self._calls = calls
        self._has_given = False

    @property
    def after(self) -> int | None:
        """Return the id after which the events are to be read; None: from the first one."""
        return None if self._calls.first_id is None else self._calls.first_id - 1

    def take(self, event: Event) -> tuple[Any, ...]:
        """Return the token of an event, if it is one. Raise Restarted, or the error of a job that did not complete."""
        if event.name == "token":
            self._has_given = True
            return (token_of(event.data),)
        if event.name in BETWEEN_ATTEMPTS:
            self._calls.first_id = event.id + 1
            if self._has_given:
                error, attempt = event.data.get("error") or {}, event.data.get("attempt")
                why = f", {error['code']}: {error.get('message')}" if error else ""
                raise Restarted(
                    f"attempt {attempt} of {self._calls.id} ended{why}; its output is void, and begins again with the"
                    " next attempt: drop what you have, and iterate again",
                    job_id=self._calls.id, attempt=attempt, first_id=self._calls.first_id,
                )  # fmt: skip
        elif event.is_terminal and event.name != "completed":
            raise job_error(event.data)
        return ()
