"""One run of a call of an Executor: what a call does not ask for is not made.

Runs in: worker of an Executor's pool. Importing this module declares the job types of that pool (`executor_jobs`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from killable.workers.protocol.call_message import ANNOUNCE, RESULT_BUFFER, SEALED, STREAM, CallMessage
from killable.workers.protocol.messages import NO_TAGS, Run
from killable.workers.runtime import executor_setup, trace_place
from killable.workers.runtime.execution import Execution
from killable.workers.runtime.executor_jobs import call_function, stream_function
from killable.workers.runtime.sigterm_handler import StopSignal


class CallExecution(Execution):
    """Runs a call. It has an order and a Context only if a parameter of its function is annotated so, or its input did
    not come with the message.
    """

    def _start(self, stop_signal: StopSignal) -> Any:
        call = self._run
        assert type(call) is CallMessage
        if call.flags & (SEALED | ANNOUNCE) or call.shared:
            request = self._input()
            self._announce()
        else:
            request = self._codec.decode_input(call.input)
        trace_place.take((call.traceparent, call.tracestate) if call.traceparent else trace_place.INHERITED, _no_spans)
        start = stream_function if call.flags & STREAM else call_function
        return start(partial(self._make_context, stop_signal), **request)

    @property
    def _order(self) -> Run:
        assert type(self._run) is CallMessage
        return order_of(self._run)


def order_of(call: CallMessage) -> Run:
    """Return the order that a message stands for."""
    _, _, flags, shared, job_id, limits, input, traceparent, tracestate = call
    kind = executor_setup.STREAM if flags & STREAM else executor_setup.CALL
    announce, sealed, result_buffer = bool(flags & ANNOUNCE), bool(flags & SEALED), bool(flags & RESULT_BUFFER)
    return Run(
        job_id, kind, 1, input, limits, NO_TAGS, "", announce, sealed, shared, result_buffer,
        traceparent=traceparent, tracestate=tracestate,
    )  # fmt: skip


def _no_spans() -> None:
    """Nothing is told of an Executor's spans: they are its program's to export."""
