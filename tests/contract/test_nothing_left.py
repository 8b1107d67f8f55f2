"""The guard that no test leaves anything behind strikes: tests that leave something fail by it, each by its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

LEAKS = """
import asyncio
import os
import signal
import subprocess
import threading

kept = []


def test_descriptors():
    kept.append(os.pipe())


def test_threads():
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def test_processes():
    kept.append(subprocess.Popen(["sleep", "60"]))


def test_orphans():
    kept.append(int(subprocess.check_output(["sh", "-c", "sleep 60 > /dev/null & echo $!"])))


def test_handlers():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


async def test_task():
    kept.append(asyncio.get_running_loop().create_task(asyncio.Event().wait()))


def test_nothing():
    with kept[1] as process:
        process.kill()
    os.kill(kept[2], signal.SIGKILL)
"""
TESTS = Path(__file__).parents[1]


LEAKS_OF_A_MODULE = """
import os
import subprocess

kept = []


def test_descriptors(executor):
    kept.append(os.pipe())


def test_processes(executor):
    kept.append(subprocess.Popen(["sleep", "60"]))


def test_last(executor):
    with kept[1] as process:
        process.kill()
    assert executor.submit(pow, 2, 3).result() == 8
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run the tests of both files, which pass; return what is printed."""
    folder = tmp_path_factory.mktemp("leaks")
    (folder / "test_leaks.py").write_text(LEAKS)
    (folder / "test_module.py").write_text(LEAKS_OF_A_MODULE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "executor.conftest", "-p", "no:cacheprovider", "-o",
         "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function", f"--rootdir={folder}", "-rA"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(TESTS), "LEAVE_S": "0.05", "COLUMNS": "1000"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.stdout + done.stderr


def errors_in(printed: str, file: str) -> dict[str, str]:
    """Return what is said of each test of a file that has left something."""
    return dict(re.findall(rf"^ERROR {file}::test_(\w+) - (.*)$", printed, re.MULTILINE))


def test_whoever_leaves_something_is_told(printed: str) -> None:
    told = errors_in(printed, "test_leaks.py")
    assert set(told) == {"descriptors", "threads", "processes", "orphans", "handlers", "task"}, printed
    assert printed.count("PASSED test_leaks.py") == 7
    for kind in set(told) - {"orphans", "task"}:
        assert f"{{'{kind}': " in told[kind], told
    assert len(re.findall(r"^E .*\{'processes': .*'sleep'", printed, re.MULTILINE)) == 3, "two children, and an orphan"


def test_beside_a_shared_executor_descriptors_are_told_when_it_is_over(printed: str) -> None:
    assert set(errors_in(printed, "test_module.py")) == {"processes", "last"}, printed
    assert printed.count("PASSED test_module.py") == 3
    assert re.search(r"^E .*the module leaves nothing behind: .*\{'descriptors': ", printed, re.MULTILINE), printed
