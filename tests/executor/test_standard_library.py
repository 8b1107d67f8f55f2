"""CPython's own tests of `ProcessPoolExecutor`, where the interpreter ships them, with an Executor in its place.

What is not passed is listed with its reason; a test that fails and is not listed fails here, and so does one that is
listed and passes. By hand: `pytest -m cpython`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import foreign_test_result
import pytest

PROGRAM = Path(__file__).with_name("cpython_test_runner.py")
HUNG_S = 300
"""A module of these takes a minute or two, mostly asleep."""

INNARDS = "It looks into ProcessPoolExecutor's own attributes."
INHERITED = (
    "A lock, semaphore or queue of multiprocessing cannot be sent: it goes to children of the program only, and nothing"
    " is ever forked from it."
)
ONE_ONLY = "The error is that of this call: nothing else is broken by it."

NOT_PASSED: dict[str, str] = {
    "ExecutorDeadlock.test_error_at_task_unpickle": ONE_ONLY + " It is what unpickling raised.",
    "ExecutorDeadlock.test_error_during_result_pickle_on_worker": "JobFailed says it, with the code of its own.",
    "ExecutorDeadlock.test_error_during_result_unpickle_in_result_handler": ONE_ONLY + " It is a JobFailed.",
    "ExecutorDeadlock.test_exit_during_func_exec_on_worker": "WorkerExited, not a SystemExit in the program.",
    "ExecutorDeadlock.test_exit_during_result_pickle_on_worker": "WorkerExited, not a SystemExit in the program.",
    "ExecutorDeadlock.test_exit_during_result_unpickle_in_result_handler": ONE_ONLY + " It is a JobFailed.",
    "ExecutorDeadlock.test_shutdown_deadlock_pickle": INNARDS,
    "FailingInitializer.test_initializer": INHERITED,
    "ProcessPoolExecutor.test_idle_process_reuse_multiple[forkserver]": INNARDS,
    "ProcessPoolExecutor.test_idle_process_reuse_multiple[spawn]": INNARDS,
    "ProcessPoolExecutor.test_idle_process_reuse_one[forkserver]": INNARDS,
    "ProcessPoolExecutor.test_idle_process_reuse_one[spawn]": INNARDS,
    "ProcessPoolExecutor.test_killed_child": INNARDS + " A worker that is killed breaks its own call only.",
    "ProcessPoolExecutor.test_max_tasks_per_child[fork]": "Here `max_tasks_per_child` goes with fork, too.",
    "ProcessPoolExecutor.test_max_tasks_per_child[forkserver]": INNARDS,
    "ProcessPoolExecutor.test_max_tasks_per_child[spawn]": INNARDS,
    "ProcessPoolExecutor.test_max_tasks_per_child_defaults_to_spawn_context": INNARDS,
    "ProcessPoolExecutor.test_python_finalization_error": "It forbids a second thread; there is but one.",
    "ProcessPoolExecutor.test_saturation": INHERITED,
    "ProcessPoolExecutor.test_traceback": "The class of the cause is another private one; what it says is the same.",
    "ProcessPoolShutdown.test_cancel_futures": "Nothing has begun by then: all are cancelled, and it wants one over.",
    "ProcessPoolShutdown.test_context_manager_shutdown": INNARDS,
    "ProcessPoolShutdown.test_del_shutdown": INNARDS,
    "ProcessPoolShutdown.test_processes_terminate": INHERITED,
    "ProcessPoolShutdown.test_shutdown_no_wait": INNARDS,
}
"""Of which group which test, with which context if not with all."""


def modules() -> list[str]:
    """Return the modules of them that test executors; "" where all are in one, which is before 3.12."""
    try:
        package = importlib.util.find_spec("test.test_concurrent_futures")
    except ModuleNotFoundError:
        package = None
    if package is None:
        return []
    if package.submodule_search_locations is None:
        return [""]
    (folder,) = package.submodule_search_locations
    return sorted(path.stem for path in Path(folder).glob("test_*.py") if "create_executor_tests(" in path.read_text())


@pytest.mark.cpython
@pytest.mark.timeout(HUNG_S + 60)
@pytest.mark.parametrize("module", modules())
def test_as_the_library_s_own(module: str) -> None:
    foreign_test_result.check(PROGRAM, [module], NOT_PASSED, HUNG_S)
