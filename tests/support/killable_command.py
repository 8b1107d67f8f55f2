"""The real command `killable`, and a real `killable serve` started by it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from support.forked_command import Constants, ForkedProcess
from support.processes import ProcessInfo, descendants, shared_servers
from support.waiting import until_empty

from killable.api.client.client import Client

Serve = Callable[..., "Server"]
"""The fixture `serve`: starts one with these arguments."""

Process = ForkedProcess | subprocess.Popen[str]

COMMAND = [sys.executable, "-m", "killable.api.cli"]
"""The program, where the start is what is tested, or what the system knows of the process."""


class Command:
    """The command in a folder, talking to one server."""

    def __init__(
        self, folder: Path, url: str = "", *, program: Sequence[str] = (), constants: Constants | None = None
    ) -> None:
        """`program`: what has the command in itself, or becomes it; it is executed, in place of a fork.

        `constants` of a fork, by module and name, have these values.
        """
        self.folder = folder
        self.url = url
        self._program = program
        self._constants = constants or {}

    def start(self, *args: str, **options: Any) -> Process:
        """Start it, with a descriptor or PIPE for each of its streams. Other options of `Popen` need a `program`."""
        env = self._environment(options.pop("env", {}))
        if not self._program:
            return ForkedProcess(args, self.folder, env, constants=self._constants, **options)
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([*self._program, *args], cwd=self.folder, env=env, text=True, **streams | options)

    def run(self, *args: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run it to its end, without input."""
        with self.start(*args, env=env or {}) as process:
            try:
                said = process.communicate(timeout=240)
            finally:
                process.kill()
        return subprocess.CompletedProcess(args, process.returncode, *said)

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KILLABLE_")}
        return environment | ({"KILLABLE_URL": self.url} if self.url else {}) | dict(more)

    def ok(self, *args: str) -> str:
        done = self.run(*args)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    def json(self, *args: str) -> Any:
        return json.loads(self.ok(*args, "--json"))


class Server:
    """One `killable serve`, and all that is below it."""

    def __init__(self, command: Command, *args: str, **options: Any) -> None:
        """`options`: those of `Command.start`."""
        self.process = command.start("serve", *args, "--json", **options)
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        self.announcement = json.loads(line)
        self.url: str = self.announcement["url"]

    def die(self) -> str:
        """SIGKILL; return what it said, when nothing that was below it is there any more."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        said = self.process.communicate(timeout=240)[1]
        until_empty(lambda: [process for process in below if process.is_running()], "nothing outlives the server")
        return said

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, list[psutil.Process], str]:
        """Return the exit code, what was below it and is still there, and what it said."""
        below = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.send_signal(number)
        err = self.process.communicate(timeout=240)[1]
        return self.process.returncode, [process for process in below if process.is_running()], err


class SharedServer(Server):
    """A server of several tests, each of which leaves it as if it had not been there."""

    def __init__(self, command: Command, *args: str, **options: Any) -> None:
        super().__init__(command, *args, **options)
        shared_servers.add(self.process.pid)
        with client_of(self.url) as client:
            workers = {worker["pid"] for worker in client.workers()}
        self._own = {(seen.pid, seen.started) for seen in descendants(self.process.pid) if seen.pid not in workers}
        """Its guards and zygotes."""

    def tidy(self) -> None:
        """End what a test has left to run; then there are its workers and nothing else below it."""
        with client_of(self.url) as client:
            client.undrain()
            client.cancel_matching(state="active", grace_s=0)

            def strangers() -> list[ProcessInfo]:
                below = descendants(self.process.pid)
                known = {worker["pid"] for worker in client.workers()} | self._checking(below)
                return [seen for seen in below if seen.pid not in known and (seen.pid, seen.started) not in self._own]

            until_empty(strangers, "only guards, zygotes and workers are below the server")
            assert list(client.jobs(state="active")) == []

    def _checking(self, below: list[ProcessInfo]) -> set[int]:
        """Return the processes that check inputs: a guard that came later than those of the pools, and all below it."""
        guards = [
            seen for seen in below if seen.parent == self.process.pid and (seen.pid, seen.started) not in self._own
        ]
        return {seen.pid for guard in guards for seen in (guard, *descendants(guard.pid))}

    def close(self) -> None:
        try:
            code, left, said = self.stop()
        finally:
            shared_servers.discard(self.process.pid)
        assert (code, left) == (0, []), said


@contextmanager
def client_of(url: str) -> Iterator[Client]:
    """Connect to a server of this machine. Certificates, which take 20 ms to read, are left out."""
    with httpx.Client(verify=False, trust_env=False) as http, Client(url, http=http) as client:
        yield client


def read_line(process: Process) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def start_detached(
    command: Command, type: str, *, limits: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None,
    **input: str,
) -> str:  # fmt: skip
    """Start a job and return its id when its function has yielded; not by the command, which costs more."""
    with client_of(command.url) as client:
        job = client.submit(type, input, limits=limits or {}, tags=tags or {})
        assert next(iter(job)) == "tick\n"
    return job.id


def open_gate(gate: str) -> None:
    """Let the job through that waits at the named pipe."""
    open(gate, "wb").close()
