"""An orphan that may not be signalled, as what a set-user-ID program has started, costs nobody else its end."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal
from killable.workers.processes.child_reaper import Orphans
from killable.workers.runtime import process_setup

signal.alarm(60)  # a failure, and no hang
stranger = 65534
said, says = os.pipe()
until, ends = os.pipe()
process_setup.adopt_orphans()
if os.fork() == 0:  # root's, as what sudo(8) has started
    os.close(ends)
    if os.fork() == 0:  # and below it one of the user's own
        os.setresuid(stranger, stranger, stranger)
        os.write(says, b"1")
        os.read(until, 1)
        os._exit(0)
    _, status = os.wait()
    os.write(says, bytes([status]))
    os.read(until, 1)
    os._exit(0)
os.read(said, 1)
os.setresuid(stranger, stranger, stranger)
own = os.fork()
if own == 0:
    os.close(ends)
    os.read(until, 1)
    os._exit(0)
orphans, ended = Orphans(), []

def look():
    orphans.kill((), lambda pid, ending, suspects: ended.append(pid), closely=True)

while not ended:
    look()
assert ended == [own] and len(orphans) == 1, (ended, len(orphans))
assert os.read(said, 1)[0] == signal.SIGKILL
os.close(ends)
while orphans:
    look()
assert len(ended) == 2
print("all are gone")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave a process to itself and become somebody else")
def test_what_may_not_be_signalled_is_waited_for_and_what_is_beside_and_below_it_is_killed() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=90)
    assert done.stdout == "all are gone\n", done.stderr
