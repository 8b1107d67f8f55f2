"""What one application is made of, and where its routes find it.

Runs in: api. Not FastAPI's dependencies: each costs a request 30 µs, and these are the same for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from fastapi import Request

from killable.api.http.api_keys import Tickets
from killable.api.http.input_check import InputCheck
from killable.api.http.settings import HttpSettings
from killable.api.http.sse import OpenStreams
from killable.supervisor.engine import Engine


@dataclass(frozen=True, slots=True)
class Dependencies:
    """`tickets` is None where the server has no keys: its streams are open then."""

    engine: Engine
    settings: HttpSettings
    input_check: InputCheck
    streams: OpenStreams
    tickets: Tickets | None


def parts_of(request: Request) -> Dependencies:
    """Return the parts of the application that was called."""
    return cast(Dependencies, request.app.state.parts)


def engine_of(request: Request) -> Engine:
    """Return the engine of the application that was called."""
    return parts_of(request).engine
