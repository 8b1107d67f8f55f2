"""The table of all hostile jobs of the specification, with the ending that each must have. Pure values.

Runs in: the tests. The jobs are in `hostile_jobs`, `forking_jobs`, `output_jobs`, `cooperative_jobs`,
`interfering_jobs`, `resource_hungry_jobs` and `operation_jobs`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from killable.workers.error_codes import CODES

EXIT_PHASES = frozenset({"exited", "reaped", "tree_empty"})
STOPPED = frozenset({"term_sent", "delivered", "acknowledged"}) | EXIT_PHASES
"""Asked to end, and ended."""
KILLED_UNACKNOWLEDGED = frozenset({"term_sent", "delivered", "kill_sent"}) | EXIT_PHASES
"""SIGTERM was delivered, and no Python code ran any more."""
KILLED_UNDELIVERED = frozenset({"term_sent", "kill_sent"}) | EXIT_PHASES
"""SIGTERM was never delivered."""
KILLED_IN_CLEANUP = STOPPED | {"kill_sent"}
"""SIGTERM was acknowledged, and the job went on."""
SIGTERM_SENT = frozenset({"term_sent"}) | EXIT_PHASES
SIGKILL_SENT = frozenset({"kill_sent"}) | EXIT_PHASES
"""Killed without having been asked to end."""

ACK_S = 0.1
GRACE_S = 0.2
DELIVERY_GRACE_S = 8.0
"""A grace within which a signal is delivered on a busy machine, too, where it cannot be shortened later."""
FROM_START_S = 4.0
"""A deadline that begins with the job function. The machine may stand still for seconds during its first steps, before
the job can send anything. The job waits for it without using the processor.
"""
AFTER_OUTPUT_S = 0.1
"""A deadline that begins with output which the job sends from where it hangs. It may be as short as needed."""
LONG_S = 60.0
"""A grace that no test waits for: a job that ends sooner did not need it."""
BUSY_MACHINE_S = 10.0
"""What a busy machine may add to any bound; far from the grace that an ending must not wait for."""


@dataclass(frozen=True)
class HostileCase:
    """One hostile job, how it is ended, and what has to be seen of that."""

    what: str
    """In the specification's words."""
    type: str
    code: str
    """Of the error; empty: it completes."""
    input: dict[str, Any] = field(default_factory=dict)
    settle: str = ""
    """Key of `SETTLED`: how to see that it is where it will stay. It is cancelled then. Empty: it ends by itself."""
    plot: tuple[str, ...] = ("started", "token")
    """The names of its events without the terminal one, with repeated names collapsed."""
    phases: frozenset[str] = EXIT_PHASES
    limits: dict[str, Any] = field(default_factory=dict)
    grace_s: float = LONG_S
    error: dict[str, Any] = field(default_factory=dict)
    """Facts that the error has to have."""
    await_phase: str = ""
    """Its grace is shortened to `grace_s` only after this phase: a busy machine may take long to get there."""
    exit: int | str | None = None
    """Exit code, or name of the signal, in the certificate."""
    tokens: tuple[Any, ...] | None = None
    """All its tokens, where they are known."""
    optional_phases: frozenset[str] = frozenset()
    """Phases that may happen in addition."""
    keeps_worker: bool = False
    """A worker that may be used again is, after this one."""

    def __str__(self) -> str:
        return self.what

    @property
    def state(self) -> str:
        return str(CODES[self.code].state) if self.code else "completed"

    @property
    def is_asked_to_end(self) -> bool:
        """Whether a user or a deadline asks it to end, and gives it its grace."""
        return bool(self.settle) or self.code.startswith("timeout.")

    @property
    def is_killed_early(self) -> bool:
        """Whether it is killed before its grace is over."""
        return "kill_sent" in self.phases and self.grace_s == LONG_S and self.is_asked_to_end

    @property
    def within_s(self) -> float:
        """The time from the request to the end within which nothing of it may be left."""
        if "kill_sent" not in self.phases:
            return BUSY_MACHINE_S  # and not its grace
        return (ACK_S if self.is_killed_early else self.grace_s) + BUSY_MACHINE_S


def worker_kept(what: str, type: str, code: str, input: dict[str, Any] | None = None, **members: Any) -> HostileCase:
    return HostileCase(what, type, code, input or {}, keeps_worker=True, **members)


def stopped(what: str, type: str, settle: str = "computing", **members: Any) -> HostileCase:
    return HostileCase(what, type, "cancelled", settle=settle, **{"phases": STOPPED, "exit": 143, **members})


