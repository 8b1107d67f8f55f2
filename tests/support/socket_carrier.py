"""A carrier to nodes in processes of their own: they can be killed or frozen, and they outlive their head.

Runs in: the tests. Implements `cluster.carrier.Carrier`.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from support import node_process

from killable.supervisor.cluster.carrier import CarrierError, HostGone, HostPlace, Machine, Request
from killable.supervisor.settings import Settings


class SocketCarrier:
    """`folder` has a socket and a log for each node. A later carrier of this folder finds the nodes of the first."""

    trouble = ""

    def __init__(self, folder: Path, settings: Settings, names: Sequence[str]) -> None:
        self._folder = folder
        self._settings = settings
        self.names = list(names)
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        """Those that it has started."""
        self.refuses: set[str] = set()
        """Nodes on which nothing is started."""

    async def open(self) -> None: ...

    async def members(self) -> Sequence[Machine]:
        return [Machine(name) for name in self.names]

    def path(self, node: str) -> Path:
        return self._folder / node

    def forget(self, node: str) -> None: ...
    async def request(self, wanted: Request) -> None: ...

    async def start(self, node: str) -> None:
        if node in self.refuses:
            raise CarrierError(f"nothing is started on {node}")
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_unix_connection(self.path(node))
            writer.close()
            return
        with (self._folder / f"{node}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, node_process.__file__, str(self.path(node)), stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        self.processes[node] = process
        process.stdin.write(pickle.dumps(self._settings))
        process.stdin.close()
        if not await process.stdout.readline():
            raise CarrierError((self._folder / f"{node}.log").read_text())

    async def call(self, node: str, method: str, message: bytes) -> bytes:
        try:
            reader, writer = await asyncio.open_unix_connection(self.path(node))
        except OSError as error:
            raise HostGone(f"{node} is not there: {error}") from error
        try:
            writer.write(node_process.HEAD.pack(len(method), len(message)) + method.encode() + message)
            answer = await reader.read()
        except OSError as error:
            raise CarrierError(str(error)) from error
        finally:
            writer.close()
        if not answer:
            raise CarrierError(f"{node} has not answered")
        return answer

    def place(self, node: str) -> HostPlace:
        """Return where else a node listens: at a port, as nodes do over Ray."""
        return HostPlace("127.0.0.1", *pickle.loads(node_process.place_of(self.path(node)).read_bytes()))

    async def close(self) -> None:
        for process in self.processes.values():
            await process.wait()

    def kill(self, node: str) -> None:
        """Send SIGKILL to a node's process, and to nothing that it has started."""
        self.processes[node].send_signal(signal.SIGKILL)


class SocketLauncher(SocketCarrier):
    """Only starts them. Implements `cluster.carrier.Launcher`."""

    async def start(self, node: str) -> HostPlace:  # type: ignore[override]
        await super().start(node)
        return self.place(node)
