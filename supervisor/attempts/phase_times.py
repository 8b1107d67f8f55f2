"""When each phase of an ending happened, and the certificate that is made of it.

Runs in: supervisor. Pure.
"""

from __future__ import annotations

from typing import Any

from killable.supervisor.attempts.exit_outcome import signal_name
from killable.supervisor.models import PHASES, Certificate, ExitStatus
from killable.supervisor.ports import Gone

_ASKED = ("requested", "term_sent", "kill_sent")
_HEARD = ("delivered", "acknowledged")


class PhaseTimes:
    """Monotonic seconds by phase; the first stamp of a phase stays."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}
        self._proof: dict[str, Any] = {}

    def __contains__(self, phase: str) -> bool:
        return phase in self._times

    def note(self, phase: str, now: float) -> None:
        self._times.setdefault(phase, now)

    def note_gone(self, gone: Gone, status: ExitStatus, now: float) -> None:
        """The tree is empty: keep what the kernel told of the process."""
        ending = gone.ending
        if ending is not None:
            self._note_ending(ending.reaped_at)
        self._times["tree_empty"] = now
        self._proof = {
            "proof": gone.proof,
            "processes_swept": gone.swept,
            "exit_code": status.exit_code,
            "exit_signal": None if status.signal is None else signal_name(status.signal),
            "max_rss_bytes": None if ending is None else ending.max_rss_bytes,
            "user_s": None if ending is None else ending.user_s,
            "system_s": None if ending is None else ending.system_s,
        }

    def _note_ending(self, reaped_at: float) -> None:
        """Put in order what was seen late: each side stamps when it looks.

        The zygote may reap before we see the exit; a process may have ended by itself just before we asked it to; and a
        bell that we read after the exit was rung before it.
        """
        times = self._times
        asked = max((times[phase] for phase in _ASKED if phase in times), default=reaped_at)
        times["reaped"] = max(asked, reaped_at)
        times["exited"] = max(asked, min(times.get("exited", reaped_at), times["reaped"]))
        for phase in _HEARD:
            if phase in times:
                times[phase] = min(times[phase], times["exited"])

    def note_kept(self, now: float) -> None:
        """The worker lives on without a child: it is the subreaper of all that the job had started."""
        self._times["tree_empty"] = now
        self._proof = {"proof": "descendants"}

    def since_start_ms(self, moment: float) -> float:
        """Return how long after the request, or after the first phase of an ending nobody asked for."""
        start = self._times.get("requested", min(self._times.values(), default=moment))
        return round((moment - start) * 1000, 3)

    def certificate(self, **facts: Any) -> Certificate:
        """Return the certificate with these facts and with the phases that happened."""
        phases: dict[str, Any] = {
            phase: self.since_start_ms(self._times[phase]) for phase in PHASES if phase in self._times
        }
        requested = 0.0 if "requested" in self._times else None
        return Certificate(requested=requested, **phases, **self._proof, **facts)


def ran_through() -> dict[str, Any]:
    """Return the certificate of a call that ended by itself and left its worker as it was, which took the next one."""
    return dict(_RAN_THROUGH)


def _ran_through() -> dict[str, Any]:
    phase_times = PhaseTimes()
    phase_times.note_kept(0.0)
    return phase_times.certificate(slot_ready=0.0).as_json()


_RAN_THROUGH = _ran_through()
