"""A worker whose main thread has no processor for a while between a job's end and the moment from which it is over.

Runs in: worker.
"""

from __future__ import annotations

import time

from support.late import never_leaves_its_operation as never_leaves_its_operation

from killable.workers.doorbell import Doorbell

_forget = Doorbell.forget


def _forget_late(doorbell: Doorbell) -> None:
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass
    _forget(doorbell)


Doorbell.forget = _forget_late  # type: ignore[method-assign]
