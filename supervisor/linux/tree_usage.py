"""What a worker and all processes of its job use together: memory, processor time, processes, threads.

Runs in: supervisor; the exact measurement in a thread. Behind `ports`. What is read by pid may be another process's:
the caller checks the pidfd afterwards. What of it counts for a limit is decided in `attempts/resource_limits`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from killable.supervisor import clock
from killable.supervisor.linux import procfs
from killable.supervisor.linux.cgroup import Cgroup
from killable.supervisor.ports import UNCOUNTED_S_MAX, Process, Sample

FRESH_S = 1.0
"""Age up to which readers of what workers use get what was measured for a limit."""
PROCESSES_MAX = 256
"""Processes of one worker that are looked at for those who ask what it uses; more are counted as so many."""


class LastLook:
    """What a limit last had measured of all of a tree.

    It holds until one of the processes has run: who has not run since has taken no memory, started no thread and forked
    nothing, and a process of the tree that is not known had a parent that ran. It holds only if two walks found the
    same processes, and each could be measured: one that ends during a walk may leave children that it did not see. A
    clock of a process takes 1 µs to read, and the measurement of a process 50 µs and more.

    If one has run, but the machine has started no process and no thread, the tree has no others than before: those are
    measured, and nobody is looked for.
    """

    sample: Sample | None = None
    at = 0.0
    """When it was known to hold."""
    _asked: tuple[bool, int] = False, 0
    _clocks: Mapping[int, float] = MappingProxyType({})
    """Of each process, read before it was looked for its children; -1: it has to be looked at again, as what has a
    clock that could not be read.
    """
    _newest_pid = 0
    """Before the last measurement."""
    _are_all = False
    """Whether the processes of the tree were found to be the same twice, and none was started meanwhile: one that was
    just being started has a number before it is in the tree.
    """
    _walked = 0.0
    """When all of the tree were last looked for."""

    def measure(self, pid: int, cgroup: Cgroup | None, *, cpu: bool, at_most: int) -> Sample | None:
        """Return what is used now, as the function `measure` does."""
        clocks = {each: clock.process_cpu_s(each) for each in self._clocks or (pid,)}
        if self.sample is not None and self._asked == (cpu, at_most) and clocks == self._clocks:
            self.at = clock.monotonic()
            return self.sample
        before, self._newest_pid = self._newest_pid, procfs.newest_pid()
        started_none = 0 < self._newest_pid == before
        known: Collection[int] = ()
        if started_none and self._are_all and clock.monotonic() - self._walked < UNCOUNTED_S_MAX:
            known = self._clocks
        else:
            self._walked = clock.monotonic()
        found: dict[int, bool] = {}
        sample = measure(pid, cgroup, cpu=cpu, at_most=at_most, found=found, known=known)
        if sample is None or sample.processes >= at_most:
            self.sample, self._clocks, self._are_all = None, {}, False
        else:
            is_whole = found.keys() == self._clocks.keys() and all(found.values())
            self._are_all = is_whole and started_none
            if self._are_all:
                sample = sample._replace(newest_pid=self._newest_pid)
            self.sample, self.at, self._asked = sample, clock.monotonic(), (cpu, at_most)
            read = clocks if is_whole else {}
            self._clocks = {each: -1.0 if (used_s := read.get(each)) is None else used_s for each in found}
        return sample


def has_started_none_since(sample: Sample) -> bool:
    """Return whether no process and no thread has been started since a sample. False if that is not known."""
    return sample.newest_pid > 0 and sample.newest_pid == procfs.newest_pid()


def measure(
    pid: int,
    cgroup: Cgroup | None,
    *,
    cpu: bool,
    at_most: int,
    found: dict[int, bool] | None = None,
    known: Collection[int] = (),
) -> Sample | None:
    """Return what is used now, of `at_most` processes; None if the worker is gone. `found` gets all that it has, and
    whether each could be measured. `known`: there are no others.
    """
    began_cpu_s = clock.thread_cpu_s()
    # As many zombies are looked past, which only the job can reap; more are as bad as processes.
    looked_at = 1 if at_most == 1 else 2 * at_most
    grouped = cgroup.processes(looked_at) if cgroup is not None and at_most > 1 and not known else ()
    pids = list(known) or procfs.members(pid, grouped, looked_at)
    own, *others = map(procfs.memory, pids)
    if found is not None:
        found.update((each, used is not None) for each, used in zip(pids, (own, *others), strict=True))
    if own is None:
        return None
    alive = {each: used for each, used in zip(pids[1:], others, strict=True) if used is not None and used.is_alive}
    there = [own, *alive.values()][:at_most]
    threads = sum(map(procfs.threads, [pid, *alive][:at_most]))
    in_group_s = cgroup.cpu_s() if cgroup is not None and cpu else None
    used_s, cost_s = procfs.cpu_s(pids, in_group_s) if cpu else 0.0, clock.thread_cpu_s() - began_cpu_s
    processes = len(there) if len(pids) < looked_at else max(len(there), at_most)
    others_bytes, shared_bytes = sum(each.private for each in there[1:]), sum(each.shared for each in there)
    return Sample(
        own.private, others_bytes, processes, used_s, cost_s=cost_s, shared_bytes=shared_bytes, threads=threads,
        resident_bytes=sum(each.resident for each in there),
    )  # fmt: skip


def measure_with_alone(pid: int, cgroup: Cgroup | None) -> Sample | None:
    """Return what is used now, with what the processes have alone; None if the worker is gone. Takes milliseconds."""
    sample = measure(pid, cgroup, cpu=True, at_most=PROCESSES_MAX)
    if sample is None:
        return None
    pids = procfs.members(pid, () if cgroup is None else cgroup.processes(PROCESSES_MAX), PROCESSES_MAX)
    return sample._replace(alone_bytes=sum(map(procfs.alone_bytes, pids)))


def cpu_s(pid: int, cgroup: Cgroup | None) -> float | None:
    """Return the processor seconds of a worker's tree without looking at its processes; None: only they have them."""
    in_group_s = None if cgroup is None else cgroup.cpu_s()
    return None if in_group_s is None else procfs.cpu_s([pid], in_group_s)


