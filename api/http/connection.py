"""A connection, as the application sees it.

Runs in: api. Pure. Other servers have no such connections in the scope.
"""

from __future__ import annotations

from typing import Protocol

CONNECTION = "killable.connection"
"""Member of the scope with the request's Connection."""
TOO_MANY = "As many connections are open as may be (server.connections_max, server.connections_per_address_max)"


class Connection(Protocol):
    """A connection, as the application sees it."""

    is_reserved: bool
    """Whether only operators are answered on it."""

    @property
    def has_left(self) -> bool:
        """Whether its client has left."""

    def note_key(self) -> None: ...

    def note_refused(self) -> None:
        """Take note that its request is refused, but later: until then it may be closed for another connection."""
