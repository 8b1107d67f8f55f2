"""SIGKILLs of a real server under load, with a journal on a small file system that is full now and then. By hand:

KILLABLE_JOURNAL_KILLS=200 pytest -m soak -s tests/e2e/test_journal_soak.py
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.killable_command import Command, Server
from support.waiting import Pending, until

KILLS = int(os.environ.get("KILLABLE_JOURNAL_KILLS", "200"))
CLIENTS = 4
JOBS = """
import os
import time
from collections.abc import Iterator

from killable import Context, job


def note(ctx: Context) -> None:
    \"\"\"Write down that this job has run.\"\"\"
    log = os.open(os.environ["RAN_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(log, f"{ctx.job_id}\\n".encode())
    os.close(log)


@job
def quick(ctx: Context) -> str:
    \"\"\"Return at once.\"\"\"
    note(ctx)
    return ctx.job_id


@job
def streams(ctx: Context, seconds: float = 0.05) -> Iterator[str]:
    \"\"\"Yield for some time.\"\"\"
    note(ctx)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield "tick"
        ctx.sleep(0.01)
"""
CONFIGURATION = """
[server]
port = 0
journal = "disk/jobs.journal"
keep_jobs = 1000000
keep_bytes = "1GiB"
queue_jobs_max = 100
journal_output = OUTPUT

[pools.own]
module = "./my_jobs.py"
workers = 3
"""


@pytest.fixture(params=["false", "true"], ids=["without output", "with output"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "killable-soak", str(disk)]
    if os.geteuid() or subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("only root may mount a file system of its own")
    try:
        (tmp_path / "my_jobs.py").write_text(JOBS)
        (tmp_path / "killable.toml").write_text(CONFIGURATION.replace("OUTPUT", request.param))
        yield tmp_path
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@dataclass
class Seen:
    """What all clients were told."""

    url: str = ""
    is_over: bool = False
    accepted: set[str] = field(default_factory=set)
    told: dict[str, tuple[str, Any]] = field(default_factory=dict)
    """State and error code of ends that were told as durable."""
    marked: int = 0
    """Ends that were told as not durable."""
    changed: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    def end(self, job_id: str, state: str, error: dict[str, Any] | None, durable: Any) -> None:
        if durable is False:
            self.marked += 1
            return
        told = state, error and error["code"]
        first = self.told.setdefault(job_id, told)
        if first != told:
            self.changed.append(f"{job_id}: {first} became {told}")


class Client(threading.Thread):
    """Submits one job after the other, and asks for its end in one of the ways that there are."""

    def __init__(self, seen: Seen, number: int) -> None:
        super().__init__(name=f"client-{number}")
        self._seen = seen
        self._dice = random.Random(number)
        self._number = number
        self._http = httpx.Client(timeout=10)

    def run(self) -> None:
        turn = 0
        with self._http:
            while not self._seen.is_over:
                turn += 1
                try:
                    self._one(f"{self._number}-{turn}")
                except (httpx.HTTPError, OSError):
                    pass  # the server was killed; the submission was repeated, the end is asked for later

    def _one(self, key: str) -> None:
        type = self._dice.choice(("quick", "quick", "streams"))
        job_id = self._submit(key, {"type": type, "input": {}})
        if not job_id:
            return
        address = f"{self._seen.url}/v1/jobs/{job_id}"
        match self._dice.choice(("wait", "stream", "poll", "delete", "leave")):
            case "wait":
                self._http.get(f"{address}/result", params={"wait_s": 5})
                self._record(self._http.get(address).json())
            case "stream":
                self._stream(address)
            case "poll":
                for _ in range(20):
                    if self._record(self._http.get(address).json()):
                        break
            case "delete":
                answer = self._http.delete(address, params={"grace_s": 0}).json()
                if answer.get("status") == "cancelled":
                    self._seen.end(job_id, "cancelled", {"code": "cancelled"}, answer.get("durable"))

    def _submit(self, key: str, body: dict[str, Any]) -> str:
        """Repeat it until there is an answer; return the id of an accepted job."""
        while not self._seen.is_over:
            try:
                answer = self._http.post(f"{self._seen.url}/v1/jobs", json=body, headers={"idempotency-key": key})
            except (httpx.HTTPError, OSError):
                time.sleep(0.02)
                continue
            content = answer.json()
            if answer.status_code == 202:
                self._seen.accepted.add(content["job_id"])
                self._record(content)
                return str(content["job_id"])
            self._seen.refused[content["code"]] += 1
            time.sleep(0.02)
        return ""

    def _stream(self, address: str) -> None:
        with self._http.stream("GET", f"{address}/stream") as answer:
            for line in answer.iter_lines():
                if line.startswith('data: {"job_id"') and '"state"' in line:
                    self._record(json.loads(line[6:]))

    def _record(self, record: dict[str, Any]) -> bool:
        """Note an end, if it is one."""
        ended = record.get("state") in ("completed", "failed", "cancelled", "timed_out")
        if ended:
            self._seen.end(record["job_id"], record["state"], record["error"], record.get("durable"))
        return ended


def fill(disk: Path) -> None:
    """Leave no room."""
    assert os.statvfs(disk).f_blocks * os.statvfs(disk).f_frsize <= 64 << 20, "not the small disk of this test"
    with open(disk / "ballast", "wb", buffering=0) as ballast:
        with suppress(OSError):  # the server takes some of it meanwhile
            free = os.statvfs(disk)
            os.posix_fallocate(ballast.fileno(), 0, (free.f_bavail - 16) * free.f_bsize)
        with suppress(OSError):
            while True:
                ballast.write(bytes(4096))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_kills_under_load_with_a_full_disk_in_between(folder: Path) -> None:
    """0 jobs are run twice, 0 accepted ones are lost, 0 ends that were told change."""
    seen, dice = Seen(), random.Random(7)
    clients = [Client(seen, number) for number in range(CLIENTS)]
    ran = folder / "ran"
    command = Command(folder)
    fills = 0
    server = start(command, ran, seen)
    for client in clients:
        client.start()
    try:
        for number in range(KILLS):
            time.sleep(dice.uniform(0.05, 1.0))
            if number % 4 == 3:
                fill(folder / "disk")
                fills += 1
                time.sleep(dice.uniform(0.05, 1.5))
                if dice.random() < 0.5:  # room again before it dies
                    (folder / "disk" / "ballast").unlink()
                    time.sleep(dice.uniform(0.0, 1.5))
            server.die()
            (folder / "disk" / "ballast").unlink(missing_ok=True)
            server = start(command, ran, seen)
    except BaseException:
        server.die()
        raise
    finally:
        seen.is_over = True
        for client in clients:
            client.join()
    with httpx.Client(base_url=seen.url, timeout=60) as http:
        until(lambda: (left := active(http)) == 0 or Pending(left), "all jobs are over")
        ends = Counter[str]()
        lost = []
        for job_id in seen.accepted:
            answer = http.get(f"/v1/jobs/{job_id}")
            if answer.status_code != 200:
                lost.append(job_id)
                continue
            record = answer.json()
            ends[record["error"]["code"] if record["error"] else record["state"]] += 1
            seen.end(job_id, record["state"], record["error"], record.get("durable"))
    server.stop()
    times = Counter(ran.read_text().split())
    twice = [job_id for job_id, number in times.items() if number > 1]
    print(
        f"\n{KILLS} kills, {fills} times no room; {len(seen.accepted)} accepted, {times.total()} runs; "
        f"{len(seen.told)} ends told, {seen.marked} marked; refused {dict(seen.refused)}; ends {dict(ends)}; "
        f"twice {len(twice)}, lost {len(lost)}, changed {len(seen.changed)}"
    )
    assert (twice, lost, seen.changed) == ([], [], [])


def start(command: Command, ran: Path, seen: Seen) -> Server:
    server = Server(command, env={"RAN_LOG": str(ran)})
    seen.url = server.url
    return server


def active(http: httpx.Client) -> int:
    counts = http.get("/v1/metrics").json()
    return int(counts["queued"] + counts["running"] + counts["stopping"])
