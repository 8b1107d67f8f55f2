"""How long the clients wait: to connect, for an answer, in a held request, on a silent stream, and to leave.

Runs in: any machine (no supervisor, no Linux). Retries: `retries`.
"""

from __future__ import annotations

import time

CONNECT_S = 5.0
"""Longest time to connect, in seconds. A server that takes longer counts as absent."""
ANSWER_S = 30.0
"""Longest time for an answer, in seconds, beyond the wait that the request asks for. Servers answer in milliseconds."""
ANSWER_S_MIN = 0.5
"""Shortest time for an answer, in seconds, however little the caller has left: giving up costs another request."""
HELD_S_MAX = 25.0
"""How long one request is held, in seconds: less than proxies wait for an answer (Heroku 30 s, nginx and others 60 s).
Longer waits repeat the request.
"""
SILENCE_S = 35.0
"""Seconds without data after which a stream's connection is dead: three pings, ten seconds apart, did not arrive."""
LEAVE_S = 30.0
"""How long a leaving caller waits for the job's end, in seconds: several times the usual grace. The end continues."""
LEAVE_ANSWER_S = 5.0
"""Longest time for an answer beyond that wait, in seconds: an unresponsive server must not hold up the caller."""


def hold_s_until(deadline: float | None) -> float:
    """Return for how many seconds the next request is to be held; `deadline` in monotonic seconds, None: no end."""
    return HELD_S_MAX if deadline is None else min(HELD_S_MAX, max(0.0, deadline - time.monotonic()))
