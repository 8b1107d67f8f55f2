"""A network of the tests' own, so that no port of Ray's meets another program; in it a machine that can be cut off.

Runs in: the tests by hand, and `demo.py`. Ray listens on every address of a machine: in a network that has only a
loopback device nobody else reaches it. That needs root. Without it the tests use the machine's own network.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
from support.waiting import until

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
HERE, FAR = "198.18.0.1", "198.18.0.2"
"""Addresses for tests of networks (RFC 2544), which exist in our own ones only."""
BESIDE = "198.18.0.3"
"""Another one of this side."""
NOBODY = "02:00:00:00:00:99"
"""A link address that no device has: what is sent there is lost without a word, as by a pulled plug."""

TRY = (sys.executable, "-c", "import own_network; own_network._leave_network()")
"""Tells by its exit code whether there can be a network of one's own: some sandboxes give one that has no loopback."""

_is_own = False


def have_own_network() -> bool:
    """Give this thread, and all that it starts, a network with nothing but a loopback device; return whether it has
    one. Once.
    """
    global _is_own
    if not _is_own and subprocess.run(TRY, stderr=subprocess.DEVNULL, env=_with_this_folder()).returncode == 0:
        _leave_network()
        _is_own = True
    return _is_own


def _with_this_folder() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def _leave_network() -> None:
    """Raise OSError: it cannot be. Where only the device fails, there is no network then."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))


def why_no_far_machine() -> str:
    """Return why there cannot be a machine that is cut off; empty: there can."""
    if not have_own_network():
        return "network namespaces need root"
    missing = [program for program in ("ip", "unshare", "nsenter") if shutil.which(program) is None]
    return f"not installed: {', '.join(missing)} (iproute2, util-linux)" if missing else ""


class FarMachine:
    """A network at the other end of a line. It is gone with the process that holds it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.enter = ("nsenter", f"--net=/proc/{self._holder.pid}/ns/net")
        """Before a command that runs there."""
        until(lambda: _network_of(self._holder.pid) != _network_of(os.getpid()), "it has a network")
        try:
            _run("ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(self._holder.pid))
            _run("ip", "address", "add", f"{HERE}/24", "dev", "near")
            _run("ip", "address", "add", f"{BESIDE}/24", "dev", "near")
            _run("ip", "link", "set", "near", "up")
            _run(*self.enter, "ip", "address", "add", f"{FAR}/24", "dev", "far")
            _run(*self.enter, "ip", "link", "set", "far", "up")
            _run(*self.enter, "ip", "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    @contextmanager
    def cut_off(self, *, answers_only: bool = False) -> Iterator[None]:
        """Lose what is sent to it and what it sends; or only the latter."""
        lost = [(("ip",), FAR, "near")] if not answers_only else []
        lost += [((*self.enter, "ip"), address, "far") for address in (HERE, BESIDE)]
        for ip, address, device in lost:
            _run(*ip, "neighbour", "replace", address, "lladdr", NOBODY, "dev", device, "nud", "permanent")
        try:
            yield
        finally:
            for ip, address, device in lost:
                _run(*ip, "neighbour", "delete", address, "dev", device)

    @contextmanager
    def powered_off(self) -> Iterator[None]:
        """End all that runs there at once, with its network: nobody hears of it, also of no end of a connection."""
        with self.cut_off():
            while left := [pid for pid in psutil.pids() if pid != self._holder.pid and self._is_there(pid)]:
                for pid in left:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            yield

    def _is_there(self, pid: int) -> bool:
        try:
            return _network_of(pid) == _network_of(self._holder.pid)
        except OSError:  # it has ended
            return False

    def close(self) -> None:
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait()


def _network_of(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
