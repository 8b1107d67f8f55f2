"""Where a client reaches a server: the address, the environment's defaults, the API key, and the connections.

Runs in: any machine (no supervisor, no Linux).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Self, TypeVar

import httpx

from killable.api.client.addresses import DEFAULT_URL, UNIX_PREFIX, is_loopback, unix_path
from killable.api.client.errors import Unreachable
from killable.workers.errors import Refused

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a client reaches a server, and how: address, headers with the API key, and time limits."""

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

    def open_http(self, client: Callable[..., C], transport: Callable[..., object], **options: Any) -> C:
        """Create an httpx client of these classes, blocking or not.

        Raise Unreachable if the environment names a kind of proxy that is not installed, or certificates that do not
        exist.
        """
        url = httpx.URL(self.url)
        is_here = self.is_here
        # Each open stream holds a connection: with httpx's default of 100, the next call (a cancel) could wait forever.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        try:
            return client(
                # A proxy from the environment cannot reach this machine's loopback.
                trust_env=not is_here,
                # Plain HTTP to this machine needs no certificates, and to read them all takes 20 ms.
                verify=not (is_here and url.scheme == "http"),
                limits=limits,
                transport=transport(uds=self.uds, limits=limits, verify=False) if self.uds else None,
                **options,
            )
        except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
            why = f"no connection to {self.address} with the proxies or certificates of this environment: {error}"
            raise Unreachable(why, url=self.address) from error


def sendable(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers. Raise Refused for one that cannot be sent; the message has its name, never its value."""
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            raise Refused(
                f"the {name} has a character that a header cannot contain; it must be printable ASCII", header=name
            )
    return dict(headers)
