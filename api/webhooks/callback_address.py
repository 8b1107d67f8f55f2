"""Which addresses a webhook may be sent to. A caller chooses the address: without this, it could have the server reach
what only the server can reach (server-side request forgery).

Runs in: api. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from killable.api.http.webhooks import URL_CHARS_MAX

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are an IPv4 address, which a translator of the network connects to."""


_DENIED = (
    ipaddress.IPv6Network("fec0::/10"),  # site-local until RFC 3879: some machines' networks have it still
    ipaddress.IPv6Network("3fff::/20"),  # RFC 9637, for documents
    ipaddress.IPv4Network("192.0.0.0/24"),  # RFC 6890, between a machine and its provider
    ipaddress.IPv4Network("192.88.99.0/24"),  # RFC 7526, relays of 6to4
)
"""What all of the Internet cannot reach, though Python's `is_global` says so: not every release has all of it."""


def networks_of(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return the networks that are allowed. Raise ValueError, with the text, for one that is none."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def is_allowed(text: str, allowed: Sequence[Network]) -> bool:
    """Return whether a numeric address may be connected to: one that all of the Internet can reach, or of a network
    that the settings allow.
    """
    if is_listed(text, allowed):
        return True
    try:
        address = _meant(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return False
    is_denied = any(address in network for network in _DENIED)
    return address.is_global and not address.is_multicast and not address.is_reserved and not is_denied


def is_listed(text: str, networks: Sequence[Network]) -> bool:
    """Return whether a numeric address is in one of the networks."""
    try:
        address = _meant(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return False
    return any(address in network for network in networks)


def fault_of(url: str, allowed: Sequence[Network]) -> str:
    """Return why this is no address for a webhook, as it can be told without a look-up; empty if it may be one."""
    if len(url) > URL_CHARS_MAX:
        return f"is longer than {URL_CHARS_MAX} characters"
    if not url.isascii() or any(char <= " " or char == "\x7f" for char in url) or "\\" in url:
        return "has characters that an address cannot have; encode them"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        return f"is no URL: {error}"
    if parts.scheme not in ("https", "http") or not host or port == 0:
        return "must be like https://example.com/hook"
    if parts.username is not None or parts.password is not None:
        return "must not contain a user or a password: the signature shows who has sent it"
    if parts.fragment:
        return "must not have a fragment, which is never sent"
    if parts.scheme == "http" and not allowed:
        return "must begin with https://: what is sent would be readable on its way"
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""  # a name: each connection looks at what it means then
    return "" if is_allowed(host, allowed) else f"must not be in a private network: {host}"


def _meant(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or address
