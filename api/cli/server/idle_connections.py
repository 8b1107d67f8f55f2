"""Which connections a server has, how long an idle one stays, and which one goes when there is no room for the next.

Runs in: supervisor, in its event loop. Decides; a connection closes itself.

    came ──► rests ──whole request──► works ──answer──► rests ──► … ──► left
               └── there is no room: the one that has rested longest goes, those without a key first

A connection rests while no whole request of it is being answered: also before its first one, and while a header or a
body comes. One that works is never closed: it is a stream, or waits for a job.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from killable.api.http.client_network import network_of

KEEP_ALIVE_S = 15
"""Seconds for an idle connection: longer than a pause between two commands, shorter than the 60 s of proxies."""
RESERVE = 32
"""Connections over the bound on which operators are answered, and nobody else."""
LINGERING_MAX = 100
"""Connections over the bound that get an answer; further ones are only closed."""


class Admittance(Enum):
    """What becomes of a new connection."""

    ADMITTED = "admitted"
    RESERVED = "reserved"
    """It is over the bound, for an operator's requests only."""
    REFUSED = "refused"
    """It gets an answer that says so."""
    DROPPED = "dropped"


class Closable(Protocol):
    """A connection that can be closed while it rests."""

    def close_for_another(self) -> None: ...


@dataclass(slots=True)
class _Group:
    """Connections that have a bound together; those that rest in the order in which they began to."""

    count: int = 0
    resting: OrderedDict[Closable, None] = field(default_factory=OrderedDict)
    resting_with_key: OrderedDict[Closable, None] = field(default_factory=OrderedDict)

    @property
    def oldest(self) -> Closable | None:
        """The one to close first."""
        return next(iter(self.resting or self.resting_with_key), None)

    def add_resting(self, connection: Closable, *, has_key: bool) -> None:
        (self.resting_with_key if has_key else self.resting)[connection] = None

    def remove_resting(self, connection: Closable) -> None:
        self.resting.pop(connection, None)
        self.resting_with_key.pop(connection, None)


@dataclass(slots=True)
class _Known:
    """What is known of one connection."""

    network: str
    entry: Admittance
    has_key: bool = False


class Connections:
    """The connections of one server."""

    def __init__(self, connections_max: int, per_address_max: int = 0, *, has_operators: bool = False) -> None:
        """`per_address_max` 0: nineteen of twenty, so that no address has all. `has_operators`: there is a reserve."""
        self._connections_max = connections_max
        self._per_address_max = per_address_max or connections_max - connections_max // 20
        self._reserve = RESERVE if has_operators else 0
        self._known: dict[Closable, _Known] = {}
        self._admitted, self._reserved, self._refused = _Group(), _Group(), _Group()
        self._by_network: dict[str, _Group] = {}

    def __len__(self) -> int:
        return len(self._known)

    def came(self, connection: Closable, address: str) -> Admittance:
        """Let a connection in, perhaps in place of one that rests. `address` is empty for a Unix socket."""
        network = network_of(address)
        entry = self._entry(network)
        if entry is not Admittance.DROPPED:
            known = self._known[connection] = _Known(network, entry)
            for group in self._groups(known):
                group.count += 1
            if entry is not Admittance.REFUSED:
                self.rests(connection)
        return entry

    def _entry(self, network: str) -> Admittance:
        own = self._by_network.get(network)
        has_room = own is None or own.count < self._per_address_max or self._close_oldest(own)
        if has_room and (self._admitted.count < self._connections_max or self._close_oldest(self._admitted)):
            return Admittance.ADMITTED
        if self._reserve and (self._reserved.count < self._reserve or self._close_oldest(self._reserved)):
            return Admittance.RESERVED
        return Admittance.REFUSED if self._refused.count < LINGERING_MAX else Admittance.DROPPED

    def make_room(self) -> bool:
        """Close the connection that has rested longest. Return False when none rests."""
        return self._close_oldest(self._admitted) or self._close_oldest(self._reserved)

    def rests(self, connection: Closable) -> None:
        """Note that no whole request of a connection is being answered."""
        known = self._known.get(connection)
        if known is not None and known.entry is not Admittance.REFUSED:
            for group in self._groups(known):
                group.remove_resting(connection)
                group.add_resting(connection, has_key=known.has_key)

    def works(self, connection: Closable) -> None:
        """Note that a whole request of a connection has come."""
        known = self._known.get(connection)
        if known is not None:
            for group in self._groups(known):
                group.remove_resting(connection)

    def has_key(self, connection: Closable) -> None:
        """Note that a request of a connection has a valid key: others are closed before it."""
        known = self._known.get(connection)
        if known is None or known.has_key:
            return
        known.has_key = True
        for group in self._groups(known):
            if connection in group.resting:  # its body is still coming
                group.remove_resting(connection)
                group.add_resting(connection, has_key=True)

    def left(self, connection: Closable) -> None:
        """Forget a connection that is closed, or is being closed."""
        known = self._known.pop(connection, None)
        if known is None:
            return
        for group in self._groups(known):
            group.remove_resting(connection)
            group.count -= 1
        own = self._by_network.get(known.network)
        if own is not None and not own.count:
            del self._by_network[known.network]

    def _groups(self, known: _Known) -> tuple[_Group, ...]:
        """Return the groups that a connection belongs to."""
        if known.entry is not Admittance.ADMITTED:
            return (self._reserved if known.entry is Admittance.RESERVED else self._refused,)
        if not known.network:
            return (self._admitted,)
        own = self._by_network.get(known.network)
        if own is None:
            own = self._by_network[known.network] = _Group()
        return self._admitted, own

    def _close_oldest(self, group: _Group) -> bool:
        connection = group.oldest
        if connection is None:
            return False
        self.left(connection)
        connection.close_for_another()
        return True