def killed_unacknowledged(what: str, type: str, settle: str = "computing", **members: Any) -> HostileCase:
    return HostileCase(what, type, "cancelled", settle=settle, phases=KILLED_UNACKNOWLEDGED, exit="SIGKILL", **members)


def killed_undelivered(what: str, type: str, settle: str = "computing", **members: Any) -> HostileCase:
    members = {"phases": KILLED_UNDELIVERED, "grace_s": GRACE_S, "exit": "SIGKILL", **members}
    return HostileCase(what, type, "cancelled", settle=settle, **members)


COMPUTING = [
    stopped("pure-Python loop", "loop_python", tokens=("in", "finally")),
    killed_unacknowledged("a loop of C that holds the GIL", "hold_gil"),
    killed_unacknowledged(
        "a loop of C in another thread that holds the GIL", "hold_gil", "busy", input={"in_thread": True}
    ),
    killed_unacknowledged("HF tokenizers on one 4.7 MB string", "hold_gil_tokenizers"),
    killed_unacknowledged("native call that frees the GIL", "native_frees_gil"),
    stopped("native call that a signal interrupts", "native_pauses", "sitting"),
    stopped("native call that the third signal ends", "hears_the_third", "sitting", tokens=("in", "finally")),
    stopped(
        "native call that the third signal ends, ack_s null",
        "hears_the_third",
        "sitting",
        tokens=("in", "finally"),
        limits={"ack_s": None},
    ),
    killed_unacknowledged("native call with helper threads", "native_waits", "sitting", input={"helpers": 2}),
    # No processor time used: it may be waiting for something that comes, and keeps its grace.
    killed_undelivered(
        "native call that only waits", "native_waits", "sitting", phases=KILLED_UNACKNOWLEDGED, await_phase="delivered"
    ),
    stopped("asyncio.run inside the job", "waits", "sitting", input={"where": "asyncio"}),
    # Its other threads compute while the main one waits for the interpreter: so short an ack_s is not for it.
    stopped("starts threads and goes on", "starts_threads", "said", input={"then": "go on"}, limits={"ack_s": None}),
    HostileCase("starts threads and returns", "starts_threads", "", exit=0),
]

SECTION = ("in", "told: cancelled")
NOT_STOPPING = [
    killed_undelivered("ignores SIGTERM", "ignores_term"),
    killed_undelivered("blocks SIGTERM in C", "blocks_term"),
    killed_undelivered(
        "catches Stopping and goes on",
        "catches_stopping",
        phases=KILLED_IN_CLEANUP,
        tokens=("in", "caught cancelled"),
        await_phase="acknowledged",
    ),
    stopped("SIGSTOPs itself", "stops_itself", "stopped"),
    *(
        stopped(f"stops itself by {by}", "stops_like_a_shells", "stopped", input={"by": by}, tokens=("in",))
        for by in ("SIGTSTP", "SIGTTIN", "SIGTTOU")
    ),
    killed_undelivered("SIGSTOPs itself and ignores SIGTERM", "stops_itself", "stopped", input={"ignore": True}),
    killed_undelivered("takes the wakeup descriptor and holds the GIL", "takes_wakeup_descriptor", grace_s=LONG_S),
    stopped("returns after SIGTERM", "returns_in_grace", exit=0),
    stopped(
        "replaces the SIGTERM handler", "replaces_handler", exit=0, phases=STOPPED - {"acknowledged"}, tokens=("in",)
    ),
    stopped("cancelled inside __del__", "loops_in_del", tokens=("in",)),
    *(
        stopped(f"cancelled inside {of}", "loops_in_callback", input={"of": of}, tokens=("in",))
        for of in (
            "a ctypes callback",
            "a gc callback",
            "a weakref callback",
            "a slow unraisablehook",
            "a child task",
            "a call_soon callback",
        )
    ),
    *(
        stopped(f"blocked in a {where}", "waits", "sitting", input={"where": where})
        for where in ("lock", "read", "queue", "subprocess", "subprocess's pipes", "sleep", "event")
    ),
    stopped("cancelled while asyncio is half imported", "imports_asyncio", "sitting"),
    stopped(
        "does a critical section to its end", "shields", "said", tokens=(*SECTION, "section done", "left", "raised")
    ),
    killed_undelivered(
        "stays in a critical section",
        "shields",
        "said",
        input={"section_s": 3600},
        phases=KILLED_IN_CLEANUP,
        tokens=SECTION,
        await_phase="acknowledged",
    ),
    stopped("blocked in emit", "emits_large", "said", input={"size": 1 << 20}),
]

