"""The address of a server, as a client is given it.

Runs in: any machine. Apart from `endpoint`, which imports httpx: the help of a verb needs no more than this.
"""

from __future__ import annotations

DEFAULT_URL = "http://127.0.0.1:7833"
UNIX_PREFIX = "unix:"


def unix_path(address: str) -> str | None:
    """Return the path of `unix:PATH` or `unix://PATH`; None for another address."""
    return address.removeprefix(UNIX_PREFIX).removeprefix("//") if address.startswith(UNIX_PREFIX) else None


def is_loopback(host: str) -> bool:
    """Return whether a host can only be this machine. A name that begins like an address can be anywhere."""
    if host == "localhost":
        return True
    import ipaddress  # here: the help of a verb does not need it

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
