"""schemathesis over /openapi.json, against a real server with real workers: nothing is found."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import Server, StartServer

from killable.api.http.api_keys import ApiKey
from killable.api.http.app_settings import HttpSettings
from killable.workers.authoring.limits_and_caps import NO_CAPS

KEY = ApiKey("oncall", "operate", "operate-0123456789")
LESSER = (
    ApiKey("mine", "submit", "submit-0123456789", visibility="own"),
    ApiKey("looker", "read", "read-0123456789"),
)
"""What these may not do is answered as described, too."""
EXCLUDED = "use_after_free"
"""It wants 404 after a DELETE: ours ends a job or a worker, whose record stays."""
ENDLESS = ("GET /v1/jobs/stream", "GET /v1/workers/stream")
"""Their answers go on: `test_live_jobs` and `test_live_workers` compare their events with what is described."""
ENDING = ("POST /v1/drain", "POST /v1/shutdown")
"""After them every submission is refused, so they have a run of their own."""
ADDRESSING = "GET /v1/stream-tickets"
"""It answers with addresses of what is excluded, which would be taken for those of a job and a worker `stream`."""


KEPT = Path(__file__).parents[2] / ".hypothesis"
"""As for our own properties: its tables of Unicode take seconds to make."""


@pytest.fixture
async def locked(start_server: StartServer) -> AsyncIterator[Server]:
    async with start_server(http=HttpSettings(keys=(KEY, *LESSER)), keep_jobs=200, caps=NO_CAPS) as server:
        server.client.headers["authorization"] = f"Bearer {KEY.key}"
        yield server


async def describe(server: Server, folder: Path) -> Path:
    """Write the server's description, in which a job is one that ends at once: few others would be accepted."""
    description = (await server.client.get("/openapi.json")).json()
    types = {each["name"]: each for each in (await server.client.get("/v1/job-types")).json()["job_types"]}
    schemas, echo = description["components"]["schemas"], types["echo"]["input_schema"]
    schemas["JobRequest"]["properties"] |= {"type": {"enum": ["echo"]}, "input": echo}
    schemas["OperationRequest"]["properties"] |= {"operation": {"enum": ["echo"]}, **echo["properties"]}
    schemas["OperationRequest"]["additionalProperties"] = False
    # This server sends no webhooks; which addresses are refused where one does has tests of its own.
    del schemas["JobRequest"]["properties"]["callback_url"]
    # With no time to start, and six attempts, one would go on for longer than a request is waited for.
    del schemas["LimitsRequest"]["properties"]["attempts_max"]
    post = description["paths"]["/v1/jobs"]["post"]
    # One key for many bodies is a conflict. Beside an unknown header, which is accepted, the tool takes the text of a
    # number for no number. Both have tests of their own.
    left_out = ("idempotency-key", "x-request-timeout")
    post["parameters"] = [each for each in post["parameters"] if each["name"] not in left_out]
    for stream in streams_of(description):  # the tool compares each event with the schema of a stream
        stream["schema"] = stream["schema"]["contentSchema"]["items"]
    path = folder / "openapi.json"
    path.write_text(json.dumps(description))
    return path


def streams_of(description: Any) -> Iterator[dict[str, Any]]:
    """Yield what is said of the answers that are streams of events."""
    operations = [each for path in description["paths"].values() for each in path.values() if "responses" in each]
    for operation in operations:
        for answer in operation["responses"].values():
            if "contentSchema" in (stream := answer.get("content", {}).get("text/event-stream", {})).get("schema", {}):
                yield stream


async def run(server: Server, description: Path, *arguments: str, key: ApiKey = KEY) -> None:
    """Run schemathesis's command and show what it printed, if it found anything."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", str(description)),
        *("--url", f"http://127.0.0.1:{server.port}", "--header", f"Authorization: Bearer {key.key}"),
        *("--checks", "all", "--exclude-checks", EXCLUDED, "--continue-on-failure", "--request-timeout", "30"),
        *("--no-shrink", "--warnings", "off", "--generation-database", "none"),
    ]
    process = await asyncio.create_subprocess_exec(
        *command,
        *arguments,
        cwd=description.parent,
        env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(KEPT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()


async def test_a_header_is_one_value(server: Server) -> None:
    """Generators of clients leave out routes with a list as a header, which were all that start or end a job."""
    paths = (await server.client.get("/openapi.json")).json()["paths"]
    headers = [
        (path, each["name"], each["schema"])
        for path, methods in paths.items()
        for route in methods.values()
        for each in route.get("parameters", ())
        if each["in"] == "header"
    ]
    assert any(name == "prefer" for _, name, _ in headers)
    for path, name, schema in headers:
        kinds = {each.get("type") for each in schema.get("anyOf", [schema])}
        assert kinds <= {"string", "number", "integer", "null"} and schema.get("default") != [], (path, name, schema)


@pytest.mark.row("A19")
@pytest.mark.timeout(300)
async def test_the_description_holds(locked: Server, tmp_path: Path) -> None:
    exclude = [argument for path in (*ENDING, *ENDLESS, ADDRESSING) for argument in ("--exclude-name", path)]
    await run(locked, await describe(locked, tmp_path), *exclude, "--max-examples", "5")
    jobs = (await locked.client.get("/v1/jobs?state=completed&type=echo")).json()["jobs"]
    assert jobs, "nothing of what was generated was a job"


@pytest.mark.row("A19")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("key", LESSER, ids=lambda key: key.role)
async def test_the_description_holds_for_who_may_less(key: ApiKey, locked: Server, tmp_path: Path) -> None:
    exclude = [argument for path in ENDLESS for argument in ("--exclude-name", path)]
    described = await describe(locked, tmp_path)
    await run(locked, described, *exclude, "--phases", "fuzzing", "--max-examples", "3", key=key)
    jobs = (await locked.client.get("/v1/jobs?limit=100")).json()["jobs"]
    assert bool(jobs) == (key.role == "submit")
    assert not (await locked.client.get("/v1/drain")).json()["draining"]


@pytest.mark.row("A17")
@pytest.mark.timeout(300)
async def test_the_description_of_the_end_holds(locked: Server, tmp_path: Path) -> None:
    include = [argument for path in (*ENDING, ADDRESSING) for argument in ("--include-name", path)]
    await run(locked, await describe(locked, tmp_path), *include, "--phases", "coverage,fuzzing", "--max-examples", "4")
    assert (await locked.client.get("/v1/drain")).json()["shutting_down"]
