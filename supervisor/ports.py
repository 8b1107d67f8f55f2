"""The ports between policy and the operating system: what a process and a spawner can do, and what they report.

Runs in: supervisor. `linux.worker_process` and `linux.spawner` implement them; the tests have a second
implementation on virtual time. All calls return at once. Later results arrive through the two listener protocols,
in the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from killable.workers.named_tuples import NamedTuple

if TYPE_CHECKING:
    from killable.supervisor.models import Verdict
    from killable.supervisor.settings import PoolSpec
    from killable.workers.protocol.frames import Frame
    from killable.workers.protocol.zygote_messages import ProcessEnding, SourceFile


class FenceError(Exception):
    """A signal was refused because the worker does not hold that attempt, or no longer does."""


class ZygoteLost(Exception):
    """There is no zygote to fork from. `on_zygote_lost` follows when everything that it started is gone.

    If its guard is lost too, it may follow earlier: no process can wait for what is still dying or cannot be killed.
    """


class Gone(NamedTuple):
    """A worker is reaped, its whole tree is gone, and its pipes are read to the end."""

    ending: ProcessEnding | None
    """None if it is unknown how the process ended."""
    swept: int
    proof: str
    zygote_lost: bool = False
    torn_bytes: int = 0
    oom: str = "unknown"
    """yes · no · unknown: whether the out-of-memory killer struck in the shared cgroup during the last attempt."""
    memory_max_struck: bool = False
    """The kernel killed it for the memory.max of its own cgroup."""
    memory_removed: int = 0
    """Number of shared memory segments and semaphores that were left and are removed."""


class ProcessorUse(NamedTuple):
    """Processor time that a process has used since it was started."""

    cpu_s: float
    """Seconds of the whole process, helper threads of native code included."""
    main_cpu_s: float | None = None
    """Seconds of its main thread alone; None if the kernel does not report them."""
    main_runs: int | None = None
    """How often the main thread was scheduled on a processor."""


class Sample(NamedTuple):
    """Memory and processor time of a worker's process tree at one moment."""

    own_bytes: int
    """Private memory of the worker process itself."""
    others_bytes: int = 0
    """Private memory of the processes that it started. Pages that forks share count in each, unless `proven`."""
    processes: int = 1
    """Living ones; zombies do not count."""
    cpu_s: float = 0.0
    proven: bool = False
    cost_s: float = 0.0
    """Processor time (not wall time) that the measurement took, in seconds."""
    shared_bytes: int = 0
    """Memory that they have mapped to share it. What several have mapped counts in each, unless `proven`."""
    threads: int = 1
    """Of all of them, the main threads included."""
    resident_bytes: int = 0
    """All pages that they have in memory, with those of files. What several share counts in each."""
    alone_bytes: int | None = None
    """Pages that one of them has alone: what their end would free. None: not asked for."""
    newest_pid: int = 0
    """The number that the machine had given last to a process or thread. One that was started since has another. 0: not
    known, or one may have been about to start while the others were counted.
    """


class ProcessListener(Protocol):
    """Receives the events of one process. Each method returns quickly and raises nothing."""

    def on_forked(self, pid: int) -> None:
        """The zygote has forked it. If it has ended by then, `on_exited` comes first: it is never taken for alive."""
        ...

    def on_fork_failed(self, errno: int, why: str) -> None: ...
    def on_frames(self, frames: list[Frame]) -> None: ...
    def on_tokens(self, fence: int, sequence: int, tokens: list[bytes]) -> None:
        """It has sent tokens in one row, of which the first has this number; the quick form of TOKEN frames."""
        ...

    @property
    def reading_output(self) -> AbstractContextManager[object]:
        """Entered before what it has printed is read, and left when `on_output` has it. It may be entered again."""
        ...

    def on_output(self, data: bytes, stream: str = "stdout") -> None:
        """It has printed. `stream` is "stderr" only if stderr has a pipe of its own, else "stdout" for both."""
        ...

    def on_notifications(self, notifications: bytes) -> None: ...
    def on_protocol_error(self, why: str) -> None: ...
    def on_exited(self) -> None:
        """It has ended. It is still a zombie, and its descendants may live."""
        ...

    def on_gone(self, gone: Gone) -> None:
        """It is gone. No other call follows."""
        ...


