"""What is taken for a place in a trace, and what is not (W3C Trace Context)."""

from __future__ import annotations

import pytest

from killable.workers.protocol.call_message import decode_call, encode_call
from killable.workers.protocol.trace_context import TraceContext, parsed

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("text", "is_sampled"),
    [(GOOD, True), (f" {GOOD}\t", True), (f"00-{TRACE}-{SPAN}-00", False), (f"00-{TRACE}-{SPAN}-03", True),
     (f"01-{TRACE}-{SPAN}-01-more", True), (f"cc-{TRACE}-{SPAN}-01-", True), (f"01-{TRACE}-{SPAN}-01", True)],
)  # fmt: skip
def test_a_place_is_read(text: str, is_sampled: bool) -> None:
    assert parsed(text) == TraceContext(TRACE, SPAN, is_sampled)


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", GOOD[:-1], GOOD + "-more", GOOD + "x", f"ff-{TRACE}-{SPAN}-01", f"01-{TRACE}-{SPAN}-01.more",
     f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", GOOD.upper(), f"00-{TRACE[:-1]}g-{SPAN}-01",
     f"00_{TRACE}-{SPAN}-01", f"00-{TRACE}_{SPAN}-01", f"00-{TRACE}-{SPAN}_01", f"00-{TRACE}-{SPAN}-0x",
     f"0 -{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-+1", f"٠٠-{TRACE}-{SPAN}-01"],
)  # fmt: skip
def test_anything_else_is_none(text: str) -> None:
    assert parsed(text) is None


@pytest.mark.parametrize(
    ("state", "kept"),
    [("a=b", "a=b"), (" a=b,\tc=d ", "a=b,\tc=d"), (",".join(["a=b"] * 32), ",".join(["a=b"] * 32)),
     (",".join(["a=b"] * 33), ""), ("a=" + "b" * 511, ""), ("a=ü", ""), ("a=b\n", ""), ("a=\x00", "")],
)  # fmt: skip
def test_a_state_is_passed_on_as_it_came_or_left_out(state: str, kept: str) -> None:
    found = parsed(GOOD, state)
    assert found is not None and found.state == kept


@pytest.mark.parametrize("headers", [{}, {"traceparent": GOOD}, {"traceparent": GOOD, "tracestate": "a=b c,d=e"}])
def test_a_call_has_its_place(headers: dict[str, str]) -> None:
    call = decode_call(encode_call(7, 8, 3, 1, b"job-1", b"{}", b"in\nput", headers))
    assert (call.fence, call.after, call.flags, call.shared, call.job_id) == (7, 8, 3, 1, "job-1")
    assert (call.limits, call.input) == (b"{}", b"in\nput")
    assert (call.traceparent, call.tracestate) == (headers.get("traceparent", ""), headers.get("tracestate", ""))
