"""What a client can have of addresses.

Runs in: api. Pure.
"""

from __future__ import annotations

import ipaddress

NETWORK_BITS = 64
"""Of an IPv6 address: a client has all addresses of such a network (RFC 6177)."""
ADDRESS_CHARS_MAX = 64
"""A trusted proxy says an address in a header, which may be any text."""


def network_of(address: str) -> str:
    """Return whose an address is: an IPv4 address, or the network of an IPv6 address. Other text is cut."""
    address = address[:ADDRESS_CHARS_MAX]
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> NETWORK_BITS << NETWORK_BITS, NETWORK_BITS)))