def measure_all(processes: Sequence[Process]) -> tuple[list[tuple[Sample, float] | None], float]:
    """Return what each of these and its tree use, and when; None: it is gone. And the processor seconds that this took.
    Any thread.
    """
    began_s = clock.thread_cpu_s()
    found: list[tuple[Sample, float] | None] = []
    for process in processes:
        sample = process.use()
        found.append(None if sample is None else (sample, clock.monotonic()))
    return found, clock.thread_cpu_s() - began_s


def measure_exactly(pid: int | None, cgroup: Cgroup | None, sample: Sample) -> Sample:
    """Return a sample with the memory of the processes below the worker counted exactly, which takes milliseconds.

    It uses the larger of two lower bounds: the sum of their private pages, and the sum of their proportional shares
    less all pages of the worker, for those shares may include parts of the worker's pages.
    """
    began_cpu_s = clock.thread_cpu_s()
    looked_at = 2 * sample.processes
    grouped = () if cgroup is None else cgroup.processes(looked_at)
    pids = [] if pid is None else procfs.members(pid, grouped, looked_at)
    private, shares = (
        sum(column)
        for column in zip((0, 0), *(procfs.exact_bytes(each, sample.own_bytes) for each in pids[1:]), strict=True)
    )
    others = max(private, shares - sample.own_bytes)
    shared = sum(map(procfs.exact_shared_bytes, pids)) if sample.shared_bytes else 0
    cost_s = clock.thread_cpu_s() - began_cpu_s
    return sample._replace(others_bytes=others, shared_bytes=shared, proven=True, cost_s=cost_s)
