"""The context for unit tests of a job function: `killable.testing.Context`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import killable
from killable import OperationTimedOut, Stopping
from killable.testing import Context
from killable.workers.protocol.codec import Unserializable


def streams(text: str, ctx: killable.Context) -> Iterator[str]:
    for number, word in enumerate(text.split(), 1):
        print("at", word)
        yield word
        ctx.progress(number, 2, "words")
    ctx.checkpoint({"at": "end"})
    return {"words": number}


def tidies(text: str, ctx: killable.Context, cleaned: list[str]) -> Iterator[str]:
    try:
        yield from text.split()
    except Stopping as stopping:
        cleaned.append(f"{stopping.cause} by {stopping.by}")
        raise
    finally:
        cleaned.append("closed")


def test_it_collects_what_a_job_does(capsys: pytest.CaptureFixture[str]) -> None:
    ctx = Context()
    assert isinstance(ctx, killable.Context)
    assert ctx.run(streams, text="one two") == {"words": 2}
    assert ctx.tokens == ["one", "two"]
    assert ctx.reports == [{"done": 1, "total": 2, "unit": "words"}, {"done": 2, "total": 2, "unit": "words"}]
    assert (ctx.checkpoints, ctx.partial) == ([{"at": "end"}], {"at": "end"})
    assert ctx.logs == ["at one", "at two"] and capsys.readouterr().out == "at one\nat two\n"


def test_a_function_without_a_context_runs_too() -> None:
    assert Context().run(lambda text: text.upper(), text="a") == "A"
    with pytest.raises(TypeError):
        Context().run(streams, txt="a")


def test_it_may_be_called_as_any_function_is() -> None:
    ctx = Context()
    assert list(streams("one two", ctx)) == ["one", "two"]
    assert len(ctx.reports) == 2


def test_a_stop_is_raised_at_a_yield() -> None:
    ctx, cleaned = Context(), []
    ctx.stop_after(2, by="client_gone")
    with pytest.raises(Stopping) as stopping:
        ctx.run(tidies, text="one two three", cleaned=cleaned)
    assert ctx.tokens == ["one", "two"] and cleaned == ["cancelled by client_gone", "closed"]
    assert ctx.stopping is stopping.value and 0 < stopping.value.remaining_s <= 5
    ctx.stop("timeout.run")
    assert ctx.stopping.cause == "cancelled", "the first cause wins"


@pytest.mark.parametrize("call", ["emit", "progress", "checkpoint", "sleep"])
def test_each_call_notices_a_stop(call: str) -> None:
    ctx = Context()
    ctx.stop()
    with pytest.raises(Stopping):
        getattr(ctx, call)(1)


def test_a_shield_defers_it() -> None:
    ctx = Context()
    ctx.stop()
    with pytest.raises(Stopping), ctx.shield():
        ctx.emit("written")
    assert ctx.tokens == ["written"]


def test_time_goes_by_without_taking_any() -> None:
    ctx = Context(limits={"run_s": "1m"})
    assert ctx.remaining_s == 60
    ctx.sleep(50)
    assert (ctx.slept_s, ctx.remaining_s) == (50, 10)
    with pytest.raises(Stopping) as stopping:
        ctx.sleep(10)
    assert (stopping.value.cause, ctx.remaining_s) == ("timeout.run", 0.0)
    with pytest.raises(ValueError):
        Context().sleep(-1)


def test_operations_time_out_as_declared() -> None:
    ctx = Context()
    with (
        pytest.raises(OperationTimedOut, match="load/download took longer than 5 s"),
        ctx.operation("load"),
        ctx.operation("download", timeout_s=5, on_timeout="raise"),
    ):
        ctx.sleep(4)
        ctx.sleep(2)
    with pytest.raises(Stopping) as stopping, ctx.operation("load", timeout_s=5):
        ctx.sleep(6)
    assert stopping.value.cause == "timeout.operation"


def test_what_no_worker_could_send_is_refused() -> None:
    for call in ("emit", "checkpoint"):
        with pytest.raises(Unserializable):
            getattr(Context(), call)(object())


def test_its_attributes_are_those_that_were_given(tmp_path: Path) -> None:
    ctx = Context(job_id="j", attempt=3, tags={"a": "b"}, correlation_id="c", tmp=tmp_path)
    assert (ctx.job_id, ctx.attempt, ctx.tags, ctx.correlation_id) == ("j", 3, {"a": "b"}, "c")
    assert ctx.tmp.parent == tmp_path
    with pytest.raises(ValueError, match="no limit 'run'"):
        Context(limits={"run": 1})


def resumes(ctx: killable.Context) -> int:
    begun = ctx.previous_checkpoint or {"done": 0}
    begun["done"] += 1
    return begun["done"]


def saves(ctx: killable.Context) -> None:
    (ctx.tmp / "out.txt").write_text("moved")
    ctx.save_file(ctx.tmp / "out.txt")
    ctx.save_file(b"bytes", "raw.bin")
    ctx.save_file(b"again", "raw.bin")


def test_a_later_attempt_has_the_checkpoint_of_the_one_before_anew_each_time() -> None:
    assert Context().run(resumes) == 1
    ctx = Context(attempt=2, previous_checkpoint={"done": 4})
    assert (ctx.run(resumes), ctx.run(resumes), ctx.attempt) == (5, 5, 2)


def test_saved_files_are_collected_and_bad_names_refused(tmp_path: Path) -> None:
    ctx = Context(tmp=tmp_path)
    ctx.run(saves)
    assert ctx.files == {"out.txt": b"moved", "raw.bin": b"again"}
    with pytest.raises(ValueError, match="name"):
        ctx.save_file(b"", "a/b")
    with pytest.raises(FileNotFoundError):
        ctx.save_file(tmp_path / "absent")
