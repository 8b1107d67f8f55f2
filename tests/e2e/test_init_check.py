"""`doctor` about the init of a container: a process that adopts orphans, and reaps them or not."""

from __future__ import annotations

import subprocess
import sys

import pytest

ADOPTS = '''
import ctypes, signal, subprocess, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
if sys.argv[1] == "reaps":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # then the kernel reaps
program = """
from dataclasses import astuple
from killable.api.cli.diagnosis.init_check import init_check
print(*astuple(init_check()), sep='|')
"""
if sys.argv[1] == "itself":
    exec(program)
else:
    print(subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True).communicate()[0])
'''


@pytest.mark.parametrize(
    ("how", "status", "found", "advice"),
    [
        ("reaps", "ok", "reaps orphans", ""),
        ("leaves", "warn", "does not reap orphans", "docker run --init"),
        ("itself", "ok", "`killable serve` reaps orphans in its place", ""),
    ],
)
def test_an_orphan_is_made_and_whoever_adopts_it_is_watched(how: str, status: str, found: str, advice: str) -> None:
    done = subprocess.run([sys.executable, "-c", ADOPTS, how], capture_output=True, text=True, timeout=120)
    name, said, what, way_out = done.stdout.strip().split("|")
    assert (name, said) == ("init", status) and what.endswith(found) and advice in way_out, done
