"""The order that sends a job to its worker, and the limits in it.

Runs in: supervisor.
"""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter

from killable.supervisor.jobs.job import Job
from killable.workers.authoring.limits_and_caps import LIMITS, Limits, over
from killable.workers.protocol.frames import encode
from killable.workers.protocol.messages import Kind, Run, dump_json
from killable.workers.protocol.shared_memory import SealedInput

_PLAIN_LIMITS = tuple(name for name in LIMITS if name != "operation_s")
_plain_limits = itemgetter(*_PLAIN_LIMITS)


def run_order(job: Job, fence: int, result_buffer: int = -1) -> tuple[bytes, tuple[int, ...]]:
    """Return the order to run a job's next attempt, behind its last checkpoint, and the descriptors to pass with it.

    `result_buffer` is a file for a large result; -1: the worker has one already, or its codec needs none.
    """
    submission, content, limits = job.submission, job.submission.input, job.limits
    if limits["total_s"] is not None and job.assigned is not None:
        limits = within(limits, limits["total_s"] - (job.assigned - job.created))
    sealed = (content.descriptor,) if isinstance(content, SealedInput) else ()
    shared = submission.shared.descriptors if submission.shared is not None else ()
    passed = (*sealed, *shared) if result_buffer < 0 else (*sealed, *shared, result_buffer)
    traceparent, tracestate, tells_spans = trace_of(job)
    run = Run(
        job_id=job.id,
        type=submission.type,
        attempt=job.attempts,
        input=b"" if isinstance(content, SealedInput) else content,
        limits=limits_as_json(limits),
        tags=submission.tags,
        correlation_id=submission.correlation_id,
        announce=is_announced(job),
        sealed=bool(sealed),
        shared=len(shared),
        result_buffer=result_buffer >= 0,
        files=job.file_paths,
        traceparent=traceparent,
        tracestate=tracestate,
        spans=tells_spans,
    )
    order = encode(Kind.RUN, fence, 0, run.encode())
    if job.partial is not None and job.attempts > 1:
        order = encode(Kind.CHECKPOINT_BEFORE, fence, 0, job.partial) + order
    return order, passed


def trace_of(job: Job) -> tuple[str, str, bool]:
    """Return the place in a trace of a job's next attempt, and whether its own spans are wanted.

    Where no traces are told, that is the place that its caller has given it.
    """
    if job.trace is None:
        submission = job.submission
        return submission.traceparent, submission.tracestate, submission.tells_spans
    context = job.trace.attempt_context(job)
    return context.traceparent, context.state, context.is_sampled


def within(limits: Limits, left_s: float) -> Limits:
    """Return the limits as the job sees them: its `run_s` is at most `left_s`, the rest of its `total_s`."""
    left_s = max(0.0, left_s)
    return limits if limits["run_s"] is not None and limits["run_s"] <= left_s else over(limits, {"run_s": left_s})


def is_announced(job: Job) -> bool:
    """Return whether the worker reports that the function is entered: always, save for some of an Executor's tasks."""
    return not job.is_executor_task or announces(job.limits)


def announces(limits: Limits) -> bool:
    """Return whether a task's worker reports it: it does if a time limit runs until then, or from then on."""
    return any(
        each is not None for each in (limits["total_s"], limits["start_s"], limits["run_s"], limits["first_token_s"])
    )


def limits_as_json(limits: Limits) -> bytes:
    """Return the limits as JSON for an order. The encoding is cached: most jobs have the limits of their type."""
    return _encoded(tuple(limits["operation_s"].items()), _plain_limits(limits))


@lru_cache(maxsize=64)
def _encoded(operation_s: tuple[tuple[str, float | None], ...], plain: tuple[float | None, ...]) -> bytes:
    return dump_json({**dict(zip(_PLAIN_LIMITS, plain, strict=True)), "operation_s": dict(operation_s)})
