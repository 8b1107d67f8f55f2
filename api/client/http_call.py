"""One request to a server, without I/O: its path, query and body, how long its answer may take, whether it is repeated.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

import httpx

from killable.api.client.endpoint import Endpoint, sendable
from killable.api.client.events import Record
from killable.api.client.file_source import FileSource
from killable.api.client.timeouts import ANSWER_S_MIN
from killable.workers.errors import Refused

Repeat = Literal["safe", "keyed", "unsent", "never"]
"""When a call may be sent again. safe: always; keyed: not after a refusal such as a full queue; unsent: only if the
request cannot have arrived; never: not even then.
"""


@dataclass(frozen=True, slots=True)
class HttpCall:
    """One request. The server is asked to hold it for `hold_s` seconds and may take `answer_s` beyond that."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    """Members that are None or empty are not sent."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """JSON, or None."""
    file: FileSource | None = None
    """A body that is sent in pieces, which the transports read."""
    hold_s: float = 0.0
    answer_s: float | None = None
    """None: the client's `answer_s`."""
    again: Repeat = "safe"
    until: float | None = None
    """The monotonic time after which the answer is useless. Each sending contains the time that is left."""

    def arguments(self, endpoint: Endpoint) -> dict[str, Any]:
        """Return it as keyword arguments of httpx's `request` and `stream`."""
        answer_s = max(ANSWER_S_MIN, endpoint.answer_s if self.answer_s is None else self.answer_s)
        headers = dict(endpoint.headers) | sendable(self.headers)
        if self.body is not None:
            headers["Content-Type"] = "application/json"
        if self.file is not None:
            headers |= self.file.headers
        if self.until is not None:
            headers["X-Request-Timeout"] = f"{max(0.001, self.until - time.monotonic()):.3f}"
        return {
            "method": self.method,
            "url": endpoint.url + self.path,
            "params": {name: _text(value) for name, value in self.query.items() if value not in (None, "")},
            "headers": headers,
            "content": self.body,
            "timeout": httpx.Timeout(
                answer_s, connect=min(endpoint.connect_s, answer_s), read=self.hold_s + answer_s, pool=None
            ),
        }


def json_of(members: Record) -> bytes:
    """Return a body as JSON in ASCII, since lone surrogates have no UTF-8. Raise Refused if JSON cannot express it."""
    try:
        return json.dumps(members, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Refused(f"the request cannot be encoded as JSON: {error}") from error


def job_path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _text(value: Any) -> Any:
    """Return a value that a query can carry. A reason may contain a file name, whose bytes may not be valid text."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
