"""Which proxies are believed who the client is: those of `server.trusted_proxies`, addresses or networks.

Runs in: supervisor, in its event loop. A proxy says it in X-Forwarded-For and X-Forwarded-Proto. From anybody else
these headers are what a client says of itself, and count for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware


def with_true_clients(app: ASGIApp, trusted_proxies: Sequence[str]) -> ASGIApp:
    """Return the application for a server behind these proxies: requests have the address and the scheme that a trusted
    proxy has named. Of several proxies in a row the last address counts that is not itself trusted.
    """
    if not trusted_proxies:
        return app
    return cast("ASGIApp", ProxyHeadersMiddleware(cast(Any, app), trusted_hosts=[*trusted_proxies]))
