"""What a task logs and warns arrives in the program's loggers and warnings."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import pytest
import talking_tasks

from killable import Executor, WorkerCrashed
from killable.supervisor.settings import StartMethod


@pytest.fixture
def executor(own_executor: Executor) -> Executor:
    """Its workers have the program's levels and filters from when it starts."""
    return own_executor


@pytest.fixture(autouse=True)
def levels(caplog: pytest.LogCaptureFixture) -> None:
    """Those that are carried over when the executor starts."""
    caplog.set_level(logging.INFO, "talking")


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name.startswith("talking")]


def test_records_arrive_in_the_programs_loggers(
    executor: Executor, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    future = executor.submit(talking_tasks.log_at_all_levels)
    assert future.result() == (0, False)
    sent, failed, other = (each for each in caplog.records if each.name.startswith("talking"))
    assert (sent.name, sent.levelname, sent.getMessage()) == ("talking.tasks", "INFO", "sent: looked at")
    assert (sent.funcName, sent.pathname) == ("log_at_all_levels", talking_tasks.__file__)
    assert sent.number == 7 and "lock" in sent.lock  # type: ignore[attr-defined]
    assert {each.job_id for each in (sent, failed, other)} == {future.job_id}  # type: ignore[attr-defined]
    assert failed.exc_text is not None and "ValueError: no luck" in failed.exc_text
    assert (other.name, other.getMessage()) == ("talking.other", "100%")
    assert capsys.readouterr() == ("", "") and future.stdout == ""


def test_they_keep_their_order_and_come_before_the_result(executor: Executor, caplog: pytest.LogCaptureFixture) -> None:
    executor.submit(talking_tasks.log_in_order, 500).result()
    assert messages(caplog) == [str(number) for number in range(500)]


def test_the_levels_that_the_program_has_now_count_too(executor: Executor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "talking")
    executor.submit(talking_tasks.log_at_all_levels).result()
    assert messages(caplog) == ["it failed", "100%"]


def test_a_record_that_cannot_be_made_costs_no_other(
    executor: Executor, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    executor.submit(talking_tasks.log_badly_and_well).result()
    assert messages(caplog) == ["well"] and "--- Logging error ---" in capsys.readouterr().err


def test_what_was_logged_before_a_kill_arrives(executor: Executor, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(WorkerCrashed):
        executor.submit(talking_tasks.log_and_die).result()
    assert messages(caplog) == ["before the kill"]


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_handlers_of_the_worker_are_not_called(
    start_method: StartMethod, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with Executor(max_workers=1, initializer=logging.basicConfig, start_method=start_method) as executor:
        executor.submit(talking_tasks.log_in_order, 1).result()
    assert messages(caplog) == ["0"] and capsys.readouterr() == ("", "")


def test_a_process_that_a_task_forks_logs_to_its_stderr(
    executor: Executor, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    executor.submit(talking_tasks.log_in_child).result()
    assert messages(caplog) == ["in the call"] and capsys.readouterr().err == "in its child\n"


def test_without_logging_the_workers_handle_their_records(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with Executor(max_workers=1, logging=False) as executor:
        executor.submit(talking_tasks.log_in_order, 2).result()
        executor.submit(talking_tasks.warn_in_loop, 1).result()
    assert messages(caplog) == []
    printed = capsys.readouterr().err
    assert printed.startswith("0\n1\n") and "UserWarning: again" in printed


@pytest.fixture
def unfiltered() -> Iterator[None]:
    """Warnings are not errors, as they are in these tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def test_warnings_are_warnings_of_the_program(
    unfiltered: None, executor: Executor, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # they are given once in a task, and the next task gives them again
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            line = executor.submit(talking_tasks.warn_in_loop, 50).result()
        again, own = caught
        assert (again.category, str(again.message), again.filename) == (UserWarning, "again", talking_tasks.__file__)
        assert type(own.message) is talking_tasks.OwnWarning and own.message.number == 5 and own.lineno == line
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        executor.submit(talking_tasks.warn_in_loop, 1).result()
    with pytest.warns(talking_tasks.OwnWarning), pytest.warns(UserWarning, match="again"):
        executor.submit(talking_tasks.warn_in_loop, 1).result()
    assert capsys.readouterr() == ("", "")


def test_filters_hold_in_tasks_from_the_start_on() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        with Executor(max_workers=1) as executor:
            assert executor.submit(talking_tasks.raise_what_is_warned).result() == "raised an error"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Executor(max_workers=1) as executor:
            warnings.simplefilter("error")
            assert executor.submit(talking_tasks.raise_what_is_warned).result() == "not raised"
    assert [str(each.message) for each in caught] == ["an error"], "where it is too late to raise it, it is shown"
