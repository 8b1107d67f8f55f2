"""One test of the machine, the configuration or a server, with its result.

Runs in: any machine. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One test and its result; `advice` is what to do about it."""

    name: str
    status: Status
    found: str
    advice: str = ""