class Line(Protocol):
    """The line of one worker: calls that wait for it in a socket. Its user holds a lock around each method."""

    def send(self, message: bytes, passed: Sequence[int], sent: list[int]) -> None:
        """Send one message with descriptors, and append its length to `sent`. Raise OSError; BlockingIOError: no room.

        An interrupt (Ctrl-C) may come at any moment: the message is sent and noted, or neither.
        """
        ...

    def unreceived_bytes(self) -> int:
        """Return the size of the messages that the worker has not received."""
        ...

    def take_back(self) -> list[bytes]:
        """Receive every message that the worker has not received; return all that were since `forget_taken`.

        An interrupt may come at any moment: no message is lost, and the next call returns it.
        """
        ...

    def forget_taken(self) -> None:
        """Forget the messages that were taken back: their calls wait again."""
        ...


UNCOUNTED_S_MAX = 0.25
"""Time after which the processes and threads of a worker are counted although none seems to have been started: programs
of root can give a process a number of their choice (clone3(2)), and then nothing shows that it came.
"""


class MeasuredProcess(Protocol):
    """A process with all that it has started, as its use of resources is measured and bounded."""

    base: Sample | None
    """Its use at the last `note_base`. None if that could not be read, and an attempt has run since it last could."""

    def note_base(self, *, cpu: bool = True) -> None:
        """Record its current use, from which the use of an attempt is counted; without `cpu` no processor time, which
        takes a third of it. Call it before the order is sent, in the thread that sends the order; any thread may. What
        has not run since the last time is not measured again: call it, too, when it is idle, and nobody waits.
        """
        ...

    def bound(self, memory_bytes: int | None, tasks_max: int | None) -> None:
        """Limit the worker's cgroup to this memory growth over `base` and this number of threads until the attempt is
        over, as far as the cgroup has the controllers.
        """
        ...

    def sample(self, *, cpu: bool, at_most: int) -> Sample | None:
        """Measure its tree, but no more than `at_most` processes; processor time only if `cpu`.

        Return None when it is gone, or when no descriptor is left to read with. Takes 10 µs per process.
        """
        ...

    def has_started_none_since(self, sample: Sample) -> bool:
        """Return whether no process and no thread has been started since a sample: there are no more than it counted.
        False if that is not known. Takes 7 µs.
        """
        ...

    def prove(self, sample: Sample, told: Callable[[Sample], None]) -> None:
        """Measure exactly what the processes below the worker hold, in a thread: the kernel walks their pages.

        `told` receives the result. It is not called if the worker ends meanwhile.
        """
        ...


