"""What starts the hosts of a head's nodes, and carries its calls to them. `direct_carrier` is that of production.

Runs in: supervisor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from killable.supervisor.models import StartRefused
from killable.workers.named_tuples import NamedTuple


class CarrierError(Exception):
    """A call was not answered. It may have arrived all the same. It proves nothing of what runs on the node."""


class HostGone(CarrierError):
    """The carrier says that the node host has ended, or that none was started. That, too, proves nothing."""


class ClusterReplaced(CarrierError):
    """The cluster at this address is not the one that was connected to: who has the way has to connect anew."""


class ClusterUnreachable(StartRefused):
    """Nothing of the cluster answers. Exit code 69."""

    exit_code = 69


class Deposed(StartRefused):
    """Another head has taken the nodes over. Exit code 75."""

    exit_code = 75


class NoMachine(StartRefused):
    """The cluster has no machine that can be a node. Exit code 71."""

    exit_code = 71


class Machine(NamedTuple):
    """A machine that can be a node."""

    name: str
    """Unique in the cluster, without a slash or a full stop at its ends."""
    labels: Mapping[str, str] = {}
    leaves_at: float | None = None
    """When the machine is taken away, in seconds since 1970, 0 if that is not known; None: it stays."""
    trouble: str = ""
    """What is wrong with it, although it can be used."""


class HostPlace(NamedTuple):
    """Where a node host can be called."""

    host: str
    port: int
    secret: bytes
    """Who calls it, and it itself, proves that it knows this."""
    trouble: str = ""
    """What is wrong with its machine, although it can be used."""


Request = Sequence[tuple[Mapping[str, str], int]]
"""Processors by the labels of the machines that they are wanted on."""


class Machines(Protocol):
    """What has the machines."""

    @property
    def trouble(self) -> str:
        """Why nothing can be started for the moment, or no call arrives anywhere; empty: there is nothing."""
        ...

    async def open(self) -> None:
        """Connect. Raise StartRefused."""
        ...

    async def members(self) -> Sequence[Machine]:
        """Return the machines that there are now. Raise CarrierError."""
        ...

    async def request(self, wanted: Request) -> None:
        """Have machines brought, if somebody can: so many processors are wanted in all, also those that are in use.
        The next call replaces it. Raise CarrierError. The caller limits the time.
        """
        ...

    async def close(self) -> None: ...


class Carrier(Machines, Protocol):
    """Calls may be lost, late, doubled and out of order."""

    async def start(self, node: str) -> None:
        """Start a node host on a machine, unless one answers there. Raise CarrierError."""
        ...

    async def call(self, node: str, method: str, message: bytes) -> bytes:
        """Call `NodeHost.call` there and return its answer. Raise CarrierError, of which HostGone is one. The caller
        limits the time.
        """
        ...

    def forget(self, node: str) -> None:
        """Keep nothing of a machine that is gone."""
        ...


class Launcher(Machines, Protocol):
    """Starts a node host on each machine."""

    async def start(self, node: str) -> HostPlace:
        """Start a node host on a machine, unless one answers there, which may be that of another head; return where it
        can be called. Raise CarrierError.
        """
        ...
