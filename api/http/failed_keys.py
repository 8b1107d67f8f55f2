"""Slows down addresses that present wrong keys, so that a flood of them leaves the event loop to others.

Runs in: api. An answer that waits costs nothing meanwhile, and its client sends nothing else on its connection. Valid
keys never wait, also those that come from the same address (a proxy has one for all).
"""

from __future__ import annotations

from killable.api.http.client_network import network_of

FREE = 50
"""Refusals of one address in a window that are answered at once: more than people and programs in trouble need."""
WINDOW_S = 10.0
DELAY_S = 1.0
ADDRESSES_MAX = 1024
"""Addresses that are counted in a window, some 150 KB; every further one has to wait, too."""
WAITING_MAX = 2000
"""Answers that wait at once, some 20 MB; further ones are given at once, and their connection is closed."""


class FailedKeys:
    """Counts refusals (401) by address, in windows of WINDOW_S."""

    def __init__(self, delay_s: float = DELAY_S) -> None:
        self.waiting = 0
        self._delay_s = delay_s
        self._counts: dict[str, int] = {}
        self._since = 0.0

    def note(self, address: str, now: float) -> float:
        """Count one refusal; return the seconds for which its answer has to wait. `now`: monotonic."""
        if now - self._since >= WINDOW_S:
            self._since = now
            self._counts.clear()
        source = network_of(address)
        if source not in self._counts and len(self._counts) >= ADDRESSES_MAX:
            return self._delay_s
        self._counts[source] = count = self._counts.get(source, 0) + 1
        return self._delay_s if count > FREE else 0.0
