"""Tests of other modules again, over the head of a cluster whose messages come late, twice, and out of order.

These are the few that show each kind of answer. All: ENGINE=cluster pytest tests/api.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from api_server import OwnServer, StartServer
from support.engines import Cluster
from support.in_process_carrier import Faults
from test_http_cancel import test_a_smaller_grace_shortens_what_is_running as test_grace
from test_http_cancel import test_delete_says_stopping_until_the_tree_is_gone as test_stopping
from test_http_results import test_a_checkpoint_can_be_fetched as test_checkpoint
from test_http_results import test_a_result_is_the_returned_value as test_result
from test_http_retries import test_a_stream_tells_of_an_attempt_that_is_followed_by_another as test_retry
from test_http_stream import test_a_job_that_asked_for_it_stops_when_its_last_reader_leaves as test_last_reader
from test_http_stream import test_a_reader_resumes_in_the_middle_of_a_running_job as test_resumed
from test_http_stream import test_all_that_a_job_can_say as test_events
from test_http_stream import test_pings_stand_between_events_and_before_the_end as test_large_events
from test_http_submit import test_a_large_input_is_checked_and_arrives_whole as test_large_input

from killable.supervisor.cluster.lease import Times

__all__ = [
    "test_checkpoint", "test_events", "test_grace", "test_large_events", "test_large_input", "test_last_reader",
    "test_result", "test_resumed", "test_retry", "test_stopping",
]  # fmt: skip

pytestmark = pytest.mark.own_server
LASTING = Times(lease_s=60, poll_s=0.5, patience_s=30)
"""No node is lost, however slow the machine is."""


@pytest_asyncio.fixture
async def server(start_server: StartServer) -> AsyncIterator[OwnServer]:
    cluster = Cluster(("a",), LASTING, seed=31)
    async with start_server(engine=cluster.head) as running:
        cluster.carrier.faults = Faults(doubled=0.2, late=0.2, late_s=0.02)
        yield running
        cluster.carrier.faults = Faults()