class Process(MeasuredProcess, Protocol):
    """The process of one worker. A signal names the fence of the attempt that it is meant for."""

    pid: int | None
    proof: str
    killed_for: Verdict | None
    """Why `kill_now` killed it. Its exit may be reported before the thread that called `kill_now` reports the kill."""

    @property
    def line(self) -> Line:
        """The line through which it is given calls."""
        ...

    def hold(self, fence: int | None) -> None:
        """Accept only signals for this attempt from here on, from any thread. None: the worker is idle and gets no
        signal.
        """
        ...

    def use(self) -> Sample | None:
        """As `sample` with processor time, but what a limit had measured within the last second is not read again."""
        ...

    def note_before(self) -> None:
        """Record what is needed to tell how an attempt died (stacks, victims of the out-of-memory killer), before its
        order is sent; any thread may.
        """
        ...

    def shares_cgroup(self) -> bool:
        """Return whether another process is in its cgroup: it has given a child to its parent (CLONE_PARENT, clone(2)).
        False without one. Looked at once in 10 ms at most, for calls that are over in 0.1 ms.
        """
        ...

    def release(self) -> bool:
        """Mark it idle after its attempt. Return False if it is still held: `kill_now` came first, or its job has
        damaged what it sends tokens with, or left a process in its cgroup.
        """
        ...

    def send(self, order: bytes, passed: Sequence[int] = ()) -> None:
        """Write an order without blocking: what the socket does not take now is written later.

        `passed` are descriptors to send along; the caller still owns them.
        """
        ...

    def terminate(self, fence: int) -> None:
        """Send SIGTERM, then SIGCONT if the process is stopped. Raise FenceError."""
        ...

    def rouse(self, fence: int) -> None:
        """Continue the process if it is stopped (SIGCONT). Raise FenceError."""
        ...

    def dump(self, fence: int) -> None:
        """Make faulthandler write the stacks of a process that is about to be killed. Raise FenceError."""
        ...

    def kill(self) -> None:
        """Send SIGKILL to the whole tree. It is not fenced: a worker is ended whichever attempt it holds."""
        ...

    def kill_now(self, fence: int, verdict: Verdict) -> bool:
        """Send SIGKILL to the whole tree if it holds this attempt, from any thread; return whether it does."""
        ...

    def retire(self) -> None:
        """Close the orders socket: an idle worker then exits by itself."""
        ...

    def read_output(self) -> None:
        """Read what it has printed so far and report it."""
        ...

    def read_frames(self) -> None:
        """Read the frames that it has written so far and report them."""
        ...

    def hold_output(self, *, held: bool) -> None:
        """Read what it prints only in `read_output` and `read_ready`, or, with `held` false, at once again. A process
        whose pipe is full waits in its write.
        """
        ...

    def read_ready(self, bytes_max: int = 1 << 20) -> None:
        """Read all messages that it has sent by now, and at most `bytes_max` of what it has printed; report them."""
        ...

    def look_for_exit(self) -> bool:
        """Report its exit if it has ended and that was not reported yet; return whether it has ended."""
        ...

    def processor_use(self) -> ProcessorUse | None:
        """Return the processor time that it has used; None when it is gone."""
        ...

    def keep_file(self, number: int, kept: str) -> int:
        """Move a file that the job has saved to this path, and return its size. Raise OSError: there is none of that
        number, or it is no regular file of its own.
        """
        ...

    def kept_sizes(self, folder: str, names: Iterable[str]) -> dict[str, int]:
        """Return how large kept files are now: who has one open may still write into it."""
        ...

    def measure_tmp(self, kept: str, at_most: int, told: Callable[[int, float], None]) -> bool:
        """Call `told` with the bytes on disk of its temporary directory, of files not kept yet and of those in the
        folder `kept`, counted up to `at_most`, and the seconds that it took; never, if it is gone by then. Return
        False, and do nothing, if there are none of these.
        """
        ...

    def stack(self) -> str | None:
        """Return the requested stack, or the one written when it died of its own fault; None if there is neither."""
        ...

    def has_whole_stack(self) -> bool:
        """Return whether the requested stack has been written completely."""
        ...

    async def measured(self, *, alone: bool) -> Sample | None:
        """Return a sample of its tree that is taken in a thread, processor time included. `alone`: with `alone_bytes`,
        for which the kernel walks all pages. None: it is gone, or no thread can be started.
        """
        ...

    def without_cgroup(self) -> None:
        """Drop the cgroup, which the worker could not join: only the sweep of its descendants proves its end."""
        ...

    def abandon(self) -> None:
        """Close every descriptor of a process that is given up (unkillable). It reports nothing any more."""
        ...


class SpawnerListener(Protocol):
    """Receives the events of a pool's zygote."""

    def on_type(self, reported: dict[str, Any]) -> None: ...
    def on_files(self, files: Sequence[SourceFile]) -> None:
        """Files of the user's own code were imported. `on_preloaded` or `on_preload_failed` follows."""
        ...

    def on_preloaded(self, threads: int) -> None: ...
    def on_preload_failed(self, traceback: str, declaration: str) -> None:
        """`declaration` is the fault in a job's declaration, if that is the cause."""
        ...

    def on_zygote_ending(self) -> None:
        """The zygote or its guard has ended, or is being ended: its workers die now. `on_zygote_lost` follows."""
        ...

    def on_zygote_lost(self, how: str = "") -> None:
        """The zygote and everything that it started are gone. `how` describes its end; empty if unknown."""
        ...


class Spawner(Protocol):
    """The guard and zygote of one pool."""

    proof: str

    @property
    def zygote_pid(self) -> int | None:
        """Set from before `on_preloaded` until `on_zygote_lost`, else None."""
        ...

    def start(self, start_method: str) -> None:
        """Start a zygote, and the guard if there is none. Raise OSError."""
        ...

    def lease(self, until: float) -> None:
        """Have the guard end everything at this time, in CLOCK_BOOTTIME seconds, unless a later call comes before."""
        ...

    def stop_zygote(self) -> None:
        """Make the zygote exit; `on_zygote_lost` follows when everything that it started is gone."""
        ...

    def prepare(self, worker_id: str) -> None:
        """Prepare the start of a worker that a `fork` with this id may ask for soon, without waiting for anything."""
        ...

    def fork(self, worker_id: str, listener: ProcessListener) -> Process:
        """Request a worker; `on_forked` or `on_fork_failed` follows.

        Raise ZygoteLost, or OSError (descriptors, cgroup).
        """
        ...

    async def close(self) -> None:
        """End the guard and everything below it; return when it is gone."""
        ...


SpawnerFactory = Callable[["PoolSpec", SpawnerListener], Spawner]
