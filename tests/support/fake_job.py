"""The code that runs in a fake worker: our harness, and a job that follows its script.

Runs in: the test process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from support.fake_world import NEVER, Life, Script, Truth

from killable.supervisor.ports import ProcessorUse, Sample
from killable.workers.protocol.frames import encode
from killable.workers.protocol.messages import (
    NOTIFY_ACKNOWLEDGED,
    NOTIFY_EXPIRED,
    NOTIFY_REPLACED,
    NOTIFY_SWALLOWED,
    Idle,
    Kind,
    OperationEntered,
    OperationLeft,
    Raised,
)

if TYPE_CHECKING:
    from support.fake_process import FakeProcess

OWN_BYTES, SHARED_BYTES = 8 << 20, 4 << 20
"""What a worker holds by itself, and what files of it are shared with others."""


class FakeJob:
    """One attempt after the other."""

    def __init__(self, process: FakeProcess) -> None:
        self._process = process
        self._truth: Truth | None = None
        """Of the attempt on the stack."""
        self._plan = 0
        """What was planned under another number does not happen."""
        self._served = 0
        self._sequence = 0
        self._swallows = 0
        self._acknowledged = False
        self._operations: list[int] = []
        """Those that it is in."""
        self._expired = False
        """Of the end of its operation."""
        self._used = ProcessorUse(0.0, 0.0, 1)
        """Before this attempt."""
        self._busy_since = 0.0

    # ── what is measured of it ──

    def processor_use(self) -> ProcessorUse:
        if self._truth is None:
            return self._used
        busy_s, script = self._process.world.now() - self._busy_since, self._truth.script
        cpu_s, main_cpu_s, main_runs = self._used
        return ProcessorUse(
            cpu_s + busy_s * script.cpu,
            (main_cpu_s or 0.0) + busy_s * min(1.0, script.cpu) * script.main_share,
            (main_runs or 0) + int(busy_s * script.wakes_per_s),
        )

    def sample(self, *, cpu: bool = False, at_most: int = 1 << 16) -> Sample:
        others = min(self._children(), max(0, at_most - 1))
        return Sample(
            self._own_bytes(),
            others * (self._truth.script.child_bytes if self._truth is not None else 0),
            1 + others,
            self.processor_use().cpu_s if cpu else 0.0,
            threads=1 + others,
            resident_bytes=SHARED_BYTES + self._own_bytes(),
            newest_pid=self.processes(),
        )

    def exactly(self, sample: Sample) -> Sample:
        own = self._truth.script.child_own_bytes if self._truth is not None else 0
        return sample._replace(others_bytes=min(self._children(), sample.processes - 1) * own, proven=True)

    def held_bytes(self) -> int:
        """What its attempt has taken, with what its children hold alone."""
        if self._truth is None:
            return 0
        return self._own_bytes() - OWN_BYTES + self._children() * self._truth.script.child_own_bytes

    def processes(self) -> int:
        return 1 + self._children()

    def _own_bytes(self) -> int:
        if self._process.life is not Life.RUNNING:
            return 0
        busy_s = 0.0 if self._truth is None else self._process.world.now() - self._busy_since
        return OWN_BYTES + int(busy_s * (0 if self._truth is None else self._truth.script.grows))

    def _children(self) -> int:
        return self._truth.script.children if self._truth is not None and self._truth.entered else 0

    # ── its process ──

    def begin(self, truth: Truth) -> None:
        script = truth.script
        self._truth = truth
        self._served += 1
        self._busy_since = self._process.world.now()
        self._plan += 1
        self._sequence, self._swallows, self._acknowledged = 0, script.swallows, False
        self._operations, self._expired = [], False
        if script.late_frame:
            self._process.pipes.write(Kind.TOKEN, truth.fence - 1, 7, b'{"text":"late"}')
        self._in(script.enter_s, self._enter)

    def end(self) -> None:
        """The process is dead."""
        self._used = self.processor_use()
        self._truth = None
        self._plan += 1

    def retire(self) -> None:
        """The orders have ended: an idle worker leaves."""
        if self._truth is None:
            self._process.world.soon(self._leave)

    def on_term(self) -> None:
        truth = self._truth
        if truth is None or truth.closing is not None:
            return  # it belongs to no attempt
        if truth.replaced_at is not None or (truth.script.replaces and truth.entered):
            self._in(truth.script.cleanup_s, lambda: self._process.die(exit_code=truth.script.exit_code))
        elif not truth.stop_ordered:
            if truth.expire_ordered:  # else: a signal without an order does nothing
                self._in(truth.script.acknowledge_s, self._take_expiry)
        elif self._acknowledged:
            self._obey()
        else:
            self._in(truth.script.acknowledge_s, self._acknowledge)

    def _in(self, delay: float, act: Callable[[], None]) -> None:
        plan = self._plan

        def due() -> None:
            if self._process.runs and self._plan == plan:
                act()

        self._process.world.later(delay, due)

    def _running(self) -> Truth:
        assert self._truth is not None
        return self._truth

    def _write(self, kind: Kind, payload: bytes) -> None:
        self._process.pipes.write(kind, self._running().fence, self._sequence, payload)
        self._sequence += 1

    # ── the job by itself ──

    def _enter(self) -> None:
        truth = self._running()
        script = truth.script
        if script.enters:
            truth.entered = True
            self._write(Kind.ENTERED, b"{}")
            if script.replaces:
                self._process.pipes.notify(NOTIFY_REPLACED)
            if script.operation:
                self._enter_operations(truth)
            self._plan_output(script)
        self._in(script.run_s, self._end)

    def _enter_operations(self, truth: Truth) -> None:
        script = truth.script
        raises = script.operation == "raise"
        for number, path in ((1, "load"), (2, "load/download")):
            seconds = truth.limits["operation_s"].get(path, script.operation_s if number == 2 else NEVER)
            timeout_s = None if seconds in (None, NEVER) else seconds
            self._operations.append(number)
            self._write(Kind.OPERATION, OperationEntered(number, path, timeout_s, raises, number - 1).encode())
        self._in(script.leaves_s, self._leave_operations)

    def _leave_operations(self) -> None:
        """The inner one is left with the outer one, its own word cut off."""
        if self._operations:
            self._operations.clear()
            self._write(Kind.OPERATION_LEFT, OperationLeft(1).encode())

    def _plan_output(self, script: Script) -> None:
        pace = (script.run_s if script.run_s != NEVER else 1.0) / (script.tokens + script.lines + 1)
        for step in range(script.tokens):
            self._in(pace * (step + 1), self._emit)
        for step in range(script.lines):
            self._in(pace * (step + 1), lambda: self._process.pipes.print(b"a line\nand a part of "))

    def _emit(self) -> None:
        truth = self._running()
        token = b'{"text":"%d"}' % len(truth.tokens)
        truth.tokens.append(token)
        self._write(Kind.TOKEN, token)

    def _end(self) -> None:
        truth = self._running()
        script = truth.script
        match script.end:
            case "returns" if truth.entered:
                self._close(Kind.RESULT, b'"value"')
            case "returns" | "raises":
                cause = "exception" if truth.entered else "payload"
                self._close(Kind.RAISED, Raised(cause, "ValueError", "no luck").encode())
            case "exits":
                self._process.die(exit_code=script.exit_code)
            case "dies":
                self._process.die(signal=script.signal)
            case "torn":
                self._process.pipes.write_bytes(encode(Kind.TOKEN, truth.fence, self._sequence, b"x" * 99)[:40])
                self._process.die(exit_code=0)
            case "closes and stays":
                truth.closing = (Kind.RAISED, b"")
                self._write(Kind.RAISED, Raised("exception", "ValueError", "no luck").encode())
            case nonsense:
                truth.nonsense = True
                self._talk(nonsense)

    def _talk(self, nonsense: str) -> None:
        """And then compute for ever."""
        match nonsense:
            case "garbage":
                self._process.pipes.write_bytes(b"\xff" * 64)
            case "gap":
                self._sequence += 1
                self._write(Kind.PROGRESS, b"{}")
            case "enters twice":
                self._write(Kind.ENTERED, b"{}")
                self._write(Kind.ENTERED, b"{}")
                self._running().entered = True
            case "closes twice":
                self._write(Kind.RAISED, Raised("exception").encode())
                self._write(Kind.RAISED, Raised("exception").encode())
            case _:
                raise AssertionError(nonsense)

    def _close(self, kind: Kind, payload: bytes, exit_code: int = 0) -> None:
        process, truth = self._process, self._running()
        self._leave_operations()
        truth.closing = (kind, payload)
        self._write(kind, payload)
        jobs_max = process.spawner.spec.jobs_per_worker_max
        stays = (jobs_max == 0 or self._served < jobs_max) and not truth.script.children
        self._write(Kind.IDLE, Idle(stays).encode())
        if stays:
            truth.tree_empty = not process.was_signalled
            self.end()
            if process.is_leaving:
                process.world.soon(self._leave)
        elif truth.script.lingers_s != NEVER:
            self._in(truth.script.lingers_s + 0.0001, lambda: process.die(exit_code=exit_code))

    def _leave(self) -> None:
        if self._process.runs and self._truth is None:
            self._process.die(exit_code=0)

    # ── the job when it is stopped ──

    def _acknowledge(self) -> None:
        """Python's handler runs."""
        if not self._acknowledged and self._running().closing is None:
            self._acknowledged = True
            self._process.stack_text = 'File "job.py", line 2 in python'
            self._process.pipes.notify(NOTIFY_ACKNOWLEDGED)
            self._obey()

    def _take_expiry(self) -> None:
        """`OperationTimedOut` is raised, if it still is in that operation."""
        truth = self._running()
        if truth.closing is not None or truth.stop_ordered:
            return  # what it reads then is the stop, and its signal is on its way
        if self._expired:
            return
        self._process.pipes.notify(NOTIFY_EXPIRED)
        if truth.expire_ordered not in self._operations:
            return
        if self._swallows > 0:
            self._swallows -= 1
            self._process.pipes.notify(NOTIFY_SWALLOWED)
            return
        self._expired = True
        if truth.script.catches == "leaves":
            self._leave_operations()
        elif not truth.script.catches:
            self._plan += 1
            timed_out = Raised("operation", "OperationTimedOut", "too long").encode()
            self._in(truth.script.cleanup_s, lambda: self._close(Kind.RAISED, timed_out))

    def _obey(self) -> None:
        """`Stopping` is raised."""
        truth = self._running()
        script = truth.script
        if not truth.entered:
            self._plan += 1
            self._in(0.0001, lambda: self._close(Kind.RAISED, Raised("stopped").encode(), 143))
        elif self._swallows > 0:
            self._swallows -= 1
            self._process.pipes.notify(NOTIFY_SWALLOWED)
        else:
            self._plan += 1
            for step in range(script.cleanup_tokens):
                self._in(script.cleanup_s * (step + 1) / (script.cleanup_tokens + 1), self._emit)
            if script.cleanup_returns:
                self._in(script.cleanup_s, lambda: self._close(Kind.RESULT, b'"cleaned"'))
            else:
                self._in(script.cleanup_s, lambda: self._close(Kind.RAISED, Raised("stopped").encode(), 143))
