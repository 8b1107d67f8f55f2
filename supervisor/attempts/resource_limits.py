"""Decide whether a running job has reached a resource limit, and when to measure again.

Runs in: supervisor. Pure: takes samples and `now`, returns findings. `resource_monitor` measures and acts;
`measuring_pace` says how soon a limit can be reached.
"""

from __future__ import annotations

from typing import Any, Self

from killable.supervisor.attempts import measuring_pace
from killable.supervisor.models import Verdict
from killable.supervisor.ports import UNCOUNTED_S_MAX, Sample
from killable.workers.authoring.limits_and_caps import Limits
from killable.workers.authoring.units import size
from killable.workers.headroom_over_limits import HARD_FACTOR, hard_limit_bytes
from killable.workers.named_tuples import NamedTuple


class Finding(NamedTuple):
    """The result of one sample."""

    next_at: float
    verdict: Verdict | None = None
    beyond: bool = False
    """So far over the limit that there is no time for a grace."""
    prove: bool = False
    """The sum is over the limit, but may count pages several times."""
    holds_s: float | None = None
    """For how many seconds the limits hold whatever the job does, if the same is found as long as the sample is the
    same. None: a proof is due, or a limit is reached.
    """
    alone_at: float = 0.0
    """When to measure it again if no process and no thread is started until then. Not before `next_at`."""


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
        return 1 << 16 if processes_max is None else int(processes_max * HARD_FACTOR) + 2

    def look(self, sample: Sample, now: float) -> Finding:
        """Return the finding for a sample."""
        used = [*self._memory(sample, now), *self._cpu(sample)]
        found = [*used, *self._processes(sample), *self._threads(sample)]
        verdict = next((each.verdict for each in found if each.verdict is not None), None)
        wait_s = 0.0 if verdict is not None else min(each.next_at for each in found)
        holds = all(each.holds_s is not None for each in found)
        alone_s = min([UNCOUNTED_S_MAX, *(each.next_at for each in used)]) if holds else wait_s
        return Finding(
            next_at=now + measuring_pace.next_s(wait_s, sample.cost_s),
            alone_at=now + measuring_pace.next_s(max(wait_s, alone_s), sample.cost_s),
            verdict=verdict,
            beyond=any(each.beyond for each in found),
            prove=any(each.prove for each in found),
            holds_s=wait_s if holds else None,
        )

    def proven(self, sample: Sample, now: float) -> Self:
        """Return the watch after a proof: no other is requested before the limit can have been reached."""
        limit = self.limits["memory_bytes"] or 0
        room_s = measuring_pace.memory_s(limit - self._grown(sample), self.cores)
        return self._replace(prove_at=now + measuring_pace.next_proof_s(room_s, sample.cost_s))

    # Each returns one finding whose `next_at` is in seconds from now, or none if its limit is not set.

    def _memory(self, sample: Sample, now: float) -> list[Finding]:
        limit = self.limits["memory_bytes"]
        if limit is None:
            return []
        grown, own = self._grown(sample), sample.own_bytes - self.base.own_bytes
        is_simple = sample.processes == 1 and sample.shared_bytes <= self.base.shared_bytes
        sure = grown if sample.proven or is_simple else own
        hard_limit = hard_limit_bytes(limit)
        doubted = grown > sure and grown > (hard_limit if sure > limit else limit)
        prove = doubted and now >= self.prove_at
        if sure > limit:
            facts = {"limit": "memory_bytes", "limit_bytes": limit, "measured_bytes": sure}
            words = f"memory_bytes of {size(limit)} was reached: {_its_processes(sample)} had grown by {size(sure)}"
            return [Finding(0.0, _verdict("limit.memory", words, facts, sample), sure > hard_limit, prove)]
        if doubted:
            return [Finding(self.prove_at - now, prove=prove)]
        return [_holds(measuring_pace.memory_s(limit - grown, self.cores))]

    def _processes(self, sample: Sample) -> list[Finding]:
        limit = self.limits["processes_max"]
        if limit is None:
            return []
        if sample.processes > limit:
            facts = {"limit": "processes_max", "limit_processes": limit}
            words = f"processes_max of {limit} was reached: {sample.processes} were seen at once"
            beyond = sample.processes > limit * HARD_FACTOR
            return [Finding(0.0, _verdict("limit.processes", words, facts, sample), beyond)]
        return [_holds(measuring_pace.processes_s(limit + 1 - sample.processes, self.cores))]

    def _threads(self, sample: Sample) -> list[Finding]:
        limit = self.limits["threads_max"]
        if limit is None:
            return []
        if sample.threads > limit:
            facts = {"limit": "threads_max", "limit_threads": limit, "threads": sample.threads}
            words = f"threads_max of {limit} was reached: {_its_processes(sample)} had {sample.threads} at once"
            beyond = sample.threads > limit * HARD_FACTOR
            return [Finding(0.0, _verdict("limit.threads", words, facts, sample), beyond)]
        return [_holds(measuring_pace.threads_s(limit + 1 - sample.threads, self.cores))]

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
        return [_holds(measuring_pace.cpu_s(limit - used, self.cores))]

    def _grown(self, sample: Sample) -> int:
        shared = max(0, sample.shared_bytes - self.base.shared_bytes)
        return sample.own_bytes + sample.others_bytes + shared - self.base.own_bytes


def _holds(seconds: float) -> Finding:
    return Finding(seconds, holds_s=seconds)


def _its_processes(sample: Sample) -> str:
    return "its process" if sample.processes == 1 else f"its {sample.processes} processes"


def _verdict(code: str, words: str, facts: dict[str, Any], sample: Sample) -> Verdict:
    return Verdict(code, by="supervisor", facts={**facts, "processes": sample.processes, "message": words})
