"""Which part of a stack its author is shown."""

from __future__ import annotations

from killable.supervisor.stack import trim

OURS = "/lib/killable/workers"

STACK = f"""\
Stack at the signal (most recent call first):
  File "/home/me/my_jobs.py", line 12 in encode
  File "/home/me/my_jobs.py", line 40 in split
  File "{OURS}/builtin/tokenize.py", line 7 in tokenize
  File "{OURS}/attempt.py", line 86 in _drive
  File "{OURS}/harness.py", line 30 in run_worker
"""


def test_our_own_frames_say_nothing_to_an_author() -> None:
    shown = trim(STACK, OURS)
    assert shown.splitlines() == STACK.splitlines()[:4]
    assert shown.endswith("\n")


def test_built_in_jobs_are_jobs_like_any_other() -> None:
    assert "builtin/tokenize.py" in trim(STACK, OURS)


def test_only_our_own_folder_is_ours() -> None:
    assert trim(STACK, "/lib/killable") == STACK
    assert trim(STACK, "/home/me").count("File") == 3


def test_before_the_job_there_is_nothing_to_show() -> None:
    ours_only = "\n".join([STACK.splitlines()[0], *STACK.splitlines()[4:]])
    assert trim(ours_only, OURS) == "The signal came before the job function was entered.\n"


def test_all_threads_of_a_native_stack_stay() -> None:
    text = f'Thread 0x1 (most recent call first):\n  File "{OURS}/harness.py", line 1 in x\n\n' + STACK
    shown = trim(text, OURS)
    assert shown.startswith("Thread 0x1") and shown.count("File") == 3
