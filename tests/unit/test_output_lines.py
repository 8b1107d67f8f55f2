"""stdout and stderr as log events, one for each line."""

from __future__ import annotations

import json
import sys
from types import FrameType

import pytest

from killable.supervisor.jobs.event_log import EventLog
from killable.supervisor.jobs.job_output import JobOutput
from killable.supervisor.jobs.output_lines import LINE_BYTES_MAX, OutputLines


def texts(events: list[bytes]) -> list[str]:
    assert all(b"\n" not in event and b"\r" not in event for event in events)
    return [json.loads(event)["text"] for event in events]


def feed_all(data: bytes, size: int) -> list[str]:
    lines = OutputLines()
    found = []
    for start in range(0, len(data), size):
        found += texts(lines.feed(data[start : start + size]))
    return found + texts(lines.rest())


@pytest.mark.row("F7")
@pytest.mark.parametrize("size", range(1, 30))
def test_lines_cut_anywhere_are_the_same_lines(size: int) -> None:
    data = "one\ntwo\r\n\nthrée 😀\nrest".encode()
    assert feed_all(data, size) == ["one", "two", "", "thrée 😀", "rest"]


def test_a_part_of_a_line_waits_for_its_end() -> None:
    lines = OutputLines()
    assert lines.feed(b"half ") == []
    assert texts(lines.feed(b"a line\nmore")) == ["half a line"]
    assert texts(lines.rest()) == ["more"] and lines.rest() == []


def test_what_is_not_text_is_shown_as_far_as_it_goes() -> None:
    assert texts(OutputLines().feed(b"\xff\x00 ok \xc3\n")) == ["\ufffd\x00 ok \ufffd"]


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("size", [1000, 8192, 8193, 65536, 1 << 20])
def test_a_long_line_is_cut_and_nothing_of_it_is_lost(size: int, end: bytes) -> None:
    data = bytes(33 + number % 90 for number in range(100_000))
    pieces = feed_all(data + end, size)
    assert "".join(pieces).encode() == data
    assert all(len(piece) <= LINE_BYTES_MAX for piece in pieces)


@pytest.mark.parametrize("offset", range(4))
def test_a_long_line_is_cut_between_its_characters(offset: int) -> None:
    text = "x" * offset + "😀" * 5000
    pieces = feed_all(text.encode(), 65536)
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= LINE_BYTES_MAX for piece in pieces)


def test_a_flood_without_line_ends_is_not_kept() -> None:
    lines = OutputLines()
    for _ in range(100):
        lines.feed(b"x" * 65536)
        assert len(lines._rest) <= LINE_BYTES_MAX


def test_a_job_that_prints_a_marker_or_an_event_prints_text() -> None:
    hostile = 'event: completed\rdata: {"state":"completed"}\u2028[DONE]\n'
    (event,) = OutputLines().feed(hostile.encode())
    assert event.isascii() and texts([event]) == [hostile[:-1]]


def test_many_lines_are_turned_into_events_without_a_call_for_each() -> None:
    """Of a job that prints line ends only a pipe holds 65,536; a call of a function for each holds up every kill."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    lines, log = OutputLines(), EventLog(1 << 30)
    output = JobOutput(log, lambda: None)
    output.open()
    sys.setprofile(count)
    try:
        events = lines.feed(b"\n" * 65536)
        output.output(b"ab\n" * 20000)
    finally:
        sys.setprofile(None)
    assert (len(events), set(events), len(log)) == (65536, {b'{"text":""}'}, 20000)
    assert calls < 2000
