"""How long the answer to a request that cancels or kills waits for the end.

Runs in: api.
"""

from __future__ import annotations

from killable.api.http.prefer_wait import Preference

CANCEL_WAIT_S = 10.0
"""Default, in seconds: twice the default grace."""


def cancel_wait_s(preference: Preference) -> float:
    """Return what the client prefers, in seconds, or the default."""
    return CANCEL_WAIT_S if preference.wait_s is None else preference.wait_s
