"""A script `killable` for the front of PATH: whoever runs it has the installed one run in a fork (`forked_command.py`).

The script starts without `site` and imports little. It hands over its arguments, folder, environment and streams,
passes signals on, and ends as the fork does.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

from support.forked_command import Constants, ForkedProcess

REQUEST_BYTES_MAX = 1 << 17
PASSED_ON = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM]

_SCRIPT = """\
#!{python} -IS
import json, os, signal, socket, sys

there = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
there.connect({address!r})
for number in {passed_on!r}:
    signal.signal(number, lambda number, _: there.send(b"%d" % number))
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)])
socket.send_fds(there, [request.encode()], [0, 1, 2])
code = int(there.recv(16))
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


class ForkedScript:
    """The folder with the script, and the thread that starts the forks."""

    def __init__(self, folder: Path, *, of_servers: Constants | None = None) -> None:
        """`of_servers`: constants that have other values there, by module and name. Raise FileNotFoundError where the
        real one is not installed.
        """
        self.folder = folder
        self._of_servers = of_servers or {}
        real = shutil.which("killable", path=str(Path(sys.executable).parent))
        if real is None:
            raise FileNotFoundError("killable is not installed beside this Python")
        self._real = real
        folder.mkdir()
        address = str(folder / "socket")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(address)
        self._listener.listen()
        script = folder / "killable"
        numbers = [int(number) for number in PASSED_ON]
        script.write_text(_SCRIPT.format(python=sys.executable, address=address, passed_on=numbers))
        script.chmod(0o755)
        self._end, self._ended = socket.socketpair()
        self._running: dict[int, tuple[ForkedProcess, socket.socket]] = {}
        """By sentinel: the forks, and whom each is for."""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._ended, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Kill what still runs."""
        self._end.close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self) -> None:
        """One thread for all: `multiprocessing` lets no two look at the end of one process."""
        with self._selector, self._listener, self._ended:
            while True:
                for key, _ in self._selector.select():
                    if key.fileobj is self._ended:
                        self._kill_all()
                        return
                    if key.fileobj is self._listener:
                        connection, _ = self._listener.accept()
                        process = self._start(connection)
                        self._running[process.sentinel] = process, connection
                        self._selector.register(process.sentinel, selectors.EVENT_READ)
                        self._selector.register(connection, selectors.EVENT_READ, process)
                    elif key.fd in self._running:
                        self._selector.unregister(key.fd)
                        self._answer(*self._running.pop(key.fd))
                    elif isinstance(connection := key.fileobj, socket.socket) and connection.fileno() >= 0:
                        self._pass_on(connection, key.data)

    def _pass_on(self, connection: socket.socket, process: ForkedProcess) -> None:
        if received := connection.recv(16):
            process.send_signal(int(received))
        else:  # the script was killed: this ends as the program would have
            self._selector.unregister(connection)
            process.kill()

    def _answer(self, process: ForkedProcess, connection: socket.socket) -> None:
        if connection in self._selector.get_map():
            self._selector.unregister(connection)
        with connection, suppress(BrokenPipeError):  # the script was killed
            connection.send(b"%d" % process.wait())

    def _kill_all(self) -> None:
        for process, connection in self._running.values():
            process.kill()
            process.wait()
            connection.close()

    def _start(self, connection: socket.socket) -> ForkedProcess:
        request, streams, _, _ = socket.recv_fds(connection, REQUEST_BYTES_MAX, 3)
        arguments, folder, environment = json.loads(request)
        try:
            stdin, stdout, stderr = streams
            return ForkedProcess(
                arguments, Path(folder), environment, stdin=stdin, stdout=stdout, stderr=stderr, script=self._real,
                constants=self._of_servers if arguments[:1] == ["serve"] else {},
            )  # fmt: skip
        finally:
            for each in streams:
                os.close(each)
