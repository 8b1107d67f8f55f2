"""A queue in which sources take turns."""

from __future__ import annotations

import pytest

from killable.supervisor.jobs.round_robin import RoundRobin


def test_each_source_has_its_turn_whatever_others_have() -> None:
    queue: RoundRobin[str] = RoundRobin()
    for number in range(3):
        queue.add("a", f"a{number}")
    queue.add("b", "b0")
    queue.add("c", "c0")
    assert (len(queue), queue.count("a"), queue.count("nobody")) == (5, 3, 0)
    assert [queue.take() for _ in range(3)] == ["a0", "b0", "c0"]
    queue.add("b", "b1")
    assert [queue.take() for _ in range(3)] == ["a1", "b1", "a2"]
    assert len(queue) == 0 == queue.count("a")
    with pytest.raises(KeyError):
        queue.take()


def test_what_is_urgent_goes_before_the_others_of_its_source_only() -> None:
    queue: RoundRobin[str] = RoundRobin()
    queue.add("a", "a0")
    queue.add("b", "b0")
    queue.add("b", "b1", is_urgent=True)
    assert [queue.take() for _ in range(3)] == ["a0", "b1", "b0"]
