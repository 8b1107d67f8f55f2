"""A server that keeps no files: one whose settings say so, and the head of a cluster whatever they say."""

from __future__ import annotations

from pathlib import Path

import httpx
from api_server import StartServer, problem_of
from support.engines import ENGINE

from killable.supervisor.settings import PoolSpec

JOBS = PoolSpec(
    name="files", modules=(str(Path(__file__).parent.parent / "support" / "file_jobs.py"),), workers=2, spares=1
)


async def test_a_server_without_files_says_so(start_server: StartServer) -> None:
    async with start_server(more=(JOBS,), has_files=ENGINE == "cluster") as server:
        for method, path in (("POST", "/v1/files"), ("GET", "/v1/files"), ("DELETE", "/v1/files/x")):
            answer: httpx.Response = await server.client.request(method, path)
            problem_of(answer, 404, "files_off")
        answer = await server.client.post("/v1/jobs", json={"type": "digest", "input": {"file": "file-" + "0" * 32}})
        problem_of(answer, 404, "files_off")
        done = await server.record(await server.submit("save", name="a"), wait_s=30)
        assert done["error"]["code"] == "exception" and "of a server that keeps files" in done["error"]["message"]
