"""A node host in a process of Ray's: its own thread and event loop, called from Ray's threads.

Runs in: supervisor, on a node. Imports nothing of Ray. It is a class of plain methods, as Ray wants its actors; an
actor of coroutines would get uvloop where that is installed, whose clock has whole milliseconds.
"""

from __future__ import annotations

import asyncio
import threading

from killable.supervisor.cluster.node_host import NodeHost
from killable.supervisor.linux import process_exit, ray_settings
from killable.supervisor.settings import Settings
from killable.workers.errors import KillableError

START_S = 60.0
"""How long the pools may take to start."""
MONITOR_IS_ON = (
    "Ray's memory monitor is on there, which ends the whole node for one greedy job:"
    f" {ray_settings.MEMORY_MONITOR}=0 before `ray start`"
)
GUARDS_ARE_KILLED = "Ray is told by {} to kill what an actor has started, its guards too: unset it before `ray start`"
CALL_S = 120.0
"""How long a call may take: longer than any poll. The head gives up before."""


class NodeActor:
    """One incarnation of a node."""

    def __init__(self, settings: Settings) -> None:
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="killable-node", daemon=True)
        self._thread.start()
        self._host = NodeHost(settings, on_end=process_exit.leave)
        self._started = asyncio.run_coroutine_threadsafe(self._host.start(), self._loop)

    def start(self) -> tuple[str, str]:
        """Return when the pools are started: why they cannot be, and what is wrong with this machine, each if so."""
        try:
            self._started.result(START_S)
        except (OSError, KillableError, TimeoutError) as error:
            return f"{type(error).__name__}: {error}", ""
        return "", _trouble()

    def call(self, method: str, message: bytes) -> bytes:
        """Do what a head asks for, and return the answer. After `leave` the process ends by itself."""
        return asyncio.run_coroutine_threadsafe(self._host.call(method, message), self._loop).result(CALL_S)


def _trouble() -> str:
    """Return what is wrong with this machine: its raylet's environment, which an actor has, too, with our changes."""
    if kills := ray_settings.kills_guards() or ray_settings.kills_children():
        return GUARDS_ARE_KILLED.format(kills)
    return MONITOR_IS_ON if ray_settings.has_memory_monitor() else ""
