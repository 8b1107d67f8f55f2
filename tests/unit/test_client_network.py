"""Whose an address is."""

from __future__ import annotations

import pytest

from killable.api.http.client_network import ADDRESS_CHARS_MAX, network_of


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("", ""), ("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"), ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"), ("no:address", "no:address"),
        ("x" * 1000, "x" * ADDRESS_CHARS_MAX),
    ],
)  # fmt: skip
def test_whose_address_it_is(address: str, network: str) -> None:
    assert network_of(address) == network
