"""What ps and top(1) say of the processes of a server: their roles, and of a worker its job."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.killable_command import Command, Server, client_of, start_detached
from support.processes import descendants
from support.waiting import until

from killable.supervisor.linux.env_marker import is_guard

COST_S = 2e-6


def title_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()


@pytest.mark.own_server
def test_each_process_says_what_it_is(server: Server, command: Command) -> None:
    (pool,) = (pool["name"] for pool in server.announcement["pools"])
    job = start_detached(command, "tick")
    with client_of(command.url) as client:
        record = client.job(job).record()
        worker, busy = record["pid"], f"killable: worker {record['worker_id']} tick {job[:12]}"
        assert title_of(worker) == busy
        assert title_of(server.process.pid).startswith("killable: supervisor serve my_jobs.py --port 0")
        titles = {title_of(seen.pid) for seen in descendants(server.process.pid)}
        assert {f"killable: guard of {server.process.pid}", f"killable: zygote {pool}"} <= titles
        guards = [s.pid for s in descendants(server.process.pid) if title_of(s.pid).startswith("killable: guard")]
        assert guards and all(is_guard(pid) for pid in guards) and not is_guard(worker)
        assert any(title.startswith("killable: worker w-") and title.endswith(f" {pool}") for title in titles)
        names = {Path(f"/proc/{s.pid}/comm").read_text().strip() for s in descendants(server.process.pid)}
        assert {"killable-guard", "killable-zygote", f"killable-{record['worker_id']}"} <= names
        assert command.ok("submit", "add", "-i", "a=1") == "3\n"
        workers = [each["pid"] for each in client.workers()]
        until(lambda: not any(" add " in title_of(pid) for pid in workers), "no title is of a job that has ended")


def test_a_program_with_an_executor_keeps_its_name() -> None:
    program = (
        "import os; from killable import Executor\n"
        "with Executor(max_workers=1) as executor:\n"
        "    print(executor.submit(os.getpid).result() > 0, open('/proc/self/cmdline').read().split('\\0')[1])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "True -c\n", done.stderr


def test_a_title_costs_a_job_next_to_nothing() -> None:
    """In a process of its own: this one keeps its command line."""
    program = (
        "import time, timeit; from killable.workers.runtime.process_setup import title\n"
        "title.find(); prefix = 'killable: worker w-3'\n"
        "def both(): title.set(f'{prefix} split job-1a2b3c4d'); title.set(prefix)\n"
        "print(min(timeit.repeat(both, number=2000, repeat=50, timer=time.process_time)) / 2000)"
    )
    cost_s = float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
    assert cost_s < COST_S
