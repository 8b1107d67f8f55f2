"""All routes of the application, read from its OpenAPI schema, so that a test also covers the next route."""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple, cast

from killable.api.app import create_app


class Route(NamedTuple):
    method: str
    path: str
    """As `/v1/jobs/{job_id}`."""

    @property
    def address(self) -> str:
        """An address of this route, of nothing that exists."""
        return re.sub(r"\{.*?\}", "x", self.path)


@functools.cache
def routes() -> list[Route]:
    paths = create_app(cast(Any, None)).openapi()["paths"]
    return [Route(method.upper(), path) for path, operations in paths.items() for method in operations]
