"""Nodes that are actors of a Ray cluster, one on each of its machines. Only this file imports ray.

Runs in: driver, a process of the head's own (`driver_process`).

Ray places and starts the actors, knows the machines, and tells where each actor can be called, to who has its token.
It ends nothing of ours: that it says that an actor has died proves nothing of what runs there.
"""

# mypy: disable-error-code="import-not-found"
# Ray is an extra.

from __future__ import annotations

import asyncio
import io
import logging
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from killable.supervisor import event_loops
from killable.supervisor.cluster.carrier import (
    CarrierError,
    ClusterReplaced,
    ClusterUnreachable,
    HostPlace,
    Machine,
    Request,
)
from killable.supervisor.cluster.node_actor import NodeActor
from killable.supervisor.jobs.node_labels import HOST, NODE, settings_of
from killable.supervisor.linux import ray_settings
from killable.supervisor.models import StartRefused
from killable.supervisor.settings import Settings

T = TypeVar("T")

NAMESPACE = "killable"
CONNECT_S = 60.0
"""How long it may take to connect. Ray itself would try for ten minutes."""
CALLS_MAX = 4
"""Calls that an actor takes at once: each waits until its pools are started."""
ENVIRONMENT = {
    ray_settings.KILLS_CHILDREN: "0",
}
"""Of the actors."""

MEMBERS_S = 15.0
"""How long Ray may take to tell its nodes: its own call has no limit of time."""
DRAINING_S = 5.0
"""How long Ray may take to tell which of its nodes it drains."""
OTHER_CLUSTER = "WrongClusterID"
"""What Ray says in each answer to who was connected to a head that has lost its memory."""
SAID_MAX = 300
"""Characters of what Ray says that are logged."""
COLOURS = re.compile(r"\x1b\[[\d;]*m")

logger = logging.getLogger("killable.cluster")


class RayLauncher:
    """Implements `Launcher`. `open` comes first. It finds actors that another one has started in this cluster."""

    trouble = ""

    def __init__(self, address: str, settings: Settings, reserves: bool = False) -> None:
        """`address` is `auto`, or that of Ray's head: `10.0.0.1:6379`. `reserves`: whether a node reserves a processor
        for each of its slots, as far as there are so many.
        """
        self._reserves = reserves
        self._address = address
        self._settings = settings
        self._cores: dict[str, int] = {}
        self._actors: dict[str, Any] = {}
        self._node_ids: dict[str, str] = {}
        self._labels: dict[str, dict[str, str]] = {}
        self._addresses: dict[str, str] = {}
        self._looking: asyncio.Future[tuple[list[dict[str, Any]], dict[str, float]]] | None = None
        """The call that asks Ray for its nodes: one at a time, as each that is not answered keeps a thread."""

    async def open(self) -> None:
        """Connect. Raise StartRefused."""
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._in_thread(self._connect)
                ray_settings.take_signals_back()
        except (OSError, TimeoutError) as error:
            raise ClusterUnreachable(
                f"there is no Ray at {self._address} ({_line(error)}): start it with `ray start --head`, or correct"
                " cluster.ray (--ray)"
            ) from error
        except (RayError, RuntimeError, ValueError) as error:
            why = " ".join(str(error).split())
            if "ersion mismatch" in why:
                why = f"{why}; the same Python and the same Ray are needed on all machines"
            raise StartRefused(f"the Ray at {self._address} cannot be used: {why}") from error

    def _connect(self) -> None:
        """Blocks."""
        ray_settings.reach(self._address)  # where nothing listens, Ray tries for minutes
        ray_settings.stay_without_head()
        logging.getLogger("ray").setLevel(logging.ERROR)
        sys.stdout = _RaysWords()
        ray.init(
            address=self._address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR,
            configure_logging=False,
        )  # fmt: skip

    @staticmethod
    async def _in_thread(act: Callable[[], T]) -> T:
        """Ray's own calls block."""
        return await event_loops.in_thread(asyncio.get_running_loop(), act, is_waited_for=False)

    async def members(self) -> Sequence[Machine]:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._in_thread(_nodes_and_leaving))
        try:
            async with asyncio.timeout(MEMBERS_S):
                found, leaving = await asyncio.shield(self._looking)
        except TimeoutError as error:
            raise CarrierError(f"Ray has not told its machines within {MEMBERS_S:g} s") from error
        except (RayError, RuntimeError) as error:
            said = str(error)  # Ray's own words: it has no type for that
            if OTHER_CLUSTER in said:
                raise ClusterReplaced("Ray's head has lost its memory, and all its machines with it") from error
            raise CarrierError(str(error)) from error
        alive = {_name_of(node): node for node in found if node["Alive"]}
        self._actors = {name: actor for name, actor in self._actors.items() if name in alive}
        self._node_ids |= {name: node["NodeID"] for name, node in alive.items()}
        self._cores |= {name: int(node["Resources"].get("CPU", 0)) for name, node in alive.items()}
        self._addresses |= {name: node["NodeManagerAddress"] for name, node in alive.items()}
        self._labels |= {name: _labels_of(node) for name, node in alive.items()}
        return [
            Machine(name, self._labels[name], leaving.get(node["NodeID"]))
            for name, node in alive.items()
            if self._cores[name]
        ]

    async def start(self, node: str) -> HostPlace:
        try:
            actor = self._actors.get(node)
            if actor is None:
                actor = self._actors[node] = await self._in_thread(lambda: self._make(node))
            why, port, secret, trouble = await actor.start.remote()
        except (RayError, RuntimeError, ValueError) as error:
            self._actors.pop(node, None)
            raise CarrierError(_line(error)) from error
        if why:
            raise CarrierError(f"its pools do not start: {why}")
        return HostPlace(self._addresses[node], port, secret, trouble)

    def _make(self, node: str) -> Any:
        """Have Ray start an actor on this machine, unless there is one: that of a head before this one goes on.

        It outlives this process, as its jobs do, until its lease is over. Ray never starts it again by itself.
        """
        if node not in self._node_ids:
            raise ValueError("the cluster has no such machine")
        at = NodeAffinitySchedulingStrategy(self._node_ids[node], soft=False)
        labels = {**self._labels[node], NODE: node}
        settings = settings_of(self._settings, labels, self._cores[node])
        slots = sum(pool.workers for pool in settings.pools)
        reserved = min(slots, self._cores[node]) if self._reserves else 0
        options = ray.remote(NodeActor).options(
            name=_actor_of(node), lifetime="detached", get_if_exists=True,
            num_cpus=reserved, max_restarts=0, max_concurrency=CALLS_MAX, scheduling_strategy=at,
            runtime_env={"env_vars": ENVIRONMENT},
        )  # fmt: skip
        return options.remote(settings, self._addresses[node])

    async def request(self, wanted: Request) -> None:
        bundles = [{"CPU": 1} for _, number in wanted for _ in range(number)]
        selectors = [dict(labels) for labels, number in wanted for _ in range(number)]
        try:
            await self._in_thread(lambda: request_resources(bundles=bundles, bundle_label_selectors=selectors))
        except (RayError, RuntimeError, ValueError, AssertionError) as error:
            raise CarrierError(_line(error)) from error

    async def close(self) -> None:
        """Leave Ray. A node that was let go ends by itself, as does one whose lease is over."""
        self._actors.clear()
        if ray.is_initialized():
            await self._in_thread(ray.shutdown)


