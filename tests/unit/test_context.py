"""What a job sees of its own run."""

import copy
import pickle
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from killable.workers.authoring.context import Context, Stopping


class Recorder:
    """A channel that keeps what comes."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []

    def token(self, value: Any) -> None:
        self.sent.append(("token", value))

    def progress(self, value: dict[str, Any]) -> None:
        self.sent.append(("progress", value))

    def checkpoint(self, value: Any) -> None:
        self.sent.append(("checkpoint", value))


class Notification:
    def __init__(self) -> None:
        self.stopping: Stopping | None = None


def make_context(**given: Any) -> tuple[Context, Recorder]:
    recorder = Recorder()
    return Context(recorder, job_id="ab12", **given), recorder


def test_everything_that_is_emitted_goes_through_the_channel() -> None:
    context, recorder = make_context()
    context.emit("one")
    context.progress(1, 2, "chars")
    context.progress(3)
    context.checkpoint({"a": 1})
    assert recorder.sent == [
        ("token", "one"),
        ("progress", {"done": 1, "total": 2, "unit": "chars"}),
        ("progress", {"done": 3, "total": None, "unit": ""}),
        ("checkpoint", {"a": 1}),
    ]


def test_emit_is_the_channels_own_method() -> None:
    context, recorder = make_context()
    assert context.emit == recorder.token


def test_defaults() -> None:
    context, _ = make_context()
    assert (context.job_id, context.attempt, context.tags, context.limits) == ("ab12", 1, {}, {})
    assert context.remaining_s is None
    assert context.stopping is None


def test_remaining_counts_from_when_the_job_was_entered() -> None:
    context, _ = make_context(limits={"run_s": 60}, entered=time.monotonic() - 20)
    assert context.remaining_s == pytest.approx(40, abs=5)


def test_remaining_is_never_negative() -> None:
    context, _ = make_context(limits={"run_s": 60}, entered=time.monotonic() - 100)
    assert context.remaining_s == 0.0


def test_no_run_s_is_no_remaining() -> None:
    context, _ = make_context(limits={"run_s": None})
    assert context.remaining_s is None


def test_stopping_is_that_of_the_stop_signal() -> None:
    notification = Notification()
    context, _ = make_context(stop_signal=notification)
    assert context.stopping is None
    notification.stopping = Stopping("cancelled", by="user")
    assert context.stopping is notification.stopping


def test_tmp_is_private_and_made_once_on_first_use(tmp_path: Path) -> None:
    parent = tmp_path / "jobs" / "ab12-1"
    context, _ = make_context(tmp=parent)
    assert context.tmp_path_if_made is None
    assert not parent.exists()
    made = context.tmp
    assert made.parent == parent
    assert made.name.startswith("killable-")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert stat.S_IMODE(parent.stat().st_mode) == 0o700
    assert context.tmp == made
    assert context.tmp_path_if_made == made
    assert list(parent.iterdir()) == [made]


@pytest.fixture
def alarm() -> Iterator[None]:
    """SIGALRM raises Stopping, as the harness's SIGTERM handler does."""

    def stop(_signum: int, _frame: object) -> None:
        raise Stopping("timeout.run")

    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_stopping_interrupts_sleep(alarm: None) -> None:
    context, _ = make_context()
    with pytest.raises(Stopping):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        context.sleep(3600)


def test_a_negative_sleep_is_refused() -> None:
    context, _ = make_context()
    with pytest.raises(ValueError, match="non-negative"):
        context.sleep(-1)


def test_repr_says_what_runs_and_how_long_it_may() -> None:
    notification = Notification()
    context, _ = make_context(attempt=2, limits={"run_s": 0}, stop_signal=notification)
    assert repr(context) == "<Context job=ab12 attempt=2 remaining=0.0s>"
    notification.stopping = Stopping("cancelled")
    assert repr(context) == "<Context job=ab12 attempt=2 remaining=0.0s stopping='cancelled'>"
    assert repr(make_context()[0]) == "<Context job=ab12 attempt=1>"


def test_stopping_is_a_system_exit_with_the_code_of_sigterm() -> None:
    stopping = Stopping("cancelled", by="user", grace_s=2.0, deadline=9.0, reason="too slow")
    assert isinstance(stopping, SystemExit)
    assert not isinstance(stopping, Exception)
    assert stopping.code == 143
    assert str(stopping) == "cancelled by user, 2 s of grace: too slow"
    assert str(Stopping("timeout.run", grace_s=0.5)) == "timeout.run, 0.5 s of grace"


def test_stopping_knows_how_long_is_left() -> None:
    assert Stopping("cancelled", deadline=time.monotonic() + 60).remaining_s == pytest.approx(60, abs=5)
    assert Stopping("cancelled", deadline=time.monotonic() - 1).remaining_s == 0.0


@pytest.mark.parametrize("copied", [copy.copy, lambda stopping: pickle.loads(pickle.dumps(stopping))])
def test_stopping_survives_copy_and_pickle(copied: Any) -> None:
    twin = copied(Stopping("cancelled", by="user", grace_s=2.0, deadline=9.0, reason="too slow"))
    assert type(twin) is Stopping
    assert (twin.code, twin.cause, twin.by, twin.grace_s, twin.deadline, twin.reason) == (
        143,
        "cancelled",
        "user",
        2.0,
        9.0,
        "too slow",
    )
