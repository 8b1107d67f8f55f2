"""Which refusals of a key have to wait."""

from __future__ import annotations

from killable.api.http.failed_keys import ADDRESSES_MAX, FREE, WINDOW_S, FailedKeys


def test_an_address_waits_after_many_and_no_other_one_does() -> None:
    failed = FailedKeys(2.0)
    assert [failed.note("10.0.0.1", 100.0) for _ in range(FREE + 2)] == [0.0] * FREE + [2.0, 2.0]
    assert failed.note("10.0.0.2", 100.0) == 0.0
    assert failed.note("10.0.0.1", 100.0 + WINDOW_S) == 0.0, "the next window"


def test_the_addresses_of_one_ipv6_client_are_one() -> None:
    failed = FailedKeys(2.0)
    waits = [failed.note(f"2001:db8::{number:x}", 100.0) for number in range(FREE + 1)]
    assert waits[-1] == 2.0 and failed.note("2001:db8:0:1::1", 100.0) == failed.note("fe80::1%eth0", 100.0) == 0.0
    assert failed.note("2001:not:an:address", 100.0) == 0.0


def test_so_many_addresses_are_counted_and_the_others_wait() -> None:
    failed = FailedKeys(2.0)
    assert {failed.note(f"10.1.{number >> 8}.{number & 255}", 100.0) for number in range(ADDRESSES_MAX)} == {0.0}
    assert failed.note("10.9.9.9", 100.0) == 2.0 and failed.note("10.1.0.0", 100.0) == 0.0
    assert failed.note("10.9.9.9", 100.0 + WINDOW_S) == 0.0
