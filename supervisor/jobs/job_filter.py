"""The filters that select jobs, for lists, bulk cancels and the stream of jobs.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

from killable.supervisor.jobs.job import Job
from killable.supervisor.models import Wanted
from killable.workers.named_tuples import NamedTuple

SEARCHES_KEPT = 16
"""Of a job, whose answers are remembered."""


class JobFilter(NamedTuple):
    """One set of filters, which may be a key of a dict."""

    state: str | None = None
    type: str | None = None
    tag: tuple[str, str] | None = None
    tenant: str | None = None
    node: str | None = None
    code: str | None = None
    words: tuple[str, ...] = ()

    @classmethod
    def of(cls, **wanted: Unpack[Wanted]) -> JobFilter:
        words = tuple(dict.fromkeys((wanted.get("search") or "").casefold().split()))
        return cls(
            wanted.get("state"), wanted.get("type"), wanted.get("tag"), wanted.get("tenant"), wanted.get("node"),
            wanted.get("code"), words,
        )  # fmt: skip

    @property
    def is_fixed(self) -> bool:
        """Whether a job that fits it has always done so, and always will."""
        return self.state is None and self.node is None and self.code is None and not self.words

    def fits(self, job: Job) -> bool:
        return self.has_state(job) and self.fits_but_for_state(job)

    def has_state(self, job: Job) -> bool:
        state = self.state
        return state is None or (not job.is_over if state == "active" else state == job.public_state)

    def fits_but_for_state(self, job: Job) -> bool:
        submission = job.submission
        return (
            self.fits_always(job.type.name, submission.tenant, submission.tags)
            and self.node in (None, job.node)
            and (self.code is None or _is_of(self.code, code_of(job)))
            and (not self.words or self._has_words(job))
        )

    def fits_always(self, type: str, tenant: str, tags: Mapping[str, str]) -> bool:
        """Return whether what never changes of a job fits."""
        return (
            self.type in (None, type)
            and self.tenant in (None, tenant)
            and (self.tag is None or tags.get(self.tag[0]) == self.tag[1])
        )

    def _has_words(self, job: Job) -> bool:
        missing = self.missing_words(job)
        if not missing:
            return True
        code = code_of(job)
        return code is not None and all(word in code.casefold() for word in missing)

    def has_to_look(self, job: Job) -> bool:
        """Return whether the words have to be looked for in a job: it fits but for them, and the answer is not kept."""
        submission = job.submission
        fits = self.fits_always(job.type.name, submission.tenant, submission.tags)
        return fits and self.words not in job.missing_words

    def missing_words(self, job: Job) -> tuple[str, ...]:
        """Return the words that are not in what never changes of a job. The answers to the last searches are kept: a
        word takes 8 us to search in 8 KiB of tags.
        """
        missing = job.missing_words.get(self.words)
        if missing is None:
            if len(job.missing_words) >= SEARCHES_KEPT:
                job.missing_words.clear()
            submission = job.submission
            tags = (f"{key}:{value}" for key, value in submission.tags.items())
            # A line for each: no word stands in two of them.
            text = "\n".join((job.id, job.type.name, submission.correlation_id, *tags)).casefold()
            missing = job.missing_words[self.words] = tuple(word for word in self.words if word not in text)
        return missing


def code_of(job: Job) -> str | None:
    """Return why a job has ended, or is stopped; None: neither, or it has completed."""
    if job.outcome is not None:
        return job.outcome.code
    return None if job.verdict is None else job.verdict.code


def _is_of(wanted: str, code: str | None) -> bool:
    return code is not None and (code == wanted or code.startswith(wanted + "."))
