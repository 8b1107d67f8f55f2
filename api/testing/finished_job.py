"""What was seen of a job: its stream, and once it is over its ending, result and certificate.

Runs in: any machine. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from killable.api.client.errors import job_error
from killable.api.client.events import Event, token_of
from killable.workers.errors import KillableError


@dataclass(slots=True)
class FinishedJob:
    """A job, as its stream told it."""

    job_id: str
    events: list[Event] = field(default_factory=list)
    result: Any = None
    """What it returned; None for a job that did not complete."""
    record: dict[str, Any] = field(default_factory=dict)
    """Its whole record, as the server has it."""

    @property
    def tokens(self) -> list[Any]:
        """What it yielded and emitted: str, bytes or JSON values."""
        return [token_of(event.data) for event in self.events if event.name == "token"]

    @property
    def logs(self) -> list[str]:
        """The lines that it printed."""
        return [str(event.data.get("text", "")) for event in self.events if event.name == "log"]

    @property
    def progress(self) -> list[dict[str, Any]]:
        """What it reported of its progress."""
        return [event.data for event in self.events if event.name == "progress"]

    @property
    def end(self) -> Event | None:
        """The terminal event; None: it is not over."""
        return self.events[-1] if self.events and self.events[-1].is_terminal else None

    @property
    def state(self) -> str:
        """`completed`, `failed`, `cancelled` or `timed_out`; empty: it is not over."""
        return "" if self.end is None else self.end.name

    @property
    def code(self) -> str:
        """The error code of a job that did not complete, such as `timeout.run`; empty for one that did."""
        error = None if self.end is None else self.end.data.get("error")
        return str(error["code"]) if error else ""

    @property
    def error(self) -> KillableError | None:
        """The error that clients get of a job that did not complete, with the traceback in its notes."""
        return None if self.end is None or self.state == "completed" else job_error(self.end.data)

    @property
    def partial(self) -> Any:
        """The last checkpoint of a job that did not complete."""
        return self.record.get("partial")

    @property
    def certificate(self) -> dict[str, Any]:
        """The timed record of its end: `tree_empty` is when none of its processes was left."""
        found = self.record.get("certificate") or (self.end.data.get("certificate") if self.end else None)
        return dict(found or {})

    def __str__(self) -> str:
        """Return what an assertion that has failed shows."""
        tokens = self.tokens
        shown = f"{len(tokens)} tokens, the last: {tokens[-3:]!r}" if tokens else "no tokens"
        how = f"{self.state}{f', {self.code}' if self.code else ''}" if self.state else "not over"
        said = [f"job {self.job_id}: {how}; {shown}"]
        if self.logs:
            said.append("it printed:\n  " + "\n  ".join(self.logs[-10:]))
        if (error := self.error) is not None:
            said += [str(error), *getattr(error, "__notes__", [])]
        return "\n".join(said)