class _RaysWords(io.TextIOBase):
    """Takes what Ray prints for people at a driver, when a raylet has died for instance. Of each text the first line is
    logged; the others are the end of a log of Ray's, which is on that machine.
    """

    def write(self, text: str) -> int:
        words, _, _ = COLOURS.sub("", text).strip().partition("\n")
        if words:
            logger.warning("ray_says", extra={"detail": words[:SAID_MAX]})
        return len(text)


def _name_of(node: dict[str, Any]) -> str:
    """Return the name of a machine, with the begin of Ray's id: one that comes back is another node."""
    return f"{node['NodeManagerHostname']}-{node['NodeID'][:6]}"


def _actor_of(node: str) -> str:
    return f"killable-{node}"


def _labels_of(node: dict[str, Any]) -> dict[str, str]:
    return {**node.get("Labels", {}), HOST: node["NodeManagerHostname"]}


def _nodes_and_leaving() -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return Ray's nodes, and by id when those that it drains are taken away (`Machine.leaves_at`)."""
    # There is no public call for it; Ray Serve asks in the same way.
    client = ray._private.worker.global_worker.gcs_client
    leaving = client.get_draining_nodes(timeout=DRAINING_S)
    return ray.nodes(), {_hex(node_id): milliseconds / 1000 for node_id, milliseconds in leaving.items()}


def _hex(node_id: Any) -> str:
    return node_id if isinstance(node_id, str) else str(node_id.hex())


def _line(error: Exception) -> str:
    """Return what an error says, without the words that help nobody here."""
    if isinstance(error, ray.exceptions.ActorUnavailableError):
        return "Ray cannot reach its process"
    if isinstance(error, ray.exceptions.ActorUnschedulableError):
        return "Ray cannot start its process there: the machine is gone, or has no processor free"
    return str(error).strip().partition("\n")[0] or type(error).__name__
