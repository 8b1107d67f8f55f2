"""Test whether this machine, or container, has an init that reaps orphans: each that it leaves keeps its number.

Runs in: any Linux machine. An orphan is made and watched; names of programs prove nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from killable.api.cli.diagnosis.check_result import Check

REAP_S = 2.0
"""Seconds for an orphan to be reaped: an init takes a millisecond."""
_LOOK_S = 0.01
_ORPHAN = """
import os
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        pass
    os.write(1, b"%d %d" % (os.getpid(), os.getppid()))
"""


def init_check() -> Check:
    """Let a process lose its parent and end, and check that whoever adopts it waits for it."""
    made = subprocess.run([sys.executable, "-S", "-c", _ORPHAN], capture_output=True, text=True, timeout=60)
    try:
        orphan, reaper = map(int, made.stdout.split())
    except ValueError:
        return Check("init", "warn", f"no orphan could be made: {made.stderr.strip()[-200:]}")
    if reaper == os.getpid():
        return Check("init", "ok", "this process; `killable serve` reaps orphans in its place")
    name = f"process {reaper} ({_read(reaper, 'comm').strip()})"
    give_up = time.monotonic() + REAP_S
    while " (" in (stat := _read(orphan, "stat")) and stat.rpartition(")")[2].split()[1:2] == [str(reaper)]:
        if time.monotonic() >= give_up:
            if _is_server(reaper):
                return Check("init", "ok", f"{name}, a killable server, reaps orphans every few seconds")
            advice = (
                "what a killed server leaves stays a zombie there: give the container an init (`docker run --init`, "
                "`init: true` in Compose, tini or dumb-init as its entry point; in a pod shareProcessNamespace: true)"
            )
            return Check("init", "warn", f"{name} does not reap orphans", advice)
        time.sleep(_LOOK_S)
    return Check("init", "ok", f"{name} reaps orphans")


def _is_server(pid: int) -> bool:
    words = _read(pid, "cmdline").split("\0")
    return "serve" in words and any("killable" in word for word in words[:4])


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""
