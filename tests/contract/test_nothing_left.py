"""The guard that no test leaves anything behind strikes: tests that leave something fail by it, each by its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

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


def test_whoever_leaves_something_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_leaks.py").write_text(LEAKS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto",
         "-o", "asyncio_default_fixture_loop_scope=function", f"--rootdir={tmp_path}", "-rA", "test_leaks.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(TESTS), "LEAVE_S": "0.2"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    told = dict(re.findall(r"^ERROR test_leaks.py::test_(\w+) - (.*)$", done.stdout, re.MULTILINE))
    assert set(told) == {"descriptors", "threads", "processes", "orphans", "handlers", "task"}, (
        done.stdout + done.stderr
    )
    assert done.stdout.count("PASSED") == 7
    for kind in set(told) - {"orphans", "task"}:
        assert f"{{'{kind}': " in done.stdout
    assert len(re.findall(r"^E .*\{'processes': .*'sleep'", done.stdout, re.MULTILINE)) == 2, "a child, and an orphan"
