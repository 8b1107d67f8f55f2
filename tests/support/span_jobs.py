"""Jobs with spans of their own.

Runs in: worker.
"""

from __future__ import annotations

import os
import signal

from killable import Context, job


@job
def with_spans(ctx: Context, dies: bool = False) -> str:
    """Report two spans; die in the second one, if it is to."""
    with ctx.span("first", number=1):
        pass
    with ctx.span("second"):
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
    return ctx.traceparent
