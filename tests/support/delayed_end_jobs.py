"""A worker whose main thread gets no processor between a job's end and the end of its attempt.

The delay lasts until the time of the job's operation is over.

Runs in: worker.
"""

from __future__ import annotations

import time

from support.job_helpers import HeldBackOutput

from killable import Context, job
from killable.workers.runtime.sigterm_handler import StopSignal

_forget = StopSignal.forget
_held_back: list[HeldBackOutput] = []
_ends = [60.0, 3.0]
"""How long the end of an operation is waited for at most; that of the inner one may have come with the other's."""


@job
def never_leaves_its_operations(ctx: Context) -> int:
    """Return, in two operations of which nobody has heard."""
    held = HeldBackOutput(ctx)
    held.__enter__()
    ctx.operation("outer", 0.001, "raise").__enter__()
    ctx.operation("inner", 0.3, "raise").__enter__()
    _held_back.append(held)
    return 7


def _forget_late(stop_signal: StopSignal) -> None:
    if stop_signal.operations is not None and _ends:
        if _held_back:
            list(_held_back.pop().release())
        end = time.monotonic() + _ends.pop(0)
        while time.monotonic() < end:
            time.sleep(0.01)
    _forget(stop_signal)


StopSignal.forget = _forget_late  # type: ignore[method-assign]
