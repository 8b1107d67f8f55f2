"""Which part of a stack its author is shown."""

from __future__ import annotations

import pytest

from killable.supervisor.linux.readable_stack import fault_stack, is_whole, readable, trim

OURS = "/lib/killable/workers"

STACK = f"""\
Stack at the signal (most recent call first):
  File "/home/me/my_jobs.py", line 12 in encode
  File "/home/me/my_jobs.py", line 40 in split
  File "{OURS}/builtin/tokenize.py", line 7 in tokenize
  File "{OURS}/attempt.py", line 86 in _drive
  File "{OURS}/runtime/worker_loop.py", line 30 in run_worker
  File "{OURS}/processes/zygote.py", line 3 in <module>
"""


def test_our_own_frames_say_nothing_to_an_author() -> None:
    shown = trim(STACK, OURS)
    assert shown.splitlines() == STACK.splitlines()[:4]
    assert shown.endswith("\n")


def test_built_in_jobs_are_jobs_like_any_other() -> None:
    assert "builtin/tokenize.py" in trim(STACK, OURS)


def test_only_our_own_folder_is_ours() -> None:
    assert trim(STACK, OURS[:-1]) == STACK
    assert trim(STACK, "/home/me").count("File") == 4


def test_before_the_job_there_is_nothing_to_show() -> None:
    ours_only = "\n".join([STACK.splitlines()[0], *STACK.splitlines()[4:]]) + "\n"
    assert trim(ours_only, OURS) == "The signal came before the job function was entered.\n"


@pytest.mark.parametrize("cut", ["Thread 0x1 (most recent call first):\n", "\n".join(STACK.splitlines()[4:6])])
def test_a_stack_that_was_cut_off_before_the_jobs_frames_says_so(cut: str) -> None:
    assert trim(cut.replace("/home/me", OURS), OURS) == "SIGKILL came before the stack was written.\n"


def test_a_stack_is_whole_when_its_outermost_frame_is_there() -> None:
    assert is_whole(STACK)
    assert is_whole(STACK.replace(" in <module>", " in main") + "  ...\n")
    assert not any(is_whole(STACK[:length]) for length in range(len(STACK)))


def test_all_threads_of_a_native_stack_stay() -> None:
    text = f'Thread 0x1 (most recent call first):\n  File "{OURS}/runtime/worker_loop.py", line 1 in x\n\n' + STACK
    shown = trim(text, OURS)
    assert shown.startswith("Thread 0x1") and shown.count("File") == 3


FAULT = """\
Fatal Python error: Segmentation fault

Thread 0x1 (most recent call first):
  File "/home/me/my_jobs.py", line 3 in wait

Current thread 0x2 (most recent call first):
  File "/home/me/my_jobs.py", line 12 in encode
  File "/home/me/my_jobs.py", line 40 in <module>

Current thread's C stack trace (most recent call first):
  Binary file "/usr/lib/libc.so.6", at +0x45

Extension modules: numpy._core._multiarray_umath, psutil._psutil_linux (total: 2)
"""


def test_of_a_fault_the_python_frames_of_all_threads_are_shown() -> None:
    shown = fault_stack("what the job wrote there\n" + FAULT)
    assert shown.startswith("Thread 0x1") and shown.endswith("line 40 in <module>\n")
    assert shown.count("\n\n") == 1 and "Binary" not in shown and "Extension" not in shown and is_whole(shown)


def test_the_last_fault_is_the_one_that_ended_it() -> None:
    earlier = FAULT.replace("encode", "decode")
    assert "decode" not in fault_stack(earlier + FAULT)


@pytest.mark.parametrize("text", ["", STACK, "Fatal Python error: Aborted\n\n", FAULT.partition("Thread")[0]])
def test_without_a_fault_or_a_python_frame_there_is_nothing_to_show(text: str) -> None:
    assert fault_stack(text) == ""


def test_what_faulthandler_escapes_is_read_as_it_was_written() -> None:
    assert readable(r'  File "/home/j\xf6rg/\u7684/\U0001f5c0.py", line 1 in größe') == (
        '  File "/home/jörg/的/🗀.py", line 1 in größe'
    )
    shown = trim(readable(STACK.replace(OURS, r"/home/j\xf6rg/workers")), "/home/jörg/workers")
    assert shown.splitlines() == STACK.replace(OURS, "/home/jörg/workers").splitlines()[:4]


@pytest.mark.parametrize(
    "escaped", [r"\x0a", r"\x1b", r"\x7f", r"\x85", r"\udcf6", r"\U00110000", r"\Uffffffff", r"\xF6"]
)
def test_what_no_text_may_hold_stays_escaped(escaped: str) -> None:
    """A line's end, a terminal's order, a byte that is no UTF-8, no character, and what faulthandler never writes."""
    assert readable(f"a{escaped}b") == f"a{escaped}b"
