"""What goes to a worker and comes back: large, laid out, annotated, and where a module has an Executor of its own."""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from array_tasks import arrays, describe, fill_up_to
from support import processes

from killable import Context, Executor
from killable.workers.protocol.message_bounds import RESULT_BYTES_IN_PIPE_MAX

if TYPE_CHECKING:
    from somewhere_else import RunContext  # type: ignore[import-not-found]

LARGE = 300_000
"""Elements: more than goes through a pipe in one piece."""


def test_a_stream_brings_large_arrays(executor: Executor) -> None:
    assert [len(array) for array in executor.stream(arrays, 2)] == [100_000] * 2
    future = executor.submit(arrays, 1)
    assert future.result() is None and future.error is None


def test_large_arrays_lie_as_numpy_laid_them(executor: Executor) -> None:
    """With a pickle of any length before them, and more than one."""
    for name in ("a", "a longer one"):
        array, other = executor.submit(dict, {name: np.ones(LARGE)}, other=np.ones(LARGE - 1)).result().values()
        assert describe(array) == (True, 8 * LARGE) and describe(other) == (True, 8 * (LARGE - 1))
        assert memoryview(other)[LARGE - 2] == 1.0
        assert executor.submit(describe, array).result() == (True, 8 * LARGE)


def test_a_large_result_that_cannot_be_laid_goes_through_the_pipe_and_leaves_nothing_to_the_next_one() -> None:
    with Executor(max_workers=1) as executor:
        assert (executor.submit(fill_up_to, 3 << 19, LARGE, 7.0).result() == 7.0).all()
        assert (executor.submit(fill_up_to, 0, LARGE + 1, 9.0).result() == 9.0).all()


KEEPING = """
    import concurrent.futures, os, resource
    import numpy as np
    from killable import Executor

    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
    with Executor(2) as executor:
        calls = [executor.submit(np.ones, 200_000) for _ in range(200)]
        concurrent.futures.wait(calls)  # until it is read each has one, as long as there are any
        kept = [call.result() for call in calls]
        os.close(os.open("/dev/null", os.O_RDONLY))
        print(len(kept), sum(int(each[-1]) for each in kept))
"""


def run_script(text: str, folder: Path) -> list[str]:
    (folder / "program.py").write_text(textwrap.dedent(text))
    ended = subprocess.run([sys.executable, "program.py"], cwd=folder, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()


def test_whoever_keeps_many_large_results_keeps_descriptors(tmp_path: Path) -> None:
    assert run_script(KEEPING, tmp_path) == ["200", "200"]


def memory_files_of_results() -> int:
    return sum("killable-result" in name for name in processes.open_descriptors().values())


def test_a_result_over_half_a_mebibyte_comes_in_a_memory_file(executor: Executor) -> None:
    for size, are_files in ((RESULT_BYTES_IN_PIPE_MAX - 100, False), (RESULT_BYTES_IN_PIPE_MAX, True)):
        before = memory_files_of_results()
        kept = [executor.submit(bytes, size) for _ in range(20)]
        concurrent.futures.wait(kept)
        assert (memory_files_of_results() - before > 10) == are_files
        assert all(len(future.result()) == size for future in kept)


def test_a_future_tells_all_in_one_look(executor: Executor) -> None:
    future = executor.submit(abs, -4)
    assert future.result() == 4 and future._get_snapshot() == (True, False, 4, None)
    failing = executor.submit(int, "four")
    error = failing.exception()
    assert isinstance(error, ValueError) and failing._get_snapshot() == (True, False, None, error)


def given(number: int, run: RunContext | None = None, *, ctx: Context) -> tuple[int, bool]:
    return number, isinstance(ctx, Context)


def first_of_all(ctx: Context, number: int, last: str = "") -> tuple[int, str]:
    ctx.checkpoint(number)
    return number, last


def behind_any(first: int, *rest: int, ctx: Context) -> tuple[int, ...]:
    ctx.checkpoint(first)
    return first, *rest


def borrowing(*args: int, **kwargs: Context) -> tuple[int, bool]:
    return args[0], isinstance(kwargs["ctx"], Context)


borrowing.__annotations__ = dict(given.__annotations__)


def test_a_context_is_given_wherever_it_stands_and_whatever_else_is_annotated(executor: Executor) -> None:
    assert executor.submit(given, 4).result() == (4, True)
    assert executor.submit(first_of_all, 4, "last").result() == (4, "last")
    assert executor.submit(first_of_all, 4, last="last").result() == (4, "last")
    assert executor.submit(first_of_all, number=4).result() == (4, "")
    assert executor.submit(behind_any, 1, 2, 3).result() == (1, 2, 3)
    assert executor.submit(borrowing, 4).result() == (4, True)


MODULE = """
    import os
    from killable import Executor

    pool = Executor(1)

    def tell() -> int:
        return os.getpid()

    def ask_another() -> bool:
        return pool.submit(tell).result() != os.getpid()
"""
PROGRAM = """
    import its_functions

    if __name__ == "__main__":
        pids = {its_functions.pool.submit(its_functions.tell).result() for _ in range(5)}
        print(len(pids), its_functions.pool.submit(its_functions.ask_another).result())
        its_functions.pool.shutdown()
"""


def test_a_modules_own_executor_starts_nothing_in_the_workers_that_import_it(tmp_path: Path) -> None:
    """Its threads would make each of them unfit for a next call. Whoever calls it there has it."""
    (tmp_path / "its_functions.py").write_text(textwrap.dedent(MODULE))
    assert run_script(PROGRAM, tmp_path) == ["1", "True"]
