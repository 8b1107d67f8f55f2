"""The edge between deciding and the operating system: what a process and a spawner can do, and what they report.

Runs in: supervisor. `process` and `spawner` are the real side; the tests have a second one, on virtual time. All
calls return at once; everything that happens later comes back through the two listener protocols, in the event
loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from killable.supervisor.models import Verdict
from killable.supervisor.settings import PoolSpec
from killable.workers.protocol.control import ProcessEnding
from killable.workers.protocol.frames import Frame

PIPE_BYTES = 1 << 16
"""What a pipe holds that was not made larger, pipe(7)."""


class FenceError(Exception):
    """A signal was refused: the worker does not hold that attempt (any more)."""


class ZygoteLost(Exception):
    """There is no zygote to fork from; `on_zygote_lost` tells when what it had started is gone too, or is as good as
    gone: with its guard lost as well nobody can wait for what is dying at that moment, or does not die.
    """


class Gone(NamedTuple):
    """A worker is reaped, its whole tree is gone, and its pipes are read to the end."""

    ending: ProcessEnding | None
    """None: nobody could tell how it ended."""
    swept: int
    proof: str
    zygote_lost: bool = False
    torn_bytes: int = 0
    oom: str = "unknown"
    """yes · no · unknown: whether the out-of-memory killer took a process beside it while it had its last attempt."""
    memory_max_struck: bool = False
    """It was killed for its own group's memory.max."""


class ProcessorUse(NamedTuple):
    """What a process has used of the processor since it was born."""

    cpu_s: float
    """Of the whole process, helper threads of native code included."""
    main_cpu_s: float | None = None
    """Of its main thread alone; None where the kernel does not tell."""
    main_runs: int | None = None
    """How often the main thread was put on a processor."""


class Usage(NamedTuple):
    """None is what could not be measured."""

    cpu: float | None = None
    """Share of one core over the process's life."""
    rss_bytes: int | None = None
    uss_bytes: int | None = None


class Sample(NamedTuple):
    """What a worker's tree holds, and has used since it was born, at one moment."""

    own_bytes: int
    """Private memory of the worker itself."""
    others_bytes: int = 0
    """Of the processes that it has started; what forks share is counted in each, unless `proven`."""
    processes: int = 1
    cpu_s: float = 0.0
    proven: bool = False
    cost_s: float = 0.0
    """Processor seconds that measuring has taken, whoever had to wait for how long meanwhile."""


class ProcessListener(Protocol):
    """Who is told what happens to a process; each call is short and raises nothing."""

    def on_forked(self, pid: int) -> None:
        """The zygote has told of it. One that has ended by then is told so first: nobody may take it for alive."""
        ...

    def on_fork_failed(self, errno: int, why: str) -> None: ...
    def on_frames(self, frames: list[Frame]) -> None: ...
    def on_output(self, data: bytes) -> None: ...
    def on_notifications(self, notifications: bytes) -> None: ...
    def on_protocol_error(self, why: str) -> None: ...
    def on_exited(self) -> None:
        """It has ended; it is still a zombie, and its tree may live."""
        ...

    def on_gone(self, gone: Gone) -> None:
        """The last call: nothing comes after it."""
        ...


