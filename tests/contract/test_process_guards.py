"""The guards of tests with a real supervisor strike: a code that is not reached, an exception that nobody heard."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

GUARDED = """
import asyncio

import pytest
from job_runs import ENDED_WITH


@pytest.mark.code("crash", "exit")
def test_unreached():
    ENDED_WITH.add("exit")


@pytest.mark.code("exit")
def test_reached():
    ENDED_WITH.add("exit")


async def test_unheard(supervisor):
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)


async def test_heard(supervisor):
    await asyncio.sleep(0)
"""
TESTS = Path(__file__).parents[1]


def test_whoever_reaches_no_code_or_hears_no_exception_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_guarded.py").write_text(GUARDED)
    (tmp_path / "conftest.py").write_text((TESTS / "process" / "conftest.py").read_text())
    (tmp_path / "guards.py").write_text((TESTS / "conftest.py").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "guards", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto",
         "-o", "asyncio_default_fixture_loop_scope=function", "-o", "markers=code(*codes): x",
         f"--rootdir={tmp_path}", "-rA", "test_guarded.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{TESTS}:{TESTS / 'process'}", "COLUMNS": "200"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    told = dict(re.findall(r"^(?:ERROR|FAILED) test_guarded.py::test_(\w+) - (.*)$", done.stdout, re.MULTILINE))
    assert set(told) == {"unreached", "unheard"}, done.stdout + done.stderr
    assert "has ended with {'crash'}" in told["unreached"] and "Exception in callback" in told["unheard"]
    assert set(re.findall(r"^PASSED test_guarded.py::test_(\w+)", done.stdout, re.MULTILINE)) >= {"reached", "heard"}
