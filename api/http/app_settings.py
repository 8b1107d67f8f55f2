"""The settings of the HTTP server: values only, already validated.

Runs in: api.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from killable.api.http.api_keys import ApiKey
from killable.api.http.failed_keys import DELAY_S
from killable.api.http.request_turns import WAITING_MAX
from killable.api.http.sse import PING_S, SEND_TIMEOUT_S
from killable.supervisor.http_server_settings import HttpServerSettings, ServerSettings


@dataclass(frozen=True)
class HttpSettings(HttpServerSettings):
    """Settings of the HTTP server: its part of `[server]`, the API keys, and times that are not configurable."""

    keys: tuple[ApiKey, ...] = ()
    """Empty: every client that reaches the server may do everything."""
    hides_inputs: bool = False
    """Whether no key sees inputs, whatever is kept of them: the server's log is redacted."""
    failed_key_delay_s: float = DELAY_S
    """Seconds that the answer to a wrong key waits, from an address that has presented many."""
    waiting_max: int = WAITING_MAX
    body_timeout_s: float = 20.0
    """Seconds for a request's body, plus one for every BODY_BYTES_PER_S received."""
    ping_s: float = PING_S
    send_timeout_s: float = SEND_TIMEOUT_S

    @classmethod
    def of(cls, server: ServerSettings, keys: Sequence[ApiKey]) -> HttpSettings:
        """Return the settings of a server with these keys."""
        members = {each.name: getattr(server, each.name) for each in fields(HttpServerSettings)}
        return cls(**members, keys=tuple(keys), hides_inputs=server.redact)

    @property
    def origins(self) -> list[str]:
        """Return `cors_origins` as browsers send them."""
        return [origin.rstrip("/").lower() for origin in self.cors_origins]
