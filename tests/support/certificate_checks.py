"""Checks of the certificate that records how a job ended.

They apply to the certificate of an event, of a record and of a future.

Runs in: the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.hostile_job_table import ACK_S, HostileCase

from killable.supervisor.models import PHASES


def phases_of(certificate: Mapping[str, Any]) -> set[str]:
    """Return the phases that happened; `slot_ready` comes after the terminal event."""
    return {phase for phase in PHASES if phase in certificate} - {"slot_ready"}


def check_certificate(seen: Mapping[str, Any], code: str, by: str) -> None:
    """Check a certificate against itself: what did not happen is absent, and nothing comes before its cause."""
    happened = phases_of(seen)
    told = str(seen)  # whole, where pytest would shorten it
    times = [seen[phase] for phase in ("requested", *PHASES) if phase in seen]
    assert all(isinstance(time, float) for time in times) and times == sorted(times), told
    assert seen.get("requested", 0) == 0, told
    assert "requested" not in seen or code, "a job that completed was not asked to end"
    assert "requested" in seen or not happened & {"term_sent", "delivered", "acknowledged"}, told
    assert "term_sent" in happened or not happened & {"delivered", "acknowledged"}, told
    assert "delivered" in happened or "acknowledged" not in happened, told
    assert "early_kill" not in seen or "kill_sent" in happened, told  # it may have answered during the dump
    last = "SIGKILL" if "kill_sent" in happened else "SIGTERM" if "term_sent" in happened else None
    assert seen.get("last_signal") == last, told
    assert ("cause" in seen) == ("by" in seen), told
    if "requested" in seen:
        assert (seen["cause"], seen["by"]) == (code, by) or code == "unkillable", told
    assert ("tree_empty" in happened) == ("proof" in seen), told
    assert ("exited" in happened) == ("reaped" in happened) or code == "unkillable", told
    if "reaped" in happened:
        assert ("exit_code" in seen) != ("exit_signal" in seen), told
        if "max_rss_bytes" in seen:  # nobody but its tracer is told what a traced one has used
            assert seen["max_rss_bytes"] > 1 << 20 and seen["user_s"] + seen["system_s"] > 0, told
    else:
        assert not {"exit_code", "exit_signal", "max_rss_bytes", "user_s", "system_s"} & set(seen), told


def check_row(case: HostileCase, certificate: Mapping[str, Any], *, proof: str, reused: bool) -> None:
    """Check the certificate of a hostile job against its row of the table."""
    told = str(certificate)
    kept = reused and case.keeps_worker
    phases = {"tree_empty"} if kept else case.phases
    late = was_late_to_leave(certificate)
    assert phases <= phases_of(certificate) <= phases | case.optional_phases | late, told
    assert certificate["proof"] == ("descendants" if kept else proof)
    if not kept and case.exit is not None and not late:
        ended = certificate.get("exit_code") or certificate.get("exit_signal") or 0
        cut_off = "kill_sent" in case.optional_phases and "kill_sent" in certificate and ended == "SIGKILL"
        assert cut_off or ended == case.exit, told
    if "requested" in certificate:
        assert certificate["tree_empty"] <= case.within_s * 1000, told
    heard = phases_of(certificate) & {"acknowledged", "kill_sent"} and "term_sent" in certificate
    if heard and certificate["grace_s"] > 0:  # without one, or when none is left, it is killed at once
        named = f" in {case.type}\n" in certificate.get("stack", "")  # it is waited for: `long_dump_waits`
        assert named, f"its stack does not name the function: {told}"
    if case.is_asked_to_end:
        by = "user" if case.settle else "supervisor"
        assert (certificate["by"], certificate["cause"]) == (by, case.code)
        assert ("early_kill" in certificate) == case.is_killed_early
        if "kill_sent" in case.phases:
            assert certificate["kill_sent"] >= (ACK_S if case.is_killed_early else case.grace_s) * 1000


def was_late_to_leave(certificate: Mapping[str, Any]) -> set[str]:
    """Allow for SIGKILL to a worker whose job was over, and that a busy machine kept from ending in LEAVE_S."""
    return {"kill_sent"} if certificate.get("lingered") else set()


def ended_with(certificate: Mapping[str, Any], code: int) -> bool:
    """Return whether it ended with this exit code, or had ended its job and was only late to leave."""
    return certificate.get("exit_code") == code or was_late_to_leave(certificate) != set()


def was_killed(certificate: Mapping[str, Any]) -> bool:
    """Return whether SIGKILL cut its clean-up off, and did not only hasten its leaving."""
    return "kill_sent" in phases_of(certificate) - was_late_to_leave(certificate)
