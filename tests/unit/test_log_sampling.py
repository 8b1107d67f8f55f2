"""Noisy records are counted; an end that was not meant, an error and what comes seldom are always written."""

from __future__ import annotations

import io
import json
import logging

import pytest
from support.waiting import until

from killable.supervisor.telemetry import log_lines, log_sampling
from killable.supervisor.telemetry.log_sampling import PERIOD_S, LeftOut, Sampling


def record(event: str, level: int = logging.INFO, logger: str = "killable.jobs") -> logging.LogRecord:
    return logging.LogRecord(logger, level, "", 0, event, None, None)


def test_the_first_of_a_period_are_written_and_the_others_told_at_its_end() -> None:
    sampling = Sampling(2)
    assert [sampling.admits(record("refused"), now=0.1 * n) for n in range(5)] == [True, True, False, False, False]
    assert sampling.admits(record("replayed"), now=1.0)  # another name
    assert (sampling.due(), sampling.over(PERIOD_S - 0.1)) == (PERIOD_S, [])
    assert sampling.over(PERIOD_S) == [LeftOut("refused", 3, logging.INFO)]
    assert (sampling.due(), sampling.over(PERIOD_S)) == (None, [])
    assert sampling.admits(record("refused"), now=PERIOD_S + 1)
    assert sampling.admits(record("replayed"), now=PERIOD_S + 2)


def test_what_is_left_out_when_the_log_ends_is_told() -> None:
    sampling = Sampling(1)
    assert [sampling.admits(record("refused"), now=0.0) for _ in range(3)] == [True, False, False]
    assert sampling.over(0.5, at_end=True) == [LeftOut("refused", 2, logging.INFO)]


@pytest.mark.parametrize(
    "kept",
    [
        record("failed"), record("cancelled"), record("timed_out"), record("kill_sent"), record("cancel_requested"),
        record("completed", logging.ERROR), record("journal_failed", logging.ERROR, "killable.journal"),
        record("keys_reloaded", logging.INFO, "killable.server"), record("pool_broken", logging.ERROR),
        record("not in the vocabulary"),
    ],
    ids=lambda each: f"{each.msg} {each.levelname}",
)  # fmt: skip
def test_these_are_never_left_out(kept: logging.LogRecord) -> None:
    sampling = Sampling(1)
    assert all(sampling.admits(kept, now=0.0) for _ in range(10))


def test_texts_of_libraries_are_counted_without_their_arguments() -> None:
    sampling = Sampling(1)
    texts = [logging.LogRecord("asyncio", logging.ERROR, "", 0, "lost %s", (n,), None) for n in range(3)]
    assert [sampling.admits(each, now=0.0) for each in texts] == [True, False, False]


def test_a_burst_of_0_leaves_nothing_out_and_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(Sampling(0).admits(record("refused"), now=0.0) for _ in range(10))
    monkeypatch.setattr(log_sampling, "NAMES_MAX", 2)
    sampling = Sampling(1)
    for name in ("a", "b", "c", "c"):
        assert sampling.admits(record(name, logger="asyncio"), now=0.0)
    assert sampling.admits(record("c", logger="asyncio"), now=PERIOD_S)
    assert not sampling.admits(record("c", logger="asyncio"), now=PERIOD_S)


def test_a_log_tells_how_many_it_left_out_though_nothing_more_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_sampling, "PERIOD_S", 0.05)
    stream = io.StringIO()
    log = log_lines.configure("json", stream=stream, burst=3)
    for _ in range(10):
        logging.getLogger("killable.jobs").info("refused", extra={"code": "queue_full"})
    until(lambda: "left_out" in stream.getvalue(), "the number is told")
    log.close()
    *written, told = map(json.loads, stream.getvalue().splitlines())
    assert [each["event"] for each in written] == ["refused"] * 3
    assert (told["event"], told["name_left_out"], told["number"], told["level"]) == ("left_out", "refused", 7, "info")
