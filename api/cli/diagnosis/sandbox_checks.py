"""Whether a pool on this machine may have a sandbox.

Runs in: Linux.
"""

from __future__ import annotations

from collections.abc import Iterator

from killable.api.cli.diagnosis.check_result import Check


def sandbox_checks() -> Iterator[Check]:
    """Yield what a pool's `sandbox` can forbid here."""
    from killable.workers.runtime import landlock, private_memory
    from killable.workers.runtime.sandbox import why_no_file_rules, why_no_network_rule

    found = f"write and read can be kept to lists (Landlock {landlock.abi()})"
    yield _check("sandbox network", why_no_network_rule(), "network = false works (seccomp)")
    yield _check("sandbox shared memory", private_memory.why_not(), "shared_memory = false works (namespaces)")
    yield _check("sandbox files", why_no_file_rules(), found)


def _check(name: str, why_not: str, found: str) -> Check:
    if not why_not:
        return Check(name, "ok", found)
    return Check(name, "warn", why_not, "a pool with that rule in [pools.NAME.sandbox] is refused here")
