"""Which node gets the next job."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from killable.supervisor.cluster.placement import Placement


def test_the_node_with_the_most_free_slots_is_next_and_of_those_the_one_with_the_least_to_do() -> None:
    placement = Placement()
    assert placement.best() is None
    placement.note("a", 2, 5)
    placement.note("b", 3, 5)
    placement.note("c", 3, 1)
    assert placement.best() == "c"
    placement.note("c", 0, 4)
    assert placement.best() == "b"
    placement.note("b", 1, 7)
    assert placement.best() == "a"


def test_packing_fills_one_node_before_the_next() -> None:
    placement = Placement(packs=True)
    placement.note("a", 4, 0)
    placement.note("b", 2, 2)
    assert placement.best() == "b"
    placement.note("b", 0, 4)
    assert placement.best() == "a"


CHANGES = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(-1, 3), st.integers(0, 3)), max_size=300)


@settings(deadline=None)  # also where the properties do not say so
@given(CHANGES, st.booleans())
def test_it_is_what_a_look_at_every_node_finds(changes: list[tuple[str, int, int]], packs: bool) -> None:
    placement, nodes = Placement(packs=packs), dict[str, tuple[int, int]]()
    for node, free, running in changes:
        placement.note(node, free, running)
        nodes[node] = free, running
        order = {name: (free if packs else -free, running, name) for name, (free, running) in nodes.items() if free > 0}
        assert placement.best() == min(order, key=lambda name: order[name], default=None)
        assert len(placement._heap) <= 2 * len(nodes) + 65, "what is out of date is thrown away"
