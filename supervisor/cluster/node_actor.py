"""A node host in a process of Ray's: its own thread and event loop, in which it also listens.

Runs in: supervisor, on a node. Imports nothing of Ray. It is a class of plain methods, as Ray wants its actors; an
actor of coroutines would get uvloop where that is installed, whose clock has whole milliseconds.
"""

from __future__ import annotations

import asyncio
import threading

from killable.supervisor.cluster.node_host import NodeHost
from killable.supervisor.cluster.node_listener import NodeListener
from killable.supervisor.linux import node_sockets, own_interpreter, process_exit, ray_settings
from killable.supervisor.settings import Settings
from killable.workers.errors import KillableError

START_S = 60.0
"""How long the pools may take to start."""
MONITOR_IS_ON = (
    "Ray's memory monitor is on there, which ends the whole node for one greedy job:"
    f" {ray_settings.MEMORY_MONITOR}=0 before `ray start`"
)
GUARDS_ARE_KILLED = "Ray is told by {} to kill what an actor has started, its guards too: unset it before `ray start`"


class NodeActor:
    """One incarnation of a node."""

    def __init__(self, settings: Settings, address: str) -> None:
        """`address` is that of its machine, by which the others reach it."""
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="killable-node", daemon=True)
        self._thread.start()
        self._host = NodeHost(settings, on_end=process_exit.leave)
        self._started = asyncio.run_coroutine_threadsafe(self._start(address), self._loop)

    async def _start(self, address: str) -> tuple[int, bytes]:
        """Return the port at which it listens, and the secret. Raise OSError, StartRefused, ValueError."""
        await self._host.start()
        own_interpreter.freeze_collector()  # Ray's modules, too: to go through them holds up every kill
        own_interpreter.let_threads_in()
        listener = NodeListener(self._host.call, tls=node_sockets.tls(listens=True))
        return await listener.start(address), listener.secret

    def start(self) -> tuple[str, int, bytes, str]:
        """Return when the pools are started: why they cannot be; the port at which it can be called, and the secret
        that who calls it has to know; what is wrong with this machine.
        """
        try:
            port, secret = self._started.result(START_S)
        except (OSError, KillableError, ValueError) as error:  # a TimeoutError is an OSError
            return f"{type(error).__name__}: {error}", 0, b"", ""
        return "", port, secret, _trouble()


def _trouble() -> str:
    """Return what is wrong with this machine: its raylet's environment, which an actor has, too, with our changes."""
    if kills := ray_settings.kills_guards() or ray_settings.kills_children():
        return GUARDS_ARE_KILLED.format(kills)
    return MONITOR_IS_ON if ray_settings.has_memory_monitor() else ""
