"""What an autoscaler is asked for, and which nodes are given back and taken again."""

from __future__ import annotations

from killable.supervisor.cluster.node_scaling import Demand, IdleNode, to_give_back, to_take_again, wanted

A, B = (("zone", "a"),), (("zone", "b"),)


def test_nothing_is_asked_for_while_no_job_waits() -> None:
    assert wanted([Demand("p", {}, 7, {}), Demand("q", {"gpu": "1"}, 2, {})], 100) == ()


def test_what_runs_and_what_waits_is_asked_for_by_the_labels_of_pool_and_job() -> None:
    demands = [Demand("p", {}, 3, {(): 2, A: 4}), Demand("q", {"gpu": "in(x,y)"}, 1, {A: 1})]
    assert wanted(demands, 100) == (
        ({}, 5),
        ({"gpu": "in(x,y)"}, 1),
        ({"gpu": "in(x,y)", "zone": "a"}, 1),
        ({"zone": "a"}, 4),
    )
    assert sum(number for _, number in wanted(demands, 6)) == 6


def test_a_machine_is_not_asked_for_by_its_name() -> None:
    assert wanted([Demand("p", {}, 1, {(("node", "n1"),): 5, (("host", "h"), ("zone", "a")): 2})], 9) == (({}, 1),)


def test_each_pool_keeps_a_node() -> None:
    idle = [
        IdleNode("n1", {}, {"p": 2}),
        IdleNode("n2", {}, {"p": 2, "q": 1}),
        IdleNode("n3", {}, {"q": 1}),
        IdleNode("n4", {}, {}),
    ]
    assert to_give_back(idle, {"p": 2, "q": 2}) == ["n1", "n3"]
    assert to_give_back(idle, {"p": 1, "q": 3}) == ["n3"]


def test_as_many_nodes_are_taken_again_as_jobs_wait_for_beside_those_that_come() -> None:
    given = [IdleNode(f"n{number}", {"zone": "ab"[number % 2]}, {"p": 2}) for number in range(6)]
    assert to_take_again([Demand("p", {}, 0, {(): 3})], given, []) == ["n0", "n1"]
    assert to_take_again([Demand("p", {}, 0, {(): 3})], given[1:], given[:1]) == ["n1"]
    assert to_take_again([Demand("p", {}, 0, {B: 3})], given, given[:1]) == ["n1", "n3"]
    assert to_take_again([Demand("p", {}, 0, {B: 99})], given, []) == ["n1", "n3", "n5"]
    assert to_take_again([Demand("p", {"zone": "!b"}, 0, {(): 1}), Demand("q", {}, 0, {(): 9})], given, []) == ["n0"]
