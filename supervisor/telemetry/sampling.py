"""Which traces are exported: those whose caller exports them, and a share of those that begin here.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from killable.supervisor.telemetry.job_trace import Sampler
from killable.workers.protocol.trace_context import TraceContext

SAMPLERS = (
    *("always_on", "always_off", "traceidratio"),
    *("parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"),
)
"""The values of OTEL_TRACES_SAMPLER that are known."""
_PARENT_BASED = "parentbased_"


def sampler_of(name: str, ratio: float) -> Sampler:
    """Return the sampler of this name (SAMPLERS). `ratio`: the share of those that go by it, from 0 to 1."""
    asks_parent, kind = name.startswith(_PARENT_BASED), name.removeprefix(_PARENT_BASED)
    share = {"always_on": 1.0, "always_off": 0.0}.get(kind, ratio)
    below = round(share * (1 << 64))

    def is_sampled(parent: TraceContext | None, trace_id: str) -> bool:
        if asks_parent and parent is not None:
            return parent.is_sampled
        return int(trace_id[16:], 16) < below  # as OpenTelemetry's TraceIdRatioBased, so that all services agree

    return is_sampled
