"""Which node gets the next job."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from killable.supervisor.cluster.placement import FreeSlots, Placement


def test_the_node_with_the_most_free_slots_is_next_and_of_those_the_one_with_the_least_to_do() -> None:
    slots = FreeSlots()
    placement = Placement(slots, "abc")
    assert placement.best() is None
    slots.note("a", 2, 5)
    slots.note("b", 3, 5)
    slots.note("c", 3, 1)
    assert placement.best() == "c"
    slots.note("c", 0, 4)
    assert placement.best() == "b"
    slots.note("b", 1, 7)
    assert placement.best() == "a"


def test_packing_fills_one_node_before_the_next() -> None:
    slots = FreeSlots(packs=True)
    placement = Placement(slots, "ab")
    slots.note("a", 4, 0)
    slots.note("b", 2, 2)
    assert placement.best() == "b"
    slots.note("b", 0, 4)
    assert placement.best() == "a"


NODES = "abcdef"
CHANGES = st.lists(
    st.tuples(st.sampled_from(NODES), st.integers(-1, 3), st.integers(0, 3), st.sets(st.integers(0, 3))), max_size=300
)
"""What becomes of a node, and who looks then."""
SUBSETS = st.lists(st.sets(st.sampled_from(NODES)), min_size=4, max_size=4)


@settings(deadline=None)  # also where the properties do not say so
@given(CHANGES, SUBSETS, st.booleans(), st.booleans())
def test_it_is_what_a_look_at_every_node_finds(
    changes: list[tuple[str, int, int, set[int]]], subsets: list[set[str]], packs: bool, comes_and_goes: bool
) -> None:
    slots, nodes = FreeSlots(packs=packs), dict[str, tuple[int, int]]()
    placements = [Placement(slots, each) for each in subsets]
    for node, free, running, looks in changes:
        if comes_and_goes and free < 0:
            for placement in placements:
                placement.nodes.symmetric_difference_update({node})
            slots.note(node, 0, 0)
        slots.note(node, free, running)
        nodes[node] = free, running
        order = {name: (free if packs else -free, running, name) for name, (free, running) in nodes.items() if free > 0}
        for placement in (placements[look] for look in looks):
            of_it = {name for name in order if name in placement.nodes}
            assert placement.best() == min(of_it, key=lambda name: order[name], default=None)
            assert len(placement._heap) <= 2 * len(placement.nodes) + 65, "what is out of date is thrown away"
