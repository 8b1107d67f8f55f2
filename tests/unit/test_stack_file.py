"""Which of the stacks in a worker's file is shown."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from killable.supervisor.linux.stack_file import StackFile
from killable.workers.runtime.dump_signal import AT_SIGNAL

DUMPED = 'Thread 0x1 (most recent call first):\n  File "jobs.py", line {} in encode\n  File "x", line 1 in <module>\n'
HEARD = f'{AT_SIGNAL}\n  File "jobs.py", line 9 in cleans_up\n'


@pytest.fixture
def descriptor() -> Iterator[int]:
    file = os.memfd_create("stack")
    yield file
    os.close(file)


def test_the_last_stack_that_was_asked_for_counts(descriptor: int) -> None:
    stack = StackFile(os.dup(descriptor))
    stack.ask()
    assert stack.text() is None and not stack.is_whole()
    for line in (1, 2):
        stack.ask(again=True)
        assert not stack.is_whole()
        os.write(descriptor, DUMPED.format(line).encode())
        assert stack.is_whole() and stack.text() == DUMPED.format(line)
    stack.close()


def test_a_job_that_reacts_after_it_was_asked_shows_where_it_was_then(descriptor: int) -> None:
    stack = StackFile(os.dup(descriptor))
    stack.ask(again=True)
    os.write(descriptor, DUMPED.format(1).encode() + HEARD.encode())
    assert stack.text() == HEARD
    stack.close()