BAD_ENDINGS = [
    HostileCase("SIGSEGV", "segfaults", "crash", error={"signal": "SIGSEGV", "core_dumped": False}, exit="SIGSEGV"),
    HostileCase("abort", "aborts", "crash", error={"signal": "SIGABRT"}, exit="SIGABRT"),
    HostileCase("os._exit(3)", "exits", "exit", {"code": 3}, plot=("started",), error={"exit_code": 3}, exit=3),
    HostileCase(
        "exit 0 with no result", "exits", "exit", {"code": 0}, plot=("started",), error={"exit_code": 0}, exit=0
    ),
    worker_kept("sys.exit()", "raises_system_exit", "exit", error={"exit_code": 0}, exit=0),
    worker_kept("sys.exit(5)", "raises_system_exit", "exit", {"code": 5}, error={"exit_code": 5}, exit=5),
    worker_kept(
        "sys.exit with words", "raises_system_exit", "exit", {"code": "why"}, plot=("started", "token", "log"),
        error={"exit_code": 1}, exit=1,
    ),
    worker_kept(
        "raises an unpicklable exception", "raises_unpicklable", "exception",
        error={"type": "support.hostile_jobs.Unpicklable"}, exit=0,
    ),
    worker_kept(
        "returns an unpicklable value", "returns_unpicklable", "result.unserializable", error={"type": "function"},
        exit=0,
    ),
    worker_kept(
        "emits an unpicklable value", "emits_unpicklable", "result.unserializable", error={"type": "lock"}, exit=0,
    ),
    HostileCase("closes its pipes", "closes_everything", "exit", error={"exit_code": 70}, exit=70),
    HostileCase(
        "writes half a frame and exits with 0", "dies_in_a_frame", "protocol", {"code": 0}, error={"exit_code": 0},
        exit=0,
    ),
    HostileCase(
        "writes half a frame and dies", "dies_in_a_frame", "exit", {"code": 3}, error={"exit_code": 3}, exit=3
    ),
    # It may have gone before anyone read what it wrote.
    HostileCase(
        "writes garbage on the frame descriptor and exits", "writes_garbage", "protocol", {"then": "exit"},
        optional_phases=frozenset({"kill_sent"}),
    ),
    HostileCase(
        "writes garbage on the frame descriptor and returns", "writes_garbage", "protocol", {"then": "return"},
        optional_phases=frozenset({"kill_sent"}),
    ),
    HostileCase(
        "writes garbage on the frame descriptor and goes on", "writes_garbage", "protocol", {"then": "loop"},
        phases=SIGKILL_SENT, exit="SIGKILL",
    ),
]  # fmt: skip

TOO_MUCH_OUTPUT = [
    stopped("floods tokens", "counts_for_ever", "said"),
    stopped("prints to stdout without end", "prints_for_ever", "printed", plot=("started", "log"), tokens=()),
    HostileCase(
        "floods tokens over its limit", "counts_for_ever", "limit.output", limits={"output_bytes": 100_000},
        phases=STOPPED, exit=143,
    ),
    worker_kept(
        "one 64 MiB token", "emits_large", "result.unserializable", {"size": 64 << 20, "times": 1},
        plot=("started",), error={"type": "str"}, exit=0,
    ),
]  # fmt: skip

LEAVING_PROCESSES = [
    stopped("forks grandchildren", "keeps_family", "said", input={"kind": "children"}),
    stopped("grandchild calls setsid", "keeps_family", "said", input={"kind": "setsid"}),
    stopped("double-fork daemon", "keeps_family", "said", input={"kind": "daemon"}),
    stopped("has stopped children", "keeps_family", "said", input={"kind": "stopped"}),
    stopped("forks without end", "forks_steadily"),
    HostileCase("crashes with a family", "crashes_with_family", "crash", error={"signal": "SIGSEGV"}),
    HostileCase("returns and leaves a family", "leaves_family", "", plot=("started",), exit=0),
    HostileCase("leaves zombies", "leaves_zombies", "", plot=("started",), exit=0),
    stopped("moves itself to another cgroup", "moves_to_another_cgroup", "said"),
    HostileCase("changes cwd, env, umask", "changes_surroundings", "", plot=("started",), exit=0),
    worker_kept(
        "leaks descriptors", "leaks_descriptors", "", {"count": 100}, plot=("started",), exit=0
    ),
    HostileCase(
        "leaks all descriptors", "leaks_descriptors", "limit.files", plot=("started",), error={"type": "OSError"},
        exit=0,
    ),
]  # fmt: skip

