"""Record the time at which a process dies, in a process of its own: no event loop and no GIL delays it.

Runs in: a benchmark (PidfdWatcher) | its watching child (`python -S pidfd_watcher.py DESCRIPTOR`).

    benchmark ──pidfd, key──► child: poll(pidfds) ──key, CLOCK_MONOTONIC──► benchmark
"""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

ANSWER_S = 20.0
"""Longest wait for a death whose cause is there already; the benchmark fails after it."""
_KEY = struct.Struct("<Q")
_REPORT = struct.Struct("<QQ")
"""Key and time of death in nanoseconds; time 0: the process is being watched."""


@dataclass(frozen=True, slots=True)
class WatchedProcess:
    """A process whose time of death will be recorded; `pidfd` is the benchmark's own, opened while it was alive."""

    key: int
    pidfd: int


class PidfdWatcher:
    """The benchmark's side of the watching child; a context manager."""

    def __init__(self, answer_s: float = ANSWER_S) -> None:
        """`died_at` waits at most `answer_s`."""
        self._socket, child_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(answer_s)
        with child_socket:
            self._process = subprocess.Popen(
                [sys.executable, "-S", __file__, str(child_socket.fileno())],
                pass_fds=[child_socket.fileno()],
                start_new_session=True,  # Ctrl-C is for the benchmark
            )
        self._keys = 0
        self._dead: dict[int, float] = {}

    def watch(self, pid: int) -> WatchedProcess:
        """Open a pidfd and return once the child polls it. Raise ProcessLookupError."""
        self._keys += 1
        watched = WatchedProcess(self._keys, os.pidfd_open(pid))
        socket.send_fds(self._socket, [_KEY.pack(watched.key)], [watched.pidfd])
        while self._receive() != (watched.key, 0):
            pass
        return watched

    def died_at(self, watched: WatchedProcess) -> float:
        """Wait for a death and return its monotonic time in seconds. Blocks. Raise TimeoutError."""
        while watched.key not in self._dead:
            self._receive()
        os.close(watched.pidfd)
        return self._dead.pop(watched.key)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # a process forked from this one may hold the socket, too
        self._socket.close()
        self._process.wait()

    def _receive(self) -> tuple[int, int]:
        key, at_ns = _REPORT.unpack(self._socket.recv(_REPORT.size))
        if at_ns:
            self._dead[key] = at_ns / 1e9
        return key, at_ns

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def main(sock: socket.socket) -> None:
    """Poll pidfds and report deaths until the benchmark closes its end of the socket."""
    try:
        # A death also wakes other processes (a zygote that reaps, a supervisor). At normal priority they may run first:
        # up to 0.5 ms on two cores, while the process is dead already.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        pass  # all times are late then, those of every peer alike
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    keys: dict[int, int] = {}
    while True:
        ready = poll.poll()
        now_ns = time.monotonic_ns()
        for descriptor, _ in ready:
            if descriptor in keys:
                poll.unregister(descriptor)
                os.close(descriptor)
                sock.send(_REPORT.pack(keys.pop(descriptor), now_ns))
            else:
                try:
                    message, descriptors, _, _ = socket.recv_fds(sock, _KEY.size, 1)
                except ConnectionResetError:  # the benchmark closed without reading a report
                    return
                if not message:
                    return
                (key,) = _KEY.unpack(message)
                keys[descriptors[0]] = key
                poll.register(descriptors[0], select.POLLIN)
                sock.send(_REPORT.pack(key, 0))


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
