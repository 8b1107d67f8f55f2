"""What is counted, and what percentiles are made of."""

from __future__ import annotations

import pytest

from killable.supervisor.models import Outcome, Verdict
from killable.supervisor.telemetry.metrics import KINDS, WINDOW, Metrics, Window

CANCELLED = Outcome("cancelled", "cancelled")
PHASES = {"term_sent": 0.1, "acknowledged": 0.4, "exited": 1.0, "tree_empty": 2.0}


def end(metrics: Metrics, outcome: Outcome, verdict: Verdict | None = None, **fields: object) -> None:
    facts: dict[str, object] = {"certificate": {}, "ran_s": 1.0, "tokens": 0, **fields}
    metrics.on_ended("work", outcome, verdict, facts.pop("certificate"), **facts)  # type: ignore[arg-type]


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_no_value_has_no_percentiles() -> None:
    assert Window().percentiles(1) == {"p50": None, "p95": None, "p99": None}


@pytest.mark.row("F4")
def test_percentiles_are_values_that_were_seen_in_the_unit_asked_for() -> None:
    window = Window()
    for number in range(100, 0, -1):
        window.note(number / 1000)
    assert window.percentiles(0.001) == {"p50": 51.0, "p95": 96.0, "p99": 100.0}
    one = Window()
    one.note(2.5)
    assert set(one.percentiles(1).values()) == {2.5}


def test_a_window_forgets_the_oldest() -> None:
    window = Window()
    for number in range(WINDOW + 10):
        window.note(1000 if number < 10 else 1)
    assert window.percentiles(1)["p99"] == 1


@pytest.mark.row("F1")
def test_an_ending_is_counted_by_type_and_outcome() -> None:
    metrics = Metrics()
    metrics.on_types(["work", "other"])
    end(metrics, Outcome("completed"))
    end(metrics, Outcome("failed", "exception"))
    end(metrics, Outcome("failed", "crash"))
    assert metrics.jobs["work", "completed"] == 1 and metrics.jobs["work", "failed"] == 2
    assert {labels for labels, number in metrics.jobs.items() if number == 0} == {
        ("work", "cancelled"), ("work", "timed_out"),
        ("other", "completed"), ("other", "failed"), ("other", "cancelled"), ("other", "timed_out"),
    }  # fmt: skip


@pytest.mark.row("F9")
def test_timeouts_are_counted_by_kind_and_begin_at_nought() -> None:
    metrics = Metrics()
    assert metrics.timeouts == dict.fromkeys(KINDS, 0) and {"queue", "start", "run"} <= set(KINDS)
    end(metrics, Outcome("timed_out", "timeout.run"), Verdict("timeout.run", by="supervisor"))
    end(metrics, Outcome("timed_out", "timeout.queue"), Verdict("timeout.queue"), ran_s=None)
    end(metrics, CANCELLED, Verdict("cancelled", by="user"))
    assert {kind: number for kind, number in metrics.timeouts.items() if number} == {"run": 1, "queue": 1}


@pytest.mark.row("F3")
def test_stops_are_counted_by_cause_and_by_who_asked_from_a_bounded_set() -> None:
    metrics = Metrics()
    end(metrics, CANCELLED, Verdict("cancelled", by="client_gone"))
    end(metrics, Outcome("failed", "limit.output"), Verdict("limit.output", by="supervisor"))
    for name in ("mallory", "mallory2", ""):
        end(metrics, CANCELLED, Verdict("cancelled", by=name))
    assert metrics.stops == {
        ("cancelled", "client_gone"): 1, ("limit.output", "supervisor"): 1, ("cancelled", "other"): 3,
    }  # fmt: skip


@pytest.mark.row("F3")
def test_submissions_are_counted_by_what_became_of_them() -> None:
    metrics = Metrics()
    metrics.on_submitted()
    metrics.on_replayed()
    metrics.on_refused("queue_full")
    metrics.on_refused("a code that nobody knows")
    assert metrics.submissions == {"accepted": 1, "replayed": 1, "queue_full": 1, "internal": 1}


