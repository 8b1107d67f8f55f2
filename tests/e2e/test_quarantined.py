"""What an operator sees while something does not go."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from support import processes
from support.cgroup_freezer import freezer
from support.killable_command import Command, Serve
from support.waiting import Pending, until


@pytest.mark.row("D15")
def test_a_quarantined_worker_is_shown_and_the_server_is_degraded_but_ready(folder: Path, serve: Serve) -> None:
    (folder / "killable.toml").write_text(
        '[server]\nport = 0\nunkillable_s = 3.0\n[pools.mine]\nmodule = "my_jobs.py"\nworkers = 2\n'
    )
    server = serve()
    http = httpx.Client(base_url=server.url, timeout=60)
    with http, freezer() as frozen:
        job_id = http.post("/v1/jobs", json={"type": "tick", "input": {}}).json()["job_id"]
        busy = until(lambda: http.get(f"/v1/jobs/{job_id}").json()["pid"], "it has a worker")
        frozen.hold(busy)
        http.post(f"/v1/jobs/{job_id}/cancel", params={"grace_s": 0})
        record = http.get(f"/v1/jobs/{job_id}").json()
        assert (record["state"], record["error"]["code"]) == ("failed", "unkillable"), record
        assert not {"tree_empty", "proof", "slot_ready"} & set(record["certificate"])
        ready = http.get("/readyz")
        assert ready.status_code == 200 and "1 of 2 slots quarantined" in ready.text
        rows = [line.split() for line in Command(folder, server.url).ok("workers").splitlines()]
        assert [row[1:3] for row in rows if str(busy) in row] == [["mine", "quarantined"]]
        other = http.post("/v1/jobs", json={"type": "greet", "input": {"name": "you"}}).json()["job_id"]
        assert http.get(f"/v1/jobs/{other}/result", params={"wait_s": 30}).status_code == 200
        code, left, err = server.stop()
        assert code == 0, err
        assert busy in [process.pid for process in left]
    until(lambda: Pending(seen) if (seen := processes.read_process(busy)) else True, "it is gone")
    for group in processes.cgroups_of(server.process.pid):
        for path in (*group.iterdir(), group):
            if path.is_dir():
                path.rmdir()
