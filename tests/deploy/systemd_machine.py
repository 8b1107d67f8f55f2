"""A machine of its own for the unit: this machine's systemd as process 1 of namespaces of its own (`machine.sh`)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from support.waiting import until

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "contrib" / "systemd" / "killable.service"
MACHINE = Path(__file__).with_name("machine.sh")
USER = 987
TOML = """
[server]
journal = "jobs.journal"
drain_s = 5
[caps]
grace_s = "60s"
[pools.main]
module = "./my_jobs.py"
"""
JOBS = """
import time
from killable import job

@job(grace_s=60, ack_s=60)
def nap(clean_up_s: float):
    try:
        yield "begun"
        time.sleep(1000)
    finally:
        time.sleep(clean_up_s)
"""
PREPARE = """
set -e
/usr/bin/python3 -m venv /srv/killable/.venv
/srv/killable/.venv/bin/pip --disable-pip-version-check install --quiet /srv/killable/source
chown -R killable:killable /srv/killable
"""


class Machine:
    """A systemd as process 1, and commands in it."""

    def __init__(self, srv: Path, init: int) -> None:
        self.srv, self.init = srv, init

    def __call__(self, *words: str, code: int | None = 0) -> str:
        inside = ["nsenter", "-t", str(self.init), "-m", "-p", "-i", "-u", "-n", "-C", "-r", "-w"]
        done = subprocess.run([*inside, *words], capture_output=True, text=True, timeout=120, check=False)
        assert code is None or done.returncode == code, (words, done.stdout, done.stderr)
        return done.stdout

    def killable(self, *words: str) -> str:
        return self("/srv/killable/.venv/bin/killable", *words)

    def show(self, name: str) -> str:
        return self("systemctl", "show", "--property", name, "--value", "killable").strip()

    def log(self, *matches: str) -> str:
        return self("journalctl", "--no-pager", "--output=cat", *matches)


@contextmanager
def booted(srv: Path) -> Iterator[Machine]:
    with subprocess.Popen(["bash", MACHINE, "boot", srv], stdin=subprocess.DEVNULL) as boot:
        try:

            def init() -> list[psutil.Process]:
                below = psutil.Process(boot.pid).children()
                return [each for each in below if each.name() == "systemd"]

            until(init, "systemd runs")
            machine = Machine(srv, init()[0].pid)
            until(lambda: "running" in machine("systemctl", "is-system-running", code=None), "the machine is up")
            yield machine
        finally:
            boot.kill()
