"""A Ray cluster of this machine: nodes on addresses of their own, of which single ones can be killed.

Runs in: the tests by hand, and `demo.py`. Processes are ended by their pids: another Ray on the machine is left alone.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

TOKEN = secrets.token_hex(16)
"""Without their own network they can be reached from others."""
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_usage_stats_enabled": "0",
}
"""Of each of its processes, and of the server."""
HEAD = "127.0.0.2"
"""Not 127.0.0.1, in whose place Ray takes the address of the machine."""
STORE_BYTES = 80_000_000
START_S = 300.0
END_S = 15.0
"""How long all of it may take to end in order; then it is killed."""


class RayCluster:
    """A head of Ray without processors, and nodes with two each."""

    def __init__(self, port: int = 0, nodes: int = 0, head: str = HEAD, **changes: str) -> None:
        """`port` is one that is free without one. `changes` are of the head's environment."""
        with socket.socket() as free:
            free.bind((head, port))
            port = free.getsockname()[1]
        self.address = f"{head}:{port}"
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
        """With a short name: the paths of Unix sockets have a bound."""
        self._started: list[subprocess.Popen[bytes]] = []
        self._gcs: tuple[list[str], dict[str, str]] | None = None
        """How the one was started that `kill_gcs` has killed."""
        self._again: subprocess.Popen[bytes] | None = None
        """The one that `start_gcs` has started."""
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        """By their address."""
        try:
            self._start_head = partial(
                self._start, "--head", f"--node-ip-address={head}", f"--port={port}", "--num-cpus=0",
                "--include-dashboard=false", f"--temp-dir={self._folder.name}", changes=changes,
            )  # fmt: skip
            self.head = self._start_head()
            for number in range(nodes):
                self.add(f"127.0.0.{number + 3}")
        except BaseException:
            self.close()
            raise

    def add(self, address: str, *, within: Sequence[str] = (), **changes: str) -> None:
        """Start a node, whose label `place` is its address; return when it is there. One after the other: two that
        start at once abort. `within` comes before the command; `changes` are of its environment.
        """
        self.nodes[address] = self._start(
            f"--address={self.address}", f"--node-ip-address={address}", "--num-cpus=2", f"--labels=place={address}",
            within=within, changes=changes,
        )  # fmt: skip

    def announce_end(self, node_id: str, deadline_s: int) -> None:
        """Have Ray say that it takes a node away, as its autoscaler does of a spot instance that is called back."""
        program = [str(Path(sys.executable).with_name("ray")), "drain-node", f"--address={self.address}"]
        arguments = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=called back", f"--node-id={node_id}"]
        subprocess.run(
            [*program, *arguments, f"--deadline-remaining-seconds={deadline_s}"],
            env=environment(), check=True, timeout=START_S, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def _start(
        self, *arguments: str, within: Sequence[str] = (), changes: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start what it takes. Ray gives a node 30 seconds to begin, and gives up: a busy machine needs more."""
        give_up = time.monotonic() + START_S
        program = [*within, str(Path(sys.executable).with_name("ray")), "start", "--block", *arguments]
        while True:
            folder = Path(self._folder.name) / f"start-{len(self._started)}"
            folder.mkdir()
            log = folder / "start.log"
            with log.open("wb") as file:
                started = subprocess.Popen(
                    [*program, f"--object-store-memory={STORE_BYTES}"],
                    stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, cwd=folder,
                    env=environment(changes),
                )  # fmt: skip
            self._started.append(started)
            while b"block forever" not in log.read_bytes():
                if started.poll() is not None or time.monotonic() > give_up:
                    break
                time.sleep(0.1)
            else:
                return started
            if "timed out during startup" not in log.read_text() or time.monotonic() > give_up:
                raise RuntimeError(log.read_text())
            _kill_all(_started_in(folder))

    def kill(self, address: str) -> None:
        """Send SIGKILL to a node: to its raylet, and to the actor in which its supervisor is."""
        node = psutil.Process(self.nodes[address].pid)
        ours = [each for each in node.children(recursive=True) if _is_of_ray(each)]
        node.kill()
        for each in ours:
            each.send_signal(signal.SIGKILL)

    def kill_gcs(self) -> None:
        """Send SIGKILL to Ray's head, without what would end the rest of its machine then."""
        self.head.send_signal(signal.SIGSTOP)
        gcs = self.process(self.head, "gcs_server")
        self._gcs = gcs.cmdline(), gcs.environ()
        gcs.kill()

    def start_gcs(self) -> None:
        """Start Ray's head again as it was."""
        assert self._gcs is not None
        command, environ = self._gcs
        log = Path(self._folder.name) / "gcs-again.log"
        with log.open("wb") as file:
            self._again = subprocess.Popen(
                command, env=environ, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
                cwd=self._folder.name,
            )  # fmt: skip
        self._started.append(self._again)

    def replace_head(self) -> None:
        """Send SIGKILL to everything of Ray's head, and start it anew at the same address: it remembers nothing. Ray
        refuses that while a node of this machine still has the address.
        """
        head = psutil.Process(self.head.pid)
        _kill_all([head, *filter(_is_of_ray, head.children(recursive=True))])
        self.head.wait()
        if self._again is not None:
            self._again.kill()
            self._again.wait()
        self.head = self._start_head()

    def process(self, started: subprocess.Popen[bytes], name: str) -> psutil.Process:
        """Return the process of this name below one that was started: `raylet`, `gcs_server`."""
        return next(each for each in psutil.Process(started.pid).children(recursive=True) if each.name() == name)

    def close(self) -> None:
        """End everything of Ray's. The processes of jobs are not: who leaves one has failed."""
        for started in reversed(self._started):
            started.send_signal(signal.SIGCONT)
            started.terminate()
        give_up = time.monotonic() + END_S
        for started in self._started:
            with suppress(subprocess.TimeoutExpired):
                started.wait(max(0.0, give_up - time.monotonic()))
        for started in self._started:
            started.kill()
            started.wait()
        _kill_all(_started_in(Path(self._folder.name)))
        self._folder.cleanup()


def _started_in(folder: Path) -> list[psutil.Process]:
    """Return Ray's processes that were started in a folder or below it. Its agents outlive the rest of a node that is
    killed, and write their names over their environment and arguments.
    """
    found = []
    for each in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if Path(os.readlink(f"/proc/{each.pid}/cwd")).is_relative_to(folder) and _is_of_ray(each):
                found.append(each)
    return found


def _kill_all(processes: list[psutil.Process]) -> None:
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(processes)


def _is_of_ray(process: psutil.Process) -> bool:
    """Return whether it is Ray's own, or an actor; not what our supervisor has started below it."""
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "raylet" in command or "gcs_server" in command or "ray::" in command or "/ray/" in command


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, **ENVIRONMENT, **(more or {})}
