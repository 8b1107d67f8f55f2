"""Which connection goes when there is no room, and who gets in all the same."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from killable.api.cli.server import idle_connections as module
from killable.api.cli.server.idle_connections import LINGERING_MAX, RESERVE, Admittance, Connections

ADMITTED, RESERVED, REFUSED, DROPPED = Admittance.ADMITTED, Admittance.RESERVED, Admittance.REFUSED, Admittance.DROPPED


@dataclass(eq=False)
class Peer:
    """A connection that notes whether it was closed."""

    name: str = ""
    closed: list[str] = field(default_factory=list)

    def close_for_another(self) -> None:
        self.closed.append(self.name)


class Crowd:
    """Peers of one server."""

    def __init__(self, connections_max: int, per_address_max: int = 0, *, has_operators: bool = False) -> None:
        self.bounds = Connections(connections_max, per_address_max, has_operators=has_operators)
        self.closed: list[str] = []
        self.peers: dict[str, Peer] = {}

    def come(self, name: str, address: str = "192.0.2.1") -> Admittance:
        peer = self.peers[name] = Peer(name, self.closed)
        return self.bounds.came(peer, address)


def test_the_one_that_has_rested_longest_makes_room_also_if_it_never_sent_a_request() -> None:
    crowd = Crowd(3)
    for name in "abc":
        assert crowd.come(name) is ADMITTED
    crowd.bounds.works(crowd.peers["a"])
    crowd.bounds.rests(crowd.peers["a"])
    assert [crowd.come(name) for name in "def"] == [ADMITTED] * 3
    assert crowd.closed == ["b", "c", "a"] and len(crowd.bounds) == 3


def test_one_that_works_stays_and_the_next_is_refused() -> None:
    crowd = Crowd(2)
    for name in "ab":
        crowd.come(name)
        crowd.bounds.works(crowd.peers[name])
    assert [crowd.come(str(number)) for number in range(LINGERING_MAX + 2)] == [REFUSED] * LINGERING_MAX + [DROPPED] * 2
    crowd.bounds.left(crowd.peers["0"])
    assert crowd.come("again") is REFUSED
    crowd.bounds.rests(crowd.peers["a"])
    assert crowd.come("c") is ADMITTED and crowd.closed == ["a"]


def test_those_with_a_key_go_last() -> None:
    crowd = Crowd(3)
    for name in "abc":
        crowd.come(name)
    crowd.bounds.has_key(crowd.peers["a"])  # its body is still coming
    crowd.bounds.works(crowd.peers["b"])
    crowd.bounds.has_key(crowd.peers["b"])
    crowd.bounds.rests(crowd.peers["b"])
    crowd.come("d"), crowd.come("e")
    assert crowd.closed == ["c", "d"]
    crowd.bounds.works(crowd.peers["e"])
    crowd.come("f")
    assert crowd.closed == ["c", "d", "a"]


def test_no_address_has_all_and_those_of_a_unix_socket_have_none() -> None:
    crowd = Crowd(100)
    for number in range(95):
        crowd.come(f"a{number}")
        crowd.bounds.works(crowd.peers[f"a{number}"])
    assert crowd.come("one too many") is REFUSED
    assert [crowd.come(f"u{number}", "") for number in range(5)] == [ADMITTED] * 5
    crowd.bounds.rests(crowd.peers["a7"])
    assert crowd.come("another") is ADMITTED and crowd.closed == ["a7"]
    assert crowd.come("elsewhere", "192.0.2.2") is ADMITTED and crowd.closed == ["a7", "u0"]


def test_an_address_closes_its_own_first() -> None:
    crowd = Crowd(10, 2)
    crowd.come("oldest", "192.0.2.2")
    for name in "abc":
        assert crowd.come(name) is ADMITTED
    assert crowd.closed == ["a"]


def test_over_the_bound_there_is_a_reserve_for_operators() -> None:
    crowd = Crowd(1, has_operators=True)
    crowd.come("busy")
    crowd.bounds.works(crowd.peers["busy"])
    assert [crowd.come(f"r{number}") for number in range(RESERVE)] == [RESERVED] * RESERVE
    crowd.bounds.works(crowd.peers["r0"])
    assert crowd.come("next") is RESERVED and crowd.closed == ["r1"]
    assert crowd.bounds.make_room() and crowd.closed == ["r1", "r2"], "a descriptor is a descriptor"
    crowd.bounds.rests(crowd.peers["busy"])
    assert crowd.come("in place of the busy one") is ADMITTED and crowd.closed[-1] == "busy"


@pytest.mark.parametrize("seed", range(20))
def test_the_counts_are_those_of_the_connections_that_are_left(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGERING_MAX", 3)
    monkeypatch.setattr(module, "RESERVE", 2)
    dice = random.Random(seed)
    crowd = Crowd(6, dice.choice((0, 2)), has_operators=dice.random() < 0.5)
    bounds = crowd.bounds
    for number in range(500):
        act = dice.choice(("come", "come", "works", "rests", "has_key", "left"))
        if act == "come":
            crowd.come(str(number), dice.choice(("", "a", "b")))
        elif crowd.peers:
            getattr(bounds, act)(dice.choice(list(crowd.peers.values())[-12:]))
        known = bounds._known
        by_entry = {entry: [peer for peer in known if known[peer].entry is entry] for entry in Admittance}
        groups = {ADMITTED: bounds._admitted, RESERVED: bounds._reserved, REFUSED: bounds._refused}
        for entry, group in groups.items():
            assert group.count == len(by_entry[entry])
            assert {*group.resting, *group.resting_with_key} <= set(by_entry[entry])
        assert bounds._admitted.count <= 6
        for network, own in bounds._by_network.items():
            assert own.count == sum(known[peer].network == network for peer in by_entry[ADMITTED]) <= 6
    for peer in list(bounds._known):
        bounds.left(peer)
    assert (len(bounds), bounds._by_network, bounds.make_room()) == (0, {}, False)
