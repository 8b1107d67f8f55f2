"""A head never counts on the end of a node that may still run, however long messages take."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from killable.supervisor.cluster.lease import NodeLease, end_of_node


def test_a_lease_runs_from_the_answer_that_the_head_has_received() -> None:
    lease = NodeLease(10)
    assert not lease.is_over(1e9), "no head uses it"
    lease.begin(100)
    assert not lease.is_over(109.9) and lease.is_over(110)
    first, second = lease.answer(103), lease.answer(104)
    lease.renew(second)
    assert lease.until == 114
    lease.renew(first)
    assert lease.until == 114, "what comes late takes nothing back"
    lease.renew(7)
    assert lease.until == 114, "an answer that was never given gives nothing"


def test_a_call_that_was_long_on_its_way_gives_no_more_time() -> None:
    lease = NodeLease(10)
    lease.begin(0)
    number = lease.answer(1)
    lease.renew(number)  # received at 10.9: the head had sent it at any time from 1 on
    assert lease.until == 11


TIMES = st.lists(st.tuples(st.floats(0, 9), st.floats(0, 30), st.floats(0, 30)), min_size=1, max_size=30)


@settings(deadline=None)  # also where the properties do not say so
@given(TIMES, st.floats(0.5, 60))
def test_the_head_waits_longer_than_the_node_works(rounds: list[tuple[float, float, float]], lease_s: float) -> None:
    """Each round: how long the node waits with its answer, how long that is on its way, and the head's next call."""
    lease, now = NodeLease(lease_s), 0.0
    lease.begin(now)
    number, at = lease.answer(now), now
    heard = at
    for waits, to_head, to_node in rounds:
        heard = max(heard, at + to_head)
        now = heard + to_node
        if lease.is_over(now):
            break
        lease.renew(number)
        assert lease.until is not None and lease.until <= heard + lease_s
        now += waits
        if lease.is_over(now):
            break
        number, at = lease.answer(now), now
    assert lease.until is not None and lease.until < end_of_node(heard, lease_s)
