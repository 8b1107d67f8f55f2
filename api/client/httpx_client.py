"""The httpx client of an endpoint: proxies, certificates, and how many idle connections it keeps.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from killable.api.client.endpoint import Endpoint
from killable.api.client.errors import Unreachable

C = TypeVar("C")
KEPT_CONNECTIONS_MAX = 20
"""Idle connections that are kept for further calls."""


def open_httpx(server: Endpoint, client: Callable[..., C], transport: Callable[..., object], **options: Any) -> C:
    """Create an httpx client of these classes, blocking or not.

    Raise Unreachable if the environment names a kind of proxy that is not installed, or certificates that do not
    exist.
    """
    url = httpx.URL(server.url)
    is_here = server.is_here
    # Each open stream holds a connection: with httpx's default of 100, the next call (a cancel) could wait forever.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=KEPT_CONNECTIONS_MAX)
    try:
        return client(
            # A proxy from the environment cannot reach this machine's loopback.
            trust_env=not is_here,
            # Plain HTTP to this machine needs no certificates, and to read them all takes 20 ms.
            verify=not (is_here and url.scheme == "http"),
            limits=limits,
            transport=transport(uds=server.uds, limits=limits, verify=False) if server.uds else None,
            **options,
        )
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        why = f"no connection to {server.address} with the proxies or certificates of this environment: {error}"
        raise Unreachable(why, url=server.address) from error
