"""Where the input of a waiting job lies: a large one in sealed memory.

Runs in: supervisor.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from killable.supervisor.models import Submission
from killable.workers.protocol.messages import INLINE_BYTES_MAX
from killable.workers.protocol.shared_memory import SealedInput


async def seal_large_input(submission: Submission) -> Submission:
    """Return the submission with its input in sealed memory, if that is large.

    At submission and not at dispatch: the copy is made in a thread, which the event loop does not wait for, and the
    queue holds no second one. Without a descriptor or memory for it the input stays where it is, and is written into
    the worker's socket as that has room.
    """
    import asyncio  # a caller's thread, which only makes orders, does without

    from killable.supervisor import event_loops

    content = submission.input
    if isinstance(content, SealedInput) or len(content) <= INLINE_BYTES_MAX:
        return submission
    try:
        sealed = event_loops.in_turn(asyncio.get_running_loop(), partial(SealedInput.of, content))
        return replace(submission, input=await sealed)
    except (OSError, RuntimeError):  # RuntimeError: no thread can be started
        return submission


def content_of(input: bytes | SealedInput) -> bytes:
    """Return an input as bytes; of sealed memory a copy."""
    if isinstance(input, bytes):
        return input
    with input.mapped() as content:
        return bytes(content)


def close_input(submission: Submission) -> None:
    """Give up the input of a job that is over, or was never taken."""
    if isinstance(submission.input, SealedInput):
        submission.input.close()