class Process(Protocol):
    """One worker's process. Signals name the fence of the attempt that they are meant for."""

    pid: int | None
    proof: str
    killed_for: Verdict | None
    """Why `kill_now` killed it: its exit may be told before that thread's word of it."""

    base: Sample | None
    """What it held and had used at `note_base`; None: nothing could be read then, and it has had an attempt since the
    fork, so that it is not known.
    """

    def hold(self, fence: int | None) -> None:
        """From here on only signals for this attempt pass; None: the worker is idle and is not signalled."""
        ...

    def note_base(self) -> None:
        """Note what it holds and has used: what an attempt takes is what is more than that. Before its order, by
        whoever gives that, in any thread.
        """
        ...

    def let_go(self) -> bool:
        """Its attempt is over, and it is idle; False: `kill_now` came before that, and it is held still."""
        ...

    def send(self, order: bytes, passed: Sequence[int] = ()) -> None:
        """Write an order, never blocking: what the socket does not take is written when it does.

        `passed` are descriptors that go along; they stay the caller's.
        """
        ...

    def send_now(self, order: bytes, passed: Sequence[int] = ()) -> int | None:
        """Write as much of an attempt's order as the socket takes at once, from any thread; return how much, None when
        nobody will ever read it. What is left is to be sent, in the event loop's thread.
        """
        ...

    def terminate(self, fence: int) -> None:
        """Ring: SIGTERM, then SIGCONT if it is stopped. Raise FenceError."""
        ...

    def dump(self, fence: int) -> None:
        """Make faulthandler write the stacks of a process that is about to be killed. Raise FenceError."""
        ...

    def kill(self) -> None:
        """SIGKILL the whole tree. Not fenced: whoever ends a worker ends it whatever it holds."""
        ...

    def kill_now(self, fence: int, verdict: Verdict) -> bool:
        """Do so from any thread, if it holds this attempt; return whether it does."""
        ...

    def retire(self) -> None:
        """Close the orders: an idle worker then ends by itself."""
        ...

    def read_output(self) -> None:
        """Read what it has printed up to now and report it."""
        ...

    def read_ready(self, bytes_max: int = 1 << 20) -> None:
        """Read what is in all of its pipes now, of each at most so much, and report it."""
        ...

    def look_for_exit(self) -> bool:
        """Tell of its exit, if it has ended and that was not told; return whether it has ended."""
        ...

    def processor_use(self) -> ProcessorUse | None:
        """Return what the process has used of the processor; None when it is gone."""
        ...

    def bound(self, memory_bytes: int | None, processes_max: int | None) -> None:
        """Let the kernel keep the worker's group below this growth over `base` and this number, where it has the
        controllers; until the attempt is over.
        """
        ...

    def sample(self, *, cpu: bool, at_most: int) -> Sample | None:
        """Measure its tree, processor time if asked for, `at_most` so many processes; None when it is gone, or when
        nothing can be read, for want of a descriptor.

        10 µs, and as much for each further process.
        """
        ...

    def prove(self, sample: Sample, told: Callable[[Sample], None]) -> None:
        """Measure what others than the worker really hold; not in the event loop, for the kernel walks their pages.

        `told` is not called when it ends meanwhile.
        """
        ...

    def stack(self) -> str | None:
        """Return the stack that was asked for, or that it left as it died of a fault of its own; None: neither."""
        ...

    def has_whole_stack(self) -> bool:
        """Tell whether a stack has been written there, to its end."""
        ...

    async def usage(self) -> Usage:
        """Measure it; not in the event loop, for the kernel walks all of its pages."""
        ...

    def without_cgroup(self) -> None:
        """The worker could not move into its group: from here on only the descendants prove that it is gone."""
        ...

    def abandon(self) -> None:
        """Close every descriptor of a process that never went (unkillable); nothing is reported any more."""
        ...


class SpawnerListener(Protocol):
    """Who is told what happens to a pool's zygote."""

    def on_type(self, reported: dict[str, Any]) -> None: ...
    def on_preloaded(self, threads: int) -> None: ...
    def on_preload_failed(self, traceback: str, declaration: str) -> None:
        """`declaration` is what is wrong with a job's declaration, if it is that."""
        ...

    def on_zygote_ending(self) -> None:
        """The zygote or its guard has ended, or is made to: its workers die now. `on_zygote_lost` follows."""
        ...

    def on_zygote_lost(self, how: str = "") -> None:
        """The zygote is gone, and so is everything that it had started. `how` it ended is empty where nobody knows."""
        ...


class Spawner(Protocol):
    """A pool's guard and zygote."""

    proof: str

    @property
    def zygote_pid(self) -> int | None:
        """From before `on_preloaded` to the word of its loss."""
        ...

    def start(self, start_method: str) -> None:
        """Start the guard, if need be, and a zygote. Raise OSError."""
        ...

    def stop_zygote(self) -> None:
        """Let the zygote go; `on_zygote_lost` follows when the last of it is gone."""
        ...

    def fork(self, worker_id: str, listener: ProcessListener) -> Process:
        """Ask for a worker; `on_forked` or `on_fork_failed` follows. Raise ZygoteLost; OSError (descriptors,
        cgroup).
        """
        ...

    async def close(self) -> None:
        """End the guard and with it everything below; return when it is gone."""
        ...


SpawnerFactory = Callable[[PoolSpec, SpawnerListener], Spawner]
