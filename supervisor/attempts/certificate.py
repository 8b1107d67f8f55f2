"""The certificate of an attempt, made from when each phase of its end happened, and whether its tree is proven gone.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from typing import Any

from killable.supervisor.models import PHASES, Certificate, ExitStatus
from killable.supervisor.ports import Gone

_ASKED = ("requested", "term_sent", "kill_sent")
_RECEIVED = ("delivered", "acknowledged")


NO_GUARD = (
    "its guard was killed and it had no cgroup; a process that had left its parents and cleaned its environment would "
    "not have been found"
)
STILL_THERE = "SIGKILL has not ended its process"
"""Why a tree is not proven empty."""


class PhaseTimes:
    """Monotonic seconds by phase; the first time noted for a phase stays."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}
        self._proof: dict[str, Any] = {}

    def __contains__(self, phase: str) -> bool:
        return phase in self._times

    def note(self, phase: str, now: float) -> None:
        self._times.setdefault(phase, now)

    def note_gone(self, gone: Gone, status: ExitStatus, now: float) -> None:
        """Keep what the kernel reported about the process. The tree is empty if there is a proof of it."""
        from killable.supervisor.attempts.exit_outcome import signal_name  # here: a task that just runs needs no more

        ending = gone.ending
        if ending is not None:
            self._note_ending(ending.reaped_at)
        if gone.proof:
            self._times["tree_empty"] = now
        self._proof = {
            "proof": gone.proof,
            "unproven": "" if gone.proof else NO_GUARD,
            "processes_swept": gone.swept,
            "shared_memory_removed": gone.memory_removed,
            "exit_code": status.exit_code,
            "exit_signal": None if status.signal is None else signal_name(status.signal),
            "max_rss_bytes": None if ending is None else ending.max_rss_bytes,
            "user_s": None if ending is None else ending.user_s,
            "system_s": None if ending is None else ending.system_s,
        }

    def _note_ending(self, reaped_at: float) -> None:
        """Correct the order of the times: each process notes an event only when it observes it.

        The zygote may reap before the supervisor sees the exit. A process may have ended by itself just before it was
        asked to. A notification that is read after the exit was sent before it.
        """
        times = self._times
        asked = max((times[phase] for phase in _ASKED if phase in times), default=reaped_at)
        times["reaped"] = max(asked, reaped_at)
        times["exited"] = max(asked, min(times.get("exited", reaped_at), times["reaped"]))
        for phase in _RECEIVED:
            if phase in times:
                times[phase] = min(times[phase], times["exited"])

    def note_unkillable(self) -> None:
        """Note that a process of the job is still there."""
        self._proof = {"unproven": STILL_THERE}

    def note_kept(self, now: float) -> None:
        """Note that the worker lives on and has no child: it is the subreaper of everything that the job started."""
        self._times["tree_empty"] = now
        self._proof = {"proof": "descendants"}

    def since_start_ms(self, moment: float) -> float:
        """Return the ms since the request, or since the first phase of an end that was not requested."""
        start = self._times.get("requested", min(self._times.values(), default=moment))
        return round((moment - start) * 1000, 3)

    def certificate(self, **facts: Any) -> Certificate:
        """Return the certificate with these facts and the phases that happened."""
        phases: dict[str, Any] = {
            phase: self.since_start_ms(self._times[phase]) for phase in PHASES if phase in self._times
        }
        requested = 0.0 if "requested" in self._times else None
        return Certificate(requested=requested, **phases, **self._proof, **facts)


def undisturbed_certificate() -> dict[str, Any]:
    """Return the certificate of a task that ended by itself and left its worker ready for the next one."""
    return dict(_RAN_THROUGH)


def _ran_through() -> dict[str, Any]:
    phase_times = PhaseTimes()
    phase_times.note_kept(0.0)
    return phase_times.certificate(slot_ready=0.0).as_json()


_RAN_THROUGH = _ran_through()
