"""`killable serve --ray` in a process of its own.

Runs in: the tests by hand, and `demo.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from ray_cluster import RayCluster, environment

STARTS = 3
JOBS = Path(__file__).parent / "cluster_jobs.py"


class RayServer:
    """A server over the nodes of a Ray cluster."""

    def __init__(
        self, ray: RayCluster, folder: Path, *, lease_s: float = 5.0, poll_s: float = 0.0, more: str = "",
        workers: str = "workers = 2\n", environ: Mapping[str, str] | None = None, journal: str = "journal",
    ) -> None:  # fmt: skip
        """`more` is put at the end of the file of settings, `environ` into the environment. Without `poll_s` it is a
        fifth of the lease.
        """
        self.folder = folder
        self._environ = environment(environ)
        self.lease_s = lease_s
        (folder / "killable.toml").write_text(
            f'[server]\njournal = "{journal}"\n'
            f'[cluster]\nray = "{ray.address}"\nlease_s = {lease_s}\npoll_s = {poll_s or lease_s / 5}\n'
            f'[pools.jobs]\nmodule = "{JOBS}"\n{workers}{more}'
        )
        self.start()

    def start(self) -> None:
        """Start it, also once more after it was killed. Again where no node has answered in time: Ray needs long for
        an actor on a busy machine.
        """
        for _ in range(STARTS):
            url, said = self._start()
            if url:
                break
            if "no answer in time" not in said:
                raise RuntimeError(said)
        else:
            raise RuntimeError(said)
        self.url = url
        self.client = httpx.Client(base_url=self.url, timeout=60, verify=False)

    def _start(self) -> tuple[str, str]:
        """Start a process; return its URL, or what it has said before it ended."""
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "killable.api.cli", "serve", "--port", "0", "--json"],
                cwd=self.folder, env=self._environ, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        assert self.process.stdout is not None
        announced = self.process.stdout.readline()  # one line; that it cannot start takes several
        if announced.startswith(b"{") and announced.rstrip().endswith(b"}"):
            return json.loads(announced)["url"], ""
        with self.process.stdout as stdout:
            said = (announced + stdout.read()).decode()
        self.process.wait()
        return "", said + self.log()

    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    def kill(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def events(self, job_id: str, after: int = -1, until: int | None = None) -> list[tuple[int, str, Any]]:
        """Return the events of a job above an id, to its end or to the id `until`."""
        found: list[tuple[int, str, Any]] = []
        headers = {"Last-Event-ID": str(after)} if after >= 0 else {}
        with self.client.stream("GET", f"/v1/jobs/{job_id}/stream", headers=headers) as lines:
            event: dict[str, str] = {}
            for line in lines.iter_lines():
                name, _, value = line.partition(": ")
                if name:
                    event[name] = value
                elif "id" in event and not line:
                    found.append((int(event["id"]), event["event"], json.loads(event["data"])))
                    event = {}
                    if found[-1][0] == until:
                        break
        return found

    def submit(
        self, type: str, *, limits: dict[str, Any] | None = None, nodes: dict[str, str] | None = None, **input: Any
    ) -> str:
        members = {"type": type, "input": input, "limits": limits or {}, "nodes": nodes or {}}
        answer = self.client.post("/v1/jobs", json=members)
        answer.raise_for_status()
        job_id: str = answer.json()["job_id"]
        return job_id

    def record(self, job_id: str) -> dict[str, Any]:
        record: dict[str, Any] = self.client.get(f"/v1/jobs/{job_id}").json()
        return record

    def nodes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.get("/v1/nodes").json()["nodes"]
        return found

    def first_token(self, job_id: str) -> Any:
        """Return the value of the first token that a job has streamed, waiting for it."""
        with self.client.stream("GET", f"/v1/jobs/{job_id}/stream") as lines:
            name = ""
            for line in lines.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: ") and name == "token":
                    data = json.loads(line.removeprefix("data: "))
                    return data.get("value", data.get("text"))
        raise RuntimeError(f"{job_id} has streamed no token: {self.record(job_id)}")

    def ended(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's end; return its record."""
        while not (record := self.record(job_id))["ended_at"]:
            self.client.get(f"/v1/jobs/{job_id}/result", params={"wait_s": 30})
        return record

    def close(self) -> None:
        self.client.close()
        self.process.terminate()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
