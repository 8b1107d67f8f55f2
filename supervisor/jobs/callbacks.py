"""Who sends the ends of jobs to their addresses, as the supervisor sees it.

Runs in: supervisor.
"""

from __future__ import annotations

from typing import Protocol


class Callbacks(Protocol):
    """Called in the event loop's thread. Returns at once: a kill never waits for a webhook."""

    def on_ended(self, job_id: str, tenant: str, url: str, attempts: int) -> None:
        """Take note that a job has ended whose end is to be sent to `url`; an earlier server has tried so often."""
        ...
