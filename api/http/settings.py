"""What the HTTP server is told at its start: values only, already checked.

Runs in: api.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from killable.api.http.api_keys import ApiKey
from killable.supervisor.settings import HttpServerSettings


@dataclass(frozen=True)
class HttpSettings(HttpServerSettings):
    """What the HTTP side needs: its part of `[server]`, the API keys, and times that nobody configures."""

    keys: tuple[ApiKey, ...] = ()
    """Without any, everyone who reaches the server may do everything."""
    body_timeout_s: float = 20.0
    """For a request's body, and a second more for every BODY_BYTES_PER_S that have come."""
    ping_s: float = 10.0
    """Comment pings on a stream: below the idle timeouts of usual proxies (30 s and more)."""
    send_timeout_s: float = 30.0
    """A stream's reader that takes less than 64 KiB in this time is cut off."""

    @classmethod
    def of(cls, server: HttpServerSettings, keys: Sequence[ApiKey]) -> HttpSettings:
        """Return the settings of a server with these keys."""
        return cls(**{each.name: getattr(server, each.name) for each in fields(HttpServerSettings)}, keys=tuple(keys))

    @property
    def origins(self) -> list[str]:
        """Return `cors_origins` as browsers send them."""
        return [origin.rstrip("/").lower() for origin in self.cors_origins]

    @property
    def streams_max(self) -> int:
        """Of open streams: a tenth of the connections is left for those who submit, look and cancel."""
        return max(1, self.connections_max * 9 // 10)