OVER_LIMITS = [
    HostileCase(
        "allocates without end", "allocates", "limit.memory", limits={"memory_bytes": 32 << 20},
        error={"limit": "memory_bytes"}, exit=143,
        phases=SIGTERM_SENT, optional_phases=STOPPED | SIGKILL_SENT,  # beyond the limit it has no grace
    ),
    worker_kept(
        "allocates all at once", "allocates_at_one_stroke", "limit.memory", {"mib": 1 << 20},
        limits={"memory_bytes": 32 << 20}, error={"type": "MemoryError"}, exit=0,
    ),
    HostileCase(
        "fork bomb under a limit", "bombs", "limit.processes", {"ceiling": 200}, limits={"processes_max": 24},
        error={"limit": "processes_max"}, phases=SIGTERM_SENT, optional_phases=STOPPED | SIGKILL_SENT,
    ),
    HostileCase(
        "computes over its processor time", "burns", "limit.cpu", {"how": "native"}, limits={"cpu_s": 0.1},
        error={"limit": "cpu_s"}, phases=KILLED_UNACKNOWLEDGED, exit="SIGKILL",
    ),
    HostileCase(
        "says nothing", "pauses", "timeout.first_token", {"first_s": 3600}, limits={"first_token_s": FROM_START_S},
        plot=("started",), error={"limit": "first_token_s"}, phases=STOPPED, exit=143,
    ),
    HostileCase(
        "falls silent", "waits", "timeout.idle", {"where": "sleep"}, limits={"idle_s": AFTER_OUTPUT_S},
        error={"limit": "idle_s"}, phases=STOPPED, exit=143,
    ),
    HostileCase(
        "computes in native code before its first token", "hold_gil", "timeout.first_token",
        {"silent": True, "patient": True}, limits={"first_token_s": FROM_START_S}, plot=("started",),
        error={"limit": "first_token_s"}, phases=KILLED_UNACKNOWLEDGED, exit="SIGKILL",
    ),
    HostileCase(
        "falls silent in native code", "hold_gil", "timeout.idle", limits={"idle_s": AFTER_OUTPUT_S},
        error={"limit": "idle_s"}, phases=KILLED_UNACKNOWLEDGED, exit="SIGKILL",
    ),
    HostileCase(
        "falls silent as it stops itself", "stops_itself", "timeout.idle", limits={"idle_s": AFTER_OUTPUT_S},
        error={"limit": "idle_s"}, phases=STOPPED, exit=143,
    ),
    HostileCase(
        "falls silent and ignores SIGTERM", "ignores_term", "timeout.idle", limits={"idle_s": AFTER_OUTPUT_S},
        error={"limit": "idle_s"}, phases=KILLED_UNDELIVERED, grace_s=GRACE_S, exit="SIGKILL",
    ),
    HostileCase(
        "hangs in an operation", "loads", "timeout.operation", {"inner_s": AFTER_OUTPUT_S},
        error={"limit": "operation_s", "operation": "load/download"}, phases=STOPPED, exit=143,
    ),
    HostileCase(
        "hangs in native code in an operation", "loads", "timeout.operation",
        {"inner_s": AFTER_OUTPUT_S, "work": "native"}, error={"operation": "load/download"},
        phases=KILLED_UNACKNOWLEDGED, exit="SIGKILL",
    ),
    # However late a busy machine lets it hear; and who was rung is not used again.
    HostileCase(
        "catches the end of an operation and goes on", "tries_again", "", {"times": 2}, limits={"ack_s": None},
        tokens=("fetch", "fetch"), exit=0,
    ),
    HostileCase(
        "hangs in native code in an operation whose end is to be raised", "loads", "timeout.operation",
        {"inner_s": AFTER_OUTPUT_S, "work": "native", "on_timeout": "raise"}, error={"operation": "load/download"},
        phases=KILLED_UNACKNOWLEDGED, exit="SIGKILL",
    ),
    HostileCase(
        "computes longer than run_s", "hold_gil", "timeout.run", {"patient": True}, limits={"run_s": FROM_START_S},
        error={"limit": "run_s"}, phases=KILLED_UNACKNOWLEDGED, exit="SIGKILL",
    ),
]  # fmt: skip

TABLE = (*COMPUTING, *NOT_STOPPING, *BAD_ENDINGS, *TOO_MUCH_OUTPUT, *OVER_LIMITS, *LEAVING_PROCESSES)


def _kinds(table: Iterable[HostileCase]) -> list[HostileCase]:
    return list({(case.code, case.settle, case.keeps_worker): case for case in table}.values())


ONE_OF_EACH_KIND, ANOTHER_OF_EACH_KIND = _kinds(TABLE), _kinds(reversed(TABLE))
"""A hostile job of each kind, where a worker for each of them all would be an interpreter that starts: the last of the
table, and the first."""
