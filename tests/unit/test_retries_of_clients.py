"""Which call is sent once more, and when."""

from __future__ import annotations

import itertools
import time

import pytest

from killable.api.client.exchange import Call, Server
from killable.api.client.outcomes import Unreachable
from killable.api.client.retries import RETRY_S_MAX, Asking, Pause

SERVER = Server.at("http://here", uds=None, api_key=None, headers=None, connect_s=5, answer_s=30)


def test_a_call_that_was_held_for_long_is_sent_again_when_its_connection_breaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its time counts from the first failure: a proxy that cuts what takes a minute would end every wait."""
    call = Call("GET", "/v1/jobs/job-1/result", hold_s=25.0)
    flow = Asking(SERVER).ask(call)
    assert next(flow) is call
    later = time.monotonic() + 3 * RETRY_S_MAX
    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", itertools.count(later, 0.001).__next__)
        assert isinstance(flow.throw(Unreachable("cut off")), Pause)
        assert next(flow) is call
        patched.setattr(time, "monotonic", itertools.count(later + 2 * RETRY_S_MAX, 0.001).__next__)
        with pytest.raises(Unreachable):
            flow.throw(Unreachable("cut off again"))
