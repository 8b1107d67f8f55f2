"""What the HTTP server is told at its start: values only, already checked.

Runs in: api.
"""

from __future__ import annotations

from dataclasses import dataclass

from killable.api.http.api_keys import ApiKey


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """`[server]` of `killable.toml`, without what the supervisor takes from it."""

    host: str = "127.0.0.1"
    port: int = 7833
    allowed_hosts: tuple[str, ...] = ()
    """Names, beyond loopback and `host`, under which clients may reach this server."""
    cors_origins: tuple[str, ...] = ()
    """Origins (`https://app.example`) whose pages may call this server."""
    keys: tuple[ApiKey, ...] = ()
    """Without any, everyone who reaches the server may do everything."""
    connections_max: int = 2000
    header_timeout_s: float = 10.0
    """For a request's header to be there, from its first byte or, on a new connection, from its start."""
    body_timeout_s: float = 20.0
    """For a request's body, and a second more for every BODY_BYTES_PER_S that have come."""
    body_bytes_max: int = 16 << 20
    result_inline_bytes_max: int = 64 << 10
    """A longer result stands in a record as a reference to its own address."""
    ping_s: float = 10.0
    """Comment pings on a stream: below the idle timeouts of usual proxies (30 s and more)."""
    send_timeout_s: float = 30.0
    """A stream's reader that does not take 64 KiB in so long is cut off."""

    @property
    def origins(self) -> list[str]:
        """Return `cors_origins` as browsers send them."""
        return [origin.rstrip("/").lower() for origin in self.cors_origins]

    @property
    def streams_max(self) -> int:
        """Of open streams: a tenth of the connections is left for those who submit, look and cancel."""
        return max(1, self.connections_max * 9 // 10)