@pytest.mark.row("F8")
def test_signals_are_counted_by_cause() -> None:
    metrics = Metrics()
    end(metrics, CANCELLED, Verdict("cancelled", by="user"), certificate=PHASES)
    both = {"term_sent": 0.1, "kill_sent": 5.0, "tree_empty": 6.0}
    end(metrics, Outcome("timed_out", "timeout.run"), Verdict("timeout.run"), certificate=both)
    end(metrics, Outcome("completed"), certificate={"kill_sent": 1.0, "tree_empty": 2.0})
    end(metrics, Outcome("completed"), certificate={"exited": 0.0, "tree_empty": 0.1})
    assert metrics.kills == {
        ("cancelled", "SIGTERM"): 1, ("timeout.run", "SIGTERM"): 1, ("timeout.run", "SIGKILL"): 1,
        ("lingered", "SIGKILL"): 1,
    }  # fmt: skip


@pytest.mark.row("F4")
def test_a_cancel_is_measured_phase_by_phase_in_seconds() -> None:
    metrics = Metrics()
    end(metrics, CANCELLED, Verdict("cancelled", by="user"), certificate=PHASES)
    end(metrics, CANCELLED, Verdict("cancelled", by="user"), certificate={"requested": 0.0}, ran_s=None)  # in the queue
    end(metrics, Outcome("timed_out", "timeout.run"), Verdict("timeout.run"), certificate=PHASES)
    sums = {phase: sample(metrics, "killable_cancel_seconds_sum", phase=phase) for phase in ("term", "ack", "exit")}
    assert sums == pytest.approx({"term": 0.0001, "ack": 0.0004, "exit": 0.001})
    assert sample(metrics, "killable_cancel_seconds_bucket", phase="term", le="0.0005") == 1
    assert sample(metrics, "killable_cancel_seconds_count", phase="tree_empty") == 1
    assert metrics.cancel.percentiles(0.001)["p50"] == 2.0


@pytest.mark.row("F9")
def test_run_times_are_of_jobs_that_nobody_cancelled() -> None:
    metrics = Metrics()
    end(metrics, Outcome("completed"), ran_s=2.0)
    end(metrics, Outcome("timed_out", "timeout.run"), Verdict("timeout.run"), ran_s=4.0)
    end(metrics, CANCELLED, Verdict("cancelled"), ran_s=0.001)
    end(metrics, Outcome("failed", "spawn"), ran_s=None)
    assert metrics.run["work"].percentiles(1) == {"p50": 4.0, "p95": 4.0, "p99": 4.0}
    assert sample(metrics, "killable_job_duration_seconds_count", type="work") == 2
    assert sample(metrics, "killable_job_duration_seconds_sum", type="work") == 6.0


def test_waits_starts_and_first_tokens_are_measured_by_type() -> None:
    metrics = Metrics()
    metrics.on_left_queue("work", 0.5)
    metrics.on_entered("work", 0.25)
    metrics.on_first_token("work", 0.125)
    metrics.on_recovered(0.02, "default")
    for name, value in (("queue_wait", 0.5), ("start", 0.25), ("first_token", 0.125)):
        assert sample(metrics, f"killable_{name}_seconds_sum", type="work") == value
    assert sample(metrics, "killable_recovery_seconds_sum") == 0.02
    windows = (metrics.queue_wait, metrics.start, metrics.first_token, metrics.recovery)
    assert [window.percentiles(1)["p99"] for window in windows] == [0.5, 0.25, 0.125, 0.02]


@pytest.mark.row("F4")
def test_tokens_are_saved_by_stops_only() -> None:
    metrics = Metrics()
    end(metrics, CANCELLED, Verdict("cancelled"), tokens=10, tokens_left=90)
    end(metrics, Outcome("completed"), tokens=5, tokens_left=7)
    assert (metrics.tokens, metrics.tokens_saved) == (15, 90)


@pytest.mark.row("F2")
def test_two_supervisors_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.on_entered("work", 1.0)
    assert sample(other, "killable_start_seconds_count", type="work") is None
