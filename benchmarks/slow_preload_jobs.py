"""A job behind a preload of a second, as a model has one: new workers of its pool begin with it.

Runs in: worker.
"""

from __future__ import annotations

import time

from killable import job, preload

PRELOAD_S = 1.0


@preload
def model() -> None:
    """Take a second, and nothing of the processors, once in each zygote."""
    time.sleep(PRELOAD_S)


@job
def ask() -> str:
    """Answer at once."""
    return "yes"
