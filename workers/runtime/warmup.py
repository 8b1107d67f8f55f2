"""Run a trivial job once through the real code path, so that the first job of a fresh fork starts faster.

Runs in: worker, before it is ready. After a fork every page is shared, and the first write to each copies it (changing
a reference count is a write). Without the warm-up the first job of a worker entered 0.3 ms later. A worker of an
Executor also runs a call (`Harness.rehearse`): its first one then begins 1.5 ms sooner.
"""

from __future__ import annotations

import _socket
import os
from functools import cache
from typing import Any

from killable.workers.authoring.context import Context
from killable.workers.authoring.registered_types import RegisteredJob
from killable.workers.protocol.call_message import encode_call
from killable.workers.protocol.codec import Codec
from killable.workers.protocol.frames import encode
from killable.workers.protocol.messages import Idle, Kind, Run
from killable.workers.runtime.execution import Execution
from killable.workers.runtime.frame_writer import FrameWriter
from killable.workers.runtime.order_reader import OrderReader
from killable.workers.runtime.reuse_check import Baseline, TaskFolder
from killable.workers.runtime.rlimits import ResourceLimits
from killable.workers.runtime.sigterm_handler import StopSignal

_FENCE = 0
_NAME = "rehearsal"


def _trivial_job(text: str, ctx: Context) -> str:
    ctx.emit(text)
    return text


def _trivial_call(text: str) -> str:
    """Without a Context, for which a worker would import `inspect`."""
    return text


@cache
def rehearsal(codec: str) -> tuple[RegisteredJob, dict[str, Any]]:
    """Return the job and its input. The zygote makes them once, so that no worker does.

    Either kind is imported only where it is needed: a service has no cloudpickle, an Executor no declarations.
    """
    return _called() if codec == "pickle" else _declared()


def _declared() -> tuple[RegisteredJob, dict[str, Any]]:
    """Return a job as its author declares it, with its input."""
    from killable.workers.authoring.function_signature import read_parameters
    from killable.workers.authoring.input_schema import input_type_of
    from killable.workers.authoring.job_functions import JobFunction

    parameters = read_parameters(_trivial_job, typed=True)
    input_type = input_type_of(parameters.members)
    job = JobFunction(_NAME, _trivial_job, "", input_type, context_parameter=parameters.context)
    return job, {"text": _NAME}


def _called() -> tuple[RegisteredJob, dict[str, Any]]:
    """Return a call of an Executor, with its input."""
    from killable.workers.runtime.executor_jobs import CallType, call

    return CallType(_NAME, call), {"function": _trivial_call, "args": (_NAME,), "kwargs": {}}


def warm_up(tmp: str, codec: Codec) -> None:
    """Read and decode an order, bind its input, call the job, emit and close; the frames go to /dev/null."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    orders = OrderReader(theirs.detach())
    try:
        stop_signal = StopSignal(null, null, lambda fence: None)
        channel = FrameWriter(null, codec, stop_signal.answer)
        stop_signal.channel = channel
        job, input = rehearsal(codec.name)
        order = Run(_NAME, job.name, 1, codec.encode_value(input), b'{"memory_bytes":null}')
        ours.send(encode(Kind.RUN, _FENCE, 0, order.encode()))
        orders.wait()
        frame = orders.next()
        assert frame is not None
        run = Run.decode(frame.payload)
        channel.begin(frame.fence)
        limits = run.limits_in_force()
        attempt = Execution(run, limits, {job.name: job}, codec, channel, tmp, ResourceLimits(), 0)
        closing = attempt.outcome(stop_signal, frame.fence)
        tasks = TaskFolder()
        channel.close([closing, (Kind.IDLE, Idle(not Baseline.take().changed(tasks, stop_signal)).encode())])
        os.close(tasks.descriptor)
    finally:
        ours.close()
        orders.close()
        os.close(null)


def call_message() -> bytes:
    """Return a call of an Executor that does nothing, as a worker receives it."""
    from killable.workers.protocol import pickling

    call = {"function": abs, "args": (1,), "kwargs": {}}
    return encode_call(_FENCE, _FENCE, 0, 0, _NAME.encode(), b"{}", pickling.in_band(call))
