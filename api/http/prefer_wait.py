"""How long a request waits for a job: the header `Prefer` (RFC 7240), and the longest wait.

Runs in: api.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header
from pydantic import WithJsonSchema

WAIT_S_MAX = 60.0
"""The longest that a request is held, in seconds: many proxies wait no longer. Clients behind a proxy ask for less."""
PREFER = "`wait=N`: wait up to N seconds for the end, at most 60; `respond-async`: do not wait"

Prefer = Annotated[list[str], WithJsonSchema({"type": "string"})]
"""May come several times. To clients it is one text: most generators of them have no list as a header."""


@dataclass(frozen=True, slots=True)
class Preference:
    """How long the client is willing to wait, in seconds (RFC 7240); None: it has no preference."""

    wait_s: float | None = None
    applied: str = ""

    @classmethod
    def of(cls, prefer: Iterable[str]) -> Preference:
        """Parse `Prefer`. Unreadable preferences are ignored, as the RFC requires. `wait` overrides `respond-async`."""
        found = cls()
        for header in prefer:
            for preference in header.split(","):
                name, _, value = preference.partition(";")[0].partition("=")
                name, value = name.strip().lower(), value.strip().strip('"')
                if name == "wait" and value.isascii() and value.isdecimal():
                    wait_s = min(int(value[:9]), int(WAIT_S_MAX))
                    return cls(float(wait_s), f"wait={wait_s}")
                if name == "respond-async":
                    found = cls(0.0, "respond-async")
        return found

    @property
    def headers(self) -> dict[str, str]:
        return {"Preference-Applied": self.applied} if self.applied else {}


def _none() -> list[str]:
    """Be a default that FastAPI can look at for each request: to read the signature of `list` takes it 0.2 ms."""
    return []


async def _preference(prefer: Annotated[Prefer, Header(description=PREFER, default_factory=_none)]) -> Preference:
    return Preference.of(prefer)


Preferred = Annotated[Preference, Depends(_preference)]
