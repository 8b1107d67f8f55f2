"""Which nodes a selector takes. The syntax is Ray's, so the cases are those of its documentation."""

from __future__ import annotations

import pytest

from killable.supervisor.cluster.node_host import fingerprints
from killable.supervisor.jobs.node_labels import fits, no_node_fits, settings_of
from killable.supervisor.settings import PoolSpec, Settings

A = {"zone": "a", "ray.io/accelerator-type": "H100"}


@pytest.mark.parametrize(
    ("selector", "does"),
    [
        ({}, True),
        ({"zone": "a"}, True),
        ({"zone": "b"}, False),
        ({"zone": "!b"}, True),
        ({"zone": "!a"}, False),
        ({"zone": "in(a,b)"}, True),
        ({"zone": "in(b, c)"}, False),
        ({"zone": "!in(b,c)"}, True),
        ({"zone": "!in(a, c)"}, False),
        ({"disk": "ssd"}, False),
        ({"disk": "!ssd"}, True),
        ({"disk": "!in(ssd,hdd)"}, True),
        ({"zone": "a", "ray.io/accelerator-type": "in(H100,A100)"}, True),
        ({"zone": "a", "ray.io/accelerator-type": "A100"}, False),
    ],
)
def test_a_node_fits_that_fits_every_part(selector: dict[str, str], does: bool) -> None:
    assert fits(selector, A) is does


@pytest.mark.parametrize("condition", ["", "!", "in()", "in(a", "a,b", "!!a", "-a", "a b"])
def test_a_condition_that_is_none_is_said(condition: str) -> None:
    with pytest.raises(ValueError, match="is not a label's value"):
        fits({"zone": condition}, A)


def test_that_no_node_fits_is_said_with_the_labels_that_there_are() -> None:
    nodes = {"x": A, "y": {"zone": "b"}}
    assert no_node_fits({"zone": "c"}, nodes) == "no node has zone=c (there are zone: a, b)"
    assert no_node_fits({"disk": "ssd", "zone": "a"}, nodes) == (
        "no node has disk=ssd, zone=a (there are disk: none; zone: a, b)"
    )


def test_a_node_has_the_pools_that_it_fits() -> None:
    pools = (PoolSpec("gpu", ("jobs",), nodes={"zone": "a"}), PoolSpec("any", ("jobs",)))
    settings = Settings(pools=pools)
    assert [pool.name for pool in settings_of(settings, A, 2).pools] == ["gpu", "any"]
    assert [pool.name for pool in settings_of(settings, {"zone": "b"}, 2).pools] == ["any"]


def test_a_pool_without_a_number_of_workers_has_one_for_each_core_of_the_node() -> None:
    pools = (PoolSpec("two", ("jobs",), workers=2), PoolSpec("unset", ("jobs",), workers=7, by_cores=True))
    head = Settings(pools=pools)
    node = settings_of(head, {}, 5)
    assert {pool.name: pool.workers for pool in node.pools} == {"two": 2, "unset": 5}
    assert fingerprints(node) == fingerprints(head), "a head that is started again knows it as its own"
