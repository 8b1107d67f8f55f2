"""Webhooks as routes see them: whether a job may have an address, and how many were delivered.

Runs in: api. `api.webhooks` sends them.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from killable.api.http.request_faults import fault, invalid

URL_CHARS_MAX = 2048


class Webhooks(Protocol):
    """The webhooks of one server."""

    counts: Counter[str]
    """Of what has become of them: delivered, failed (attempts), given_up, refused."""

    @property
    def waiting(self) -> int: ...

    def fault_of(self, url: str, tenant: str) -> str:
        """Return why jobs of this tenant cannot have this address; empty if they can."""
        ...

    def url_of(self, tenant: str) -> str:
        """Return where jobs of this tenant go that name no address; empty: nowhere."""
        ...


def callback_url_of(webhooks: Webhooks | None, given: str | None, tenant: str) -> str:
    """Return where the end of a job is sent; empty: nowhere. Raise Refused: invalid."""
    if webhooks is None:
        why = "needs webhooks.secrets_file, which this server does not have" if given else ""
    elif given is None:
        return webhooks.url_of(tenant)
    else:
        why = webhooks.fault_of(given, tenant)
    if why:
        raise invalid([fault("body", ["callback_url"], why)])
    return given or ""
