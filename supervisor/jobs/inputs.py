"""The input of a waiting job; a large one is in sealed memory.

Runs in: supervisor.
"""

from __future__ import annotations

from functools import partial

from killable.supervisor.models import Submission
from killable.workers.protocol.message_bounds import INLINE_BYTES_MAX
from killable.workers.protocol.shared_memory import SealedInput


async def seal_large_input(submission: Submission) -> Submission:
    """Return the submission with a large input moved to sealed memory.

    This is done at submission, not at dispatch: a thread makes the copy, which does not block the event loop, and the
    queue holds no second copy. Without a descriptor or memory for it the input stays in bytes, and is written to the
    worker's socket as that has room.
    """
    import asyncio  # not at import: a thread of the program that only makes orders does not need it

    from killable.supervisor import event_loops

    content = submission.input
    if isinstance(content, SealedInput) or len(content) <= INLINE_BYTES_MAX:
        return submission
    try:
        sealed = event_loops.in_bounded_threads(asyncio.get_running_loop(), partial(SealedInput.of, content))
        return submission._replace(input=await sealed)
    except (OSError, RuntimeError):  # RuntimeError: no thread can be started
        return submission


def content_of(input: bytes | SealedInput) -> bytes:
    """Return an input as bytes; sealed memory is copied."""
    if isinstance(input, bytes):
        return input
    with input.mapped() as content:
        return bytes(content)


def head_of(input: bytes | SealedInput, bytes_max: int) -> bytes:
    """Return the beginning of an input, of at most so many bytes; empty where memory that has it cannot be mapped."""
    if isinstance(input, bytes):
        return input[:bytes_max]
    try:
        with input.mapped() as content:
            return content[:bytes_max]
    except OSError:
        return b""


def close_input(submission: Submission) -> None:
    """Close the input, if it is in memory files, of a job that is over or was never accepted."""
    if isinstance(submission.input, SealedInput):
        submission.input.close()
    if submission.shared is not None:
        submission.shared.close()
