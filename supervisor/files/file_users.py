"""Which jobs use which uploaded files.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class FileUsers:
    """Files by job and jobs by file, as long as the record of the job is kept."""

    def __init__(self) -> None:
        self._jobs: dict[str, set[str]] = {}
        """By file."""
        self._files: dict[str, tuple[str, ...]] = {}
        """By job."""
        self._active: set[str] = set()
        """Jobs that have not ended."""

    def begin(self, job_id: str, file_ids: Iterable[str]) -> None:
        """Note that a job waits or runs that uses these files."""
        self._files[job_id] = files = tuple(file_ids)
        self._active.add(job_id)
        for file_id in files:
            self._jobs.setdefault(file_id, set()).add(job_id)

    def end(self, job_id: str) -> None:
        """Note that a job has ended."""
        self._active.discard(job_id)

    def drop(self, job_id: str) -> Iterator[str]:
        """Forget a job; yield the files that no other one uses."""
        self._active.discard(job_id)
        for file_id in self._files.pop(job_id, ()):
            jobs = self._jobs.get(file_id, set())
            jobs.discard(job_id)
            if not jobs:
                self._jobs.pop(file_id, None)
                yield file_id

    def forget(self, file_id: str) -> None:
        """Forget a file that is removed."""
        self._jobs.pop(file_id, None)

    def counts(self, file_id: str) -> tuple[int, int]:
        """Return how many jobs use a file, and how many of them have not ended."""
        jobs = self._jobs.get(file_id, set())
        return len(jobs), len(jobs & self._active)

    def only_ended(self, file_id: str) -> bool:
        """Return whether jobs use a file that have all ended."""
        jobs, active = self.counts(file_id)
        return jobs > 0 and active == 0
