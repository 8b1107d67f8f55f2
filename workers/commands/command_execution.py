"""One run of a command in a worker: its streams, the signal that asks it to end, and how it ended.

Runs in: worker, main thread. The worker is a subreaper: what the command leaves is killed with the worker, as what any
job leaves. It passes on what the command writes, so a reader that is slow slows the command, as a pipe would.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from killable.workers.authoring.context import Context, Stopping
from killable.workers.commands.command_failure import CommandFailed, ProgramNotExecuted, failed_with
from killable.workers.commands.command_files import link_inputs, save_outputs
from killable.workers.commands.command_output import ErrorOutput, Sink, sink_of
from killable.workers.commands.command_spec import CommandSpec
from killable.workers.named_tuples import NamedTuple

READ_BYTES = 64 << 10
"""As much as a pipe holds."""


class Invocation(NamedTuple):
    """What one input makes of a command."""

    argv: Sequence[bytes]
    environment: Mapping[bytes, bytes]
    links: Mapping[str, str]
    """Paths of files of its input, by the name that they have in its folder."""
    stdin: bytes | str
    """What it reads, or the path of the file that it reads."""


def run(spec: CommandSpec, invocation: Invocation, context: Context) -> dict[str, Any]:
    """Run a command, emit what it prints, and return its result. End this process by the signal that ended it.

    Raise ProgramNotExecuted, CommandFailed, FileNotFoundError for an output that it has not written, OSError, TooLarge.
    """
    folder = str(context.tmp)
    link_inputs(folder, invocation.links)
    sink, errors = sink_of(spec.stdout, context), ErrorOutput()
    command = _Command(spec, context, sink, errors)
    with context.shield():  # a stop in between would not know of the process
        command.start(invocation, folder)
    try:
        command.wait()
    except Stopping:
        command.ask_to_end()
        command.wait()  # until its grace is over: then this process is killed, too
        command.reap()  # so it is nothing that is left
        raise
    code = command.reap()
    if code < 0:
        _die_of(-code)
    if code not in spec.ok_exit_codes:
        raise failed_with(code, errors.last_lines())
    result: dict[str, Any] = {"exit_code": code, **sink.result()}
    if spec.outputs:
        result["files"] = save_outputs(context, spec.outputs)
    return result


class _Command:
    """The process of a command."""

    def __init__(self, spec: CommandSpec, context: Context, sink: Sink, errors: ErrorOutput) -> None:
        self._signal = signal.Signals[f"SIG{spec.signal}"]
        self._context = context
        self._poll = select.poll()
        self._sinks: dict[int, Sink] = {}
        self._to = sink, errors
        self._process: subprocess.Popen[bytes]
        self._pidfd = -1

    def start(self, invocation: Invocation, folder: str) -> None:
        stdin = _open_stdin(invocation.stdin or os.devnull)
        try:
            self._process = subprocess.Popen(
                invocation.argv, env=invocation.environment, cwd=folder, stdin=stdin, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, process_group=0,
            )  # fmt: skip
        except OSError as error:
            program = os.fsdecode(invocation.argv[0])
            raise ProgramNotExecuted(error.errno, f"{program!r} cannot be executed: {error.strerror}") from None
        finally:
            os.close(stdin)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._poll.register(self._pidfd, select.POLLIN)
        for stream, sink in zip((self._process.stdout, self._process.stderr), self._to, strict=True):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            self._sinks[stream.fileno()] = sink
            self._poll.register(stream, select.POLLIN)

    def wait(self) -> None:
        """Pass on what it prints until it has ended. What it has started may hold its pipes open: no end-of-file."""
        while True:
            ready = [descriptor for descriptor, _ in self._poll.poll()]  # a stop is raised here, and in no read
            with self._context.shield():
                for descriptor in ready:
                    if descriptor != self._pidfd:
                        self._pass_on(descriptor)
                if self._pidfd in ready:
                    for descriptor in list(self._sinks):
                        self._drain(descriptor)
                    return

    def _pass_on(self, descriptor: int) -> bytes:
        """Pass on one piece of a stream. Return it, empty at its end or if nothing is there."""
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return b""
        if data:
            self._sinks[descriptor].take(data)
        else:
            self._poll.unregister(descriptor)
            self._sinks.pop(descriptor).close()
        return data

    def _drain(self, descriptor: int) -> None:
        """Pass on what the pipe holds: not more, as another process may go on writing."""
        sink = self._sinks[descriptor]
        room = fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
        while room > 0 and (data := self._pass_on(descriptor)):
            room -= len(data)
        if descriptor in self._sinks:
            sink.close()

    def ask_to_end(self) -> None:
        """Send it its signal, and let it run if it is stopped. It is not reaped yet, so its number is no other's."""
        for number in (self._signal, signal.SIGCONT):
            try:
                os.killpg(self._process.pid, number)
            except OSError:
                try:
                    os.kill(self._process.pid, number)  # it has left its group
                except OSError:
                    pass  # it is under another user

    def reap(self) -> int:
        """Reap it, which has ended. Return its exit code, negative the number of the signal that ended it."""
        os.close(self._pidfd)
        return self._process.wait()


def _open_stdin(stdin: bytes | str) -> int:
    """Return a descriptor of a file. Content is in memory: a pipe would have to be written while the command runs."""
    if isinstance(stdin, str):
        return os.open(stdin, os.O_RDONLY | os.O_CLOEXEC)
    content = stdin
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        written = 0
        while written < len(content):
            written += os.write(descriptor, content[written:])
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _die_of(number: int) -> NoReturn:
    """End this process by the signal that ended the command: so the job ends as one that had crashed itself."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # it has left its own
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
    os.kill(os.getpid(), number)
    raise CommandFailed(128 + number, f"signal {number}")  # it did not end this process
