"""Where a client reaches a server: the address, the environment's defaults, the API key, and the headers.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Self

import httpx

from killable.api.client.addresses import DEFAULT_URL, UNIX_PREFIX, is_loopback, unix_path
from killable.api.client.errors import Unreachable
from killable.workers.errors import Refused


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a client reaches a server, and how: address, headers with the API key and time limits."""

    url: str
    uds: str | None
    address: str
    """The address for messages, without any password."""
    headers: Mapping[str, str] = field(repr=False)
    connect_s: float
    answer_s: float

    @classmethod
    def at(
        cls, url: str | None, *, uds: str | None, api_key: str | None, headers: Mapping[str, str] | None,
        connect_s: float, answer_s: float,
    ) -> Self:  # fmt: skip
        """Parse an address: `http://HOST:PORT`, `HOST:PORT` or `unix:PATH`. The environment supplies missing values.

        Raise Unreachable for an invalid address, Refused for a key or header that cannot be sent. Warn, at the line
        that makes the client, of a key that would go to another machine unencrypted.
        """
        url = url or ("" if uds else os.environ.get("KILLABLE_URL") or DEFAULT_URL)
        api_key = (api_key or os.environ.get("KILLABLE_API_KEY") or "").strip()
        if (path := unix_path(url)) is not None:
            uds, url = path, ""
        url = (url if "://" in url else f"http://{url}" if url else "http://localhost").rstrip("/")
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            shown, passwords = re.subn(r"(?<=://).*@", "", url, flags=re.DOTALL)
            why = "" if passwords else f" ({error})"  # the message may repeat a part of the password
            raise Unreachable(f"{shown!r} is not a valid address{why}; expected http://HOST:PORT", url=shown) from error
        shown = f"{UNIX_PREFIX}{uds}" if uds else str(parsed.copy_with(userinfo=b"")).rstrip("/")
        if not uds and (parsed.scheme not in ("http", "https") or not parsed.host):
            raise Unreachable(f"{shown!r} is not a valid address: expected http://, https:// or unix:", url=shown)
        sent = {"User-Agent": f"killable/{version('killable')}"} | sendable(headers or {})
        if api_key:
            sent["Authorization"] = "Bearer " + sendable({"API key": api_key})["API key"]
        server = cls(url, uds, shown, sent, connect_s, answer_s)
        if parsed.scheme == "http" and not server.is_here and any(name.lower() == "authorization" for name in sent):
            why = "anyone on the way can read it; use https:// or a tunnel (ssh -L)"
            warnings.warn(f"the API key goes to {shown} unencrypted: {why}", UserWarning, stacklevel=3)
        return server

    @property
    def is_here(self) -> bool:
        """Whether it can only be on this machine."""
        return bool(self.uds) or is_loopback(httpx.URL(self.url).host)


def sendable(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers. Raise Refused for one that cannot be sent; the message has its name, never its value."""
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            raise Refused(
                f"the {name} has a character that a header cannot contain; it must be printable ASCII", header=name
            )
    return dict(headers)
