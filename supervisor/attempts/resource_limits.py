"""Decide whether a running job has reached a resource limit, and when to measure again.

Runs in: supervisor. Pure: takes samples and `now`, returns findings. `resource_monitor` measures and acts.

A machine can fill memory and fork only so fast: a job far below its limits is measured a few times a second, and a
job close to them every 5 ms.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from killable.supervisor.models import Verdict
from killable.supervisor.ports import Sample
from killable.workers.authoring.backstops import BACKSTOP, backstop_bytes
from killable.workers.authoring.limits import Limits
from killable.workers.authoring.units import size

LOOK_S = 0.005
"""Minimum time between two measurements: 50 MB at 10 GB/s."""
BYTES_PER_S = 16 << 30
"""More than one core can fill: pages have to be cleared first."""
FORKS_PER_S = 10_000
"""More than one core can fork: a fork of a small C program takes 0.1 ms."""
COST_SHARE = 10
"""A slow measurement, of a tree of hundreds of processes, is not repeated before this many times its duration."""
PROOF_SHARE = 20
"""The same for a proof, which keeps another thread busy for 10 ms per GiB and more."""


class Finding(NamedTuple):
    """The result of one sample."""

    next_at: float
    verdict: Verdict | None = None
    beyond: bool = False
    """So far over the limit that there is no time for a grace."""
    prove: bool = False
    """The sum is over the limit, but may count pages several times."""


class ResourceWatch(NamedTuple):
    """The limits of one attempt, counted from what its worker had at the start of the attempt."""

    limits: Limits
    base: Sample
    cores: int
    prove_at: float = 0.0
    """No proof is requested before this time."""

    @property
    def at_most(self) -> int:
        """How many processes have to be counted to decide on every limit."""
        processes_max = self.limits["processes_max"]
        return 1 << 16 if processes_max is None else int(processes_max * BACKSTOP) + 2

    def look(self, sample: Sample, now: float) -> Finding:
        """Return the finding for a sample."""
        found = [*self._memory(sample, now), *self._processes(sample), *self._cpu(sample)]
        verdict = next((each.verdict for each in found if each.verdict is not None), None)
        wait_s = LOOK_S if verdict is not None else min(each.next_at for each in found)
        return Finding(
            next_at=now + max(LOOK_S, COST_SHARE * sample.cost_s, wait_s),
            verdict=verdict,
            beyond=any(each.beyond for each in found),
            prove=any(each.prove for each in found),
        )

    def proven(self, sample: Sample, now: float) -> ResourceWatch:
        """Return the watch after a proof: no other is requested before the limit can have been reached."""
        limit = self.limits["memory_bytes"] or 0
        room_s = (limit - self._grown(sample)) / (BYTES_PER_S * self.cores)
        return self._replace(prove_at=now + max(LOOK_S, PROOF_SHARE * sample.cost_s, room_s))

    # Each returns one finding whose `next_at` is in seconds from now, or none if its limit is not set.

    def _memory(self, sample: Sample, now: float) -> list[Finding]:
        limit = self.limits["memory_bytes"]
        if limit is None:
            return []
        grown, own = self._grown(sample), sample.own_bytes - self.base.own_bytes
        is_simple = sample.processes == 1 and sample.shared_bytes <= self.base.shared_bytes
        sure = grown if sample.proven or is_simple else own
        backstop = backstop_bytes(limit)
        doubted = grown > sure and grown > (backstop if sure > limit else limit)
        prove = doubted and now >= self.prove_at
        if sure > limit:
            facts = {"limit": "memory_bytes", "limit_bytes": limit, "measured_bytes": sure}
            words = f"memory_bytes of {size(limit)} was reached: {_its_processes(sample)} had grown by {size(sure)}"
            return [Finding(0.0, _verdict("limit.memory", words, facts, sample), sure > backstop, prove)]
        if doubted:
            return [Finding(self.prove_at - now, prove=prove)]
        return [Finding((limit - grown) / (BYTES_PER_S * self.cores))]

    def _processes(self, sample: Sample) -> list[Finding]:
        limit = self.limits["processes_max"]
        if limit is None:
            return []
        if sample.processes > limit:
            facts = {"limit": "processes_max", "limit_processes": limit}
            words = f"processes_max of {limit} was reached: {sample.processes} were seen at once"
            beyond = sample.processes > limit * BACKSTOP
            return [Finding(0.0, _verdict("limit.processes", words, facts, sample), beyond)]
        return [Finding((limit + 1 - sample.processes) / (FORKS_PER_S * self.cores))]

    def _cpu(self, sample: Sample) -> list[Finding]:
        limit = self.limits["cpu_s"]
        if limit is None:
            return []
        used = sample.cpu_s - self.base.cpu_s
        if used >= limit:
            facts = {"limit": "cpu_s", "limit_s": limit, "measured_s": round(used, 3)}
            words = (
                f"cpu_s of {limit:g} s was reached: {_its_processes(sample)} had used {used:.3g} s of processor time"
            )
            return [Finding(0.0, _verdict("limit.cpu", words, facts, sample))]
        return [Finding((limit - used) / self.cores)]

    def _grown(self, sample: Sample) -> int:
        shared = max(0, sample.shared_bytes - self.base.shared_bytes)
        return sample.own_bytes + sample.others_bytes + shared - self.base.own_bytes


def _its_processes(sample: Sample) -> str:
    return "its process" if sample.processes == 1 else f"its {sample.processes} processes"


def _verdict(code: str, words: str, facts: dict[str, Any], sample: Sample) -> Verdict:
    return Verdict(code, by="supervisor", facts={**facts, "processes": sample.processes, "message": words})
