"""What a server needs of a machine: memory of itself, a worker, a kept job, an open stream; bytes of a job on disk.

    .venv/bin/python benchmarks/bench_sizing.py [--json]

Starts servers of its own, each for one constant, and divides the growth of their memory (proportional set size) by how
many of the thing there are. docs/how-to/sizing.md has the figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

JOBS = """
import time
from killable import job

@job
def nothing() -> int:
    return 1

@job(run_s=600)
def waits():
    yield "begun"
    time.sleep(600)
"""
SERVER = [sys.executable, "-m", "killable.api.cli", "serve", "--port", "0", "--json", "--log-level", "error"]
KEPT, STREAMS, WORKERS = 1500, 300, 8
KIB, MIB = 1024, 1 << 20


class Server:
    """One `killable serve`."""

    def __init__(self, process: subprocess.Popen[str], url: str, folder: Path) -> None:
        self.process, self.url, self.folder = process, url, folder

    def bytes(self) -> int:
        """Return the memory of the server's own process."""
        return int(psutil.Process(self.process.pid).memory_full_info().pss)

    def bytes_of_all(self) -> int:
        """Return the memory of the server and everything below it; shared pages count once."""
        every = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return sum(int(each.memory_full_info().pss) for each in every)


@contextmanager
def served(workers: int, settings: str = "") -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "my_jobs.py").write_text(JOBS)
        pool = f'[pools.main]\nmodule = "./my_jobs.py"\nworkers = {workers}\n'
        (folder / "killable.toml").write_text(f"[server]\n{settings}\n{pool}")
        with subprocess.Popen(SERVER, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            with httpx.Client(base_url=url) as client:
                client.post("/v1/jobs", json={"type": "nothing"}, headers={"Prefer": "wait=60"}, timeout=60)
            yield Server(process, url, folder)
            process.terminate()
            process.wait(60)


def fill(server: Server, number: int) -> None:
    """Run this many jobs to their end."""
    with httpx.Client(base_url=server.url, timeout=60) as client, ThreadPoolExecutor(8) as threads:

        def one(_: int) -> None:
            client.post("/v1/jobs", json={"type": "nothing"}, headers={"Prefer": "wait=60"})

        list(threads.map(one, range(number)))


def of_server_and_workers() -> dict[str, float]:
    sizes = {}
    for workers in (1, WORKERS):
        with served(workers) as server:
            with httpx.Client(base_url=server.url) as client:
                for _ in range(workers):
                    client.post("/v1/jobs", json={"type": "waits"})
                until_busy(client, workers)
            sizes[workers] = server.bytes_of_all(), server.bytes()
    each = (sizes[WORKERS][0] - sizes[1][0]) / (WORKERS - 1)
    return {"server_mib": sizes[1][1] / MIB, "whole_with_one_worker_mib": sizes[1][0] / MIB, "worker_mib": each / MIB}


def until_busy(client: httpx.Client, workers: int) -> None:
    """Return when so many jobs run: the first token of each has come."""
    for job in client.get("/v1/jobs").json()["jobs"]:
        if job["type"] == "waits":
            with client.stream("GET", f"/v1/jobs/{job['job_id']}/stream", timeout=60) as stream:
                for line in stream.iter_lines():
                    if line == "event: token":
                        break


def of_kept_jobs() -> dict[str, float]:
    with served(2, f'keep_jobs = {2 * KEPT}\njournal = "jobs.journal"') as server:
        fill(server, 200)
        before, on_disk = server.bytes(), journal_bytes(server)
        fill(server, KEPT)
        return {
            "kept_job_kib": (server.bytes() - before) / KEPT / KIB,
            "journal_job_kib": (journal_bytes(server) - on_disk) / KEPT / KIB,
        }


def journal_bytes(server: Server) -> int:
    return sum(each.stat().st_size for each in server.folder.glob("jobs.journal*") if each.is_file())


def of_streams() -> dict[str, float]:
    with served(1, "connections_max = 4000") as server, httpx.Client(base_url=server.url) as client:
        job = client.post("/v1/jobs", json={"type": "waits"}).json()
        until_busy(client, 1)
        before = server.bytes()
        limits = httpx.Limits(max_connections=None)
        with httpx.Client(base_url=server.url, limits=limits, timeout=None) as readers:
            opened = [
                readers.send(readers.build_request("GET", job["stream_url"]), stream=True) for _ in range(STREAMS)
            ]
            size = (server.bytes() - before) / STREAMS / KIB
            for each in opened:
                each.close()
    return {"stream_kib": size}


EXAMPLES = """Examples:
  python benchmarks/bench_sizing.py --json
"""
PARTS = ("server and workers", "kept jobs", "streams")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="version", version="\n".join(PARTS), help="print what is measured, and end")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    as_json = parser.parse_args().json
    measured = {**of_server_and_workers(), **of_kept_jobs(), **of_streams()}
    if as_json:
        print(json.dumps(measured))
        return
    for name, value in measured.items():
        thing, _, unit = name.rpartition("_")
        print(f"{thing.replace('_', ' '):<28} {value:8.1f} {unit[0].upper()}iB")


if __name__ == "__main__":
    main()
