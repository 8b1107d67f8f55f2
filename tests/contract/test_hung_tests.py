"""A test that hangs ends its process of the run, also where the test has failed and what it has set up hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent
HANGS = """
import threading, pytest

@pytest.fixture
def hangs():
    yield
    threading.Event().wait()

def test_hangs_behind_its_failure(hangs):
    assert False
"""


def test_what_hangs_behind_a_failure_ends_its_process_and_says_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "test_hangs.py").write_text(HANGS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "support.hung_tests", "-p", "no:cacheprovider", "-n", "1",
         "--max-worker-restart", "0", "-o", "timeout=1", f"--rootdir={tmp_path}"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(TESTS), "AFTER_TIMEOUT_S": "1"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "crashed while running 'test_hangs.py::test_hangs_behind_its_failure'" in done.stdout, done.stdout
    assert f'File "{tmp_path / "test_hangs.py"}", line 7 in hangs' in done.stderr, done.stderr
