"""A minimal client of end markers: it reads lines and knows [DONE], [CANCELLED] and [ERROR].

Runs in: any process. Standard library only.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ClientOutcome:
    """What it passed on, and how it believes that the job ended: done · cancelled · failed; nothing at end of file."""

    passed_on: list[str] = field(default_factory=list)
    outcome: str = "nothing"
    message: str = ""
    after_the_end: list[str] = field(default_factory=list)
    """Lines that still came; the marker is the last thing that is said."""


def parse_lines(lines: Iterable[str]) -> ClientOutcome:
    """Match prefixes line by line, as that client does; it knows nothing of events."""
    heard = ClientOutcome()
    for raw in lines:
        line = raw.rstrip("\r\n")
        line = line.removeprefix("data:").strip() if line.startswith("data:") else line
        if heard.outcome != "nothing":
            heard.after_the_end += [line] if line else []
        elif line == "[DONE]":
            heard.outcome = "done"
        elif line == "[CANCELLED]":
            heard.outcome = "cancelled"
        elif line.startswith("[ERROR]"):
            heard.outcome, heard.message = "failed", line.removeprefix("[ERROR]").strip()
        else:
            heard.passed_on.append(line)
    return heard


def submit(url: str, operation: str, **members: Any) -> dict[str, Any]:
    """Post a job as an operation request."""
    body = json.dumps({"operation": operation, **members}).encode()
    request = urllib.request.Request(f"{url}/v1/jobs", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        accepted: dict[str, Any] = json.load(answer)
    return accepted


def stream(url: str, sse_url: str) -> ClientOutcome:
    with urllib.request.urlopen(f"{url}{sse_url}", timeout=60) as answer:
        return parse_lines(line.decode() for line in answer)
