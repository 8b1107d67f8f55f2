"""The command `killable`, run in a fork of a process that has already imported all of it.

That saves half a second of processor time for each run, and a second for each server. The output, the exit code, the
signals and the effects on a server are those of the command; its command line, as others see it, and its memory are
not.
"""

from __future__ import annotations

import atexit
import io
import multiprocessing
import operator
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from io import FileIO
from multiprocessing import forkserver, reduction, resource_tracker
from pathlib import Path
from typing import Any, Self, TextIO
from unittest.mock import patch

from support.processes import permanent_pids

MODULE = "killable.api.cli"
Constants = Mapping[str, Mapping[str, Any]]
_TESTS = str(Path(__file__).parents[1])

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["support.preloaded"])


def start_importing() -> None:
    """Start the process that is forked, and what the library starts with it; they end with this one."""
    with patch.dict(os.environ, PYTHONPATH=_TESTS):  # a fork has an environment of its own
        forkserver.ensure_running()
    permanent_pids.update((forkserver._forkserver._forkserver_pid, resource_tracker._resource_tracker._pid))


class ForkedProcess:
    """A run of the command, with what tests use of `subprocess.Popen`."""

    def __init__(
        self,
        args: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        constants: Constants | None = None,
        script: str = "",
    ) -> None:
        """Each stream is a descriptor, PIPE or DEVNULL. `constants` have other values there, by module and name.

        `script`: the file to run in place of the module, as when its path is executed.
        """
        self.args = args
        self.returncode: int | None = None
        self.stdin: FileIO | None = None
        self.stdout: TextIO | None = None
        self.stderr: TextIO | None = None
        with ExitStack() as theirs:
            if stdin == subprocess.PIPE:
                stdin, writable = os.pipe()
                theirs.callback(os.close, stdin)
                self.stdin = FileIO(writable, "wb")
            streams = [_descriptor(stdin, os.O_RDONLY, theirs)]
            for name, given in (("stdout", stdout), ("stderr", stderr)):
                if given == subprocess.PIPE:
                    readable, given = os.pipe()
                    theirs.callback(os.close, given)
                    setattr(self, name, os.fdopen(readable))
                streams.append(_descriptor(given, os.O_WRONLY, theirs))
            passed = [_Passed(descriptor) for descriptor in streams]
            arguments = list(args), str(folder), dict(environment), passed, dict(constants or {}), script
            # Not joined at the end of a run that was killed: it would wait for a server that nobody ends any more.
            self._process = _context.Process(target=_become, args=arguments, daemon=True)
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def sentinel(self) -> int:
        """A descriptor that can be read from when it has ended, until that was noticed."""
        return self._process.sentinel

    def poll(self) -> int | None:
        """Return the exit code, or None as long as it runs."""
        if self.returncode is None and (code := self._process.exitcode) is not None:
            self._process.join()
            self._process.close()
            self.returncode = code
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code. Raise TimeoutExpired."""
        if self.returncode is None:
            self._process.join(timeout)
            if self.poll() is None:
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what is still to be read of stdout and stderr, when it has ended. Raise TimeoutExpired."""
        said = ["", ""]

        def read(at: int, stream: TextIO | None) -> None:
            if stream is not None and not stream.closed:
                said[at] = stream.read()
                stream.close()

        readers = [threading.Thread(target=read, args=each) for each in enumerate((self.stdout, self.stderr))]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
        return said[0], said[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()


class _Passed:
    """A descriptor that is a number of the other process when it arrives there."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return operator.methodcaller("detach"), (reduction.DupFd(self._descriptor),)


def _descriptor(given: int, flags: int, opened: ExitStack) -> int:
    if given != subprocess.DEVNULL:
        return given
    descriptor = os.open(os.devnull, flags)
    opened.callback(os.close, descriptor)
    return descriptor


def _become(
    args: list[str], folder: str, environment: dict[str, str], streams: list[int], constants: Constants, script: str
) -> None:
    """In the fork: with its streams, its environment and its folder, as if it had been started with them."""
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # it has children
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = os.fdopen(0, closefd=False)  # the library has put /dev/null in its place
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), line_buffering=os.isatty(1))
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), errors="backslashreplace", line_buffering=True)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[0] = os.path.dirname(script) or folder
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = [script or MODULE, *args]
    for module, values in constants.items():
        patch.multiple(module, **values).start()  # fails without that name
    try:
        if script:
            runpy.run_path(script, run_name="__main__")
        else:
            runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()
