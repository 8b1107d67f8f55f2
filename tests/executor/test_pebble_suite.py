"""Pebble's own tests of processes, with an Executor below its interface (`pebble_adapter.py`).

What is not passed is listed with its reason. By hand: `pytest -m pebble`. It downloads Pebble's source, which has them.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import foreign_test_result
import pytest

PROGRAM = Path(__file__).with_name("pebble_test_runner.py")
HUNG_S = 300
"""A module of these takes up to a minute, mostly asleep."""
MODULES = [
    f"test_{what}_{context}"
    for what in ("process_pool", "concurrent_process", "asynchronous_process")
    for context in ("fork", "spawn", "forkserver")
]

INNARDS = "It looks into Pebble's own attributes, or replaces its functions."
WORKER_STAYS = "A cancelled call that ends in its grace, as this one does, keeps its worker."
ONE_CODE = "JobFailed says it, with the code of its own."
NO_NAME = "A worker is there before its calls, and is named after none of them."

NOT_PASSED: dict[str, str] = {
    "TestAsyncIOProcessPool.test_process_pool_stop_cancel": WORKER_STAYS,
    "TestProcessAsynchronous.test_name_keyword_decorated": NO_NAME,
    "TestProcessAsynchronous.test_name_keyword_decorated_result_colision": NO_NAME,
    "TestProcessAsynchronous.test_pickling_error_decorated": ONE_CODE,
    "TestProcessConcurrent.test_name_keyword_decorated": NO_NAME,
    "TestProcessConcurrent.test_name_keyword_decorated_result_colision": NO_NAME,
    "TestProcessConcurrent.test_pickling_error_decorated": ONE_CODE,
    "TestProcessPool.test_process_pool_active_error": INNARDS,
    "TestProcessPool.test_process_pool_broken_initializer": (
        "The future says what the initializer has raised, and not `submit`: the next worker may be made ready."
    ),
    "TestProcessPool.test_process_pool_broken_pickling_error": "The exception arrives, whatever its constructor takes.",
    "TestProcessPool.test_process_pool_broken_worker_launch": INNARDS,
    "TestProcessPool.test_process_pool_expired_worker": INNARDS,
    "TestProcessPool.test_process_pool_join_workers": INNARDS,
    "TestProcessPool.test_process_pool_map_broken_pool": INNARDS,
    "TestProcessPool.test_process_pool_pickling_error_result": ONE_CODE,
    "TestProcessPool.test_process_pool_stop_cancel": WORKER_STAYS,
    "TestProcessPool.test_process_pool_stop_futures": "No future is left without an end: a stop cancels them.",
    "TestProcessPoolDeadlockOnNewFutures.test_pool_deadlock_stop": INNARDS,
    "TestProcessPoolDeadlockOnResult.test_pool_deadlock": INNARDS,
}
"""Of which group which test."""
BY_CHANCE: dict[str, str] = {
    "TestProcessPool.test_process_pool_stop_stopped_callback": (
        "It gives the first call a second: less than an Executor needs to start while the machine is busy."
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of the Pebble that is installed are."""
    made = tmp_path_factory.mktemp("pebble")
    wanted = f"pebble=={importlib.metadata.version('pebble')}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", wanted]
    subprocess.run(command, cwd=made, check=True)
    (archive,) = made.glob("*.tar.gz")
    shutil.unpack_archive(archive, made, filter="data")
    (tests,) = made.glob("*/test")
    return tests


@pytest.mark.pebble
@pytest.mark.timeout(HUNG_S + 60)
@pytest.mark.parametrize("module", MODULES)
def test_as_pebble_s_own(folder: Path, module: str) -> None:
    foreign_test_result.check(PROGRAM, [str(folder), module], NOT_PASSED, HUNG_S, BY_CHANCE)
