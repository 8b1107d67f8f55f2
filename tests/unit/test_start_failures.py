"""What workers that do not start mean for their pool."""

from __future__ import annotations

import errno

import pytest

from killable.supervisor.pools.start_failures import FAILURES_MAX, are_too_many, is_broken, is_temporary


@pytest.mark.parametrize(
    ("reason", "of_code", "has_worked", "is_starting", "broken"),
    [
        (None, True, False, False, True),
        (None, True, True, True, True),  # its code does not load any more
        (None, False, True, False, False),
        (None, False, False, True, True),
        (errno.ENOMEM, False, False, False, True),
        (errno.ENOMEM, False, False, True, False),
        (errno.ENOMEM, False, True, False, False),
        (errno.EACCES, False, True, True, True),
    ],
)
def test_a_pool_that_has_worked_or_may_work_yet_keeps_its_queue(
    reason: int | None, of_code: bool, has_worked: bool, is_starting: bool, broken: bool
) -> None:
    assert is_broken(reason, of_code=of_code, has_worked=has_worked, is_starting=is_starting) is broken


def test_one_failure_is_not_too_many() -> None:
    assert not are_too_many(FAILURES_MAX - 1) and are_too_many(FAILURES_MAX)


def test_a_missing_interpreter_is_not_temporary_and_a_full_process_table_is() -> None:
    assert not is_temporary(errno.ENOENT) and is_temporary(errno.EAGAIN)
