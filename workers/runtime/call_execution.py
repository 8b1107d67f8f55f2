"""One run of a call of an Executor: what a call does not ask for is not made.

Runs in: worker of an Executor's pool. Importing this module declares the job types of that pool (`executor_jobs`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from killable.workers.authoring.registered import RegisteredJob
from killable.workers.protocol.call_message import ANNOUNCE, RESULT_BUFFER, SEALED, STREAM, CallMessage
from killable.workers.protocol.messages import NO_TAGS, Run
from killable.workers.runtime import executor_setup
from killable.workers.runtime.execution import Execution
from killable.workers.runtime.executor_jobs import call_function, stream_function
from killable.workers.runtime.sigterm_handler import StopSignal


class CallExecution(Execution):
    """Runs a call. It has a Context only if a parameter of its function is annotated so."""

    def _start(self, job: RegisteredJob, stop_signal: StopSignal) -> Any:
        request = self._input()
        self._announce()
        start = stream_function if self._run.type == executor_setup.STREAM else call_function
        return start(partial(self._make_context, stop_signal), **request)


def run_of(message: CallMessage) -> Run:
    """Return the order that a message stands for."""
    _, _, flags, shared, job_id, limits, input = message
    kind = executor_setup.STREAM if flags & STREAM else executor_setup.CALL
    announce, sealed, result_buffer = bool(flags & ANNOUNCE), bool(flags & SEALED), bool(flags & RESULT_BUFFER)
    # By position: names would take twice as long.
    return Run(job_id, kind, 1, input, limits, NO_TAGS, "", announce, sealed, shared, result_buffer)
