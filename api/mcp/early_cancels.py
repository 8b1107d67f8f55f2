"""Cancels that came before their calls. The notification and the call come over connections of their own, and the call
is the longer one: its arguments are read and checked first.

Runs in: api.
"""

from __future__ import annotations

import asyncio

KEPT_S = 30.0
"""How long a cancel waits for its call: longer than a body is checked, and waits for that."""
KEPT_MAX = 256
"""Cancels of one tenant that wait; one more, and its oldest is forgotten."""

Key = tuple[str, str, str]
"""Tenant, session and id of a request. Only within a session are ids of requests unique."""


class EarlyCancels:
    """Remembers what was to be cancelled, and is not here yet."""

    def __init__(self) -> None:
        self._of_tenants: dict[str, dict[tuple[str, str | None], float]] = {}
        """Of each tenant the sessions and ids, the oldest first, and until when they count."""

    def add(self, tenant: str, session: str, request_id: str | None) -> None:
        """Remember a cancel of a request; None: of all requests of its session."""
        kept = self._of_tenants.setdefault(tenant, {})
        kept.pop((session, request_id), None)
        kept[session, request_id] = _now() + KEPT_S
        if len(kept) > KEPT_MAX:
            del kept[next(iter(kept))]

    def meets(self, key: Key) -> bool:
        """Return whether a call that comes now was cancelled before. The cancel of one call counts once."""
        tenant, session, request_id = key
        kept, now = self._of_tenants.get(tenant, {}), _now()
        return kept.pop((session, request_id), 0.0) > now or kept.get((session, None), 0.0) > now


def _now() -> float:
    return asyncio.get_running_loop().time()
